"""Knowledge distillation: the objective with a teacher, its loss terms, and where a teacher comes from."""
