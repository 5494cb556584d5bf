"""Training: the loop, its learning rate, the loss that it minimises, the memory format."""
