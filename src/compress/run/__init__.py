"""One run: its job, its stages, the cache of their results, its processes, and the sweep that it may belong to."""
