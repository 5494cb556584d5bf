"""One training in several processes: ranks, process groups, shares of a batch."""
