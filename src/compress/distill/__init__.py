"""Knowledge distillation: losses between student and teacher, and where a teacher comes from."""
