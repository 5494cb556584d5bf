"""Training: the epoch loop, the learning rate schedule, the objective (loss terms), the memory format."""
