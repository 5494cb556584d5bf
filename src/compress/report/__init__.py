"""What people read of runs: `compress compare`, tables, figures, TensorBoard."""
