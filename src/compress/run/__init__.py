"""One run: its job, its stages, the cache of their results, and the sweep that it may be part of."""
