"""What people and machines look at, made from a run directory and nothing else."""
