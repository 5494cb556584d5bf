"""Files: atomic writes, JSON, tensors, locks, names of the files of a run, digests of code; seeds."""
