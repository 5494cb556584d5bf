"""Files: atomic writes, JSON, tensors, locks, names of what a run leaves, digests of code; seeds."""
