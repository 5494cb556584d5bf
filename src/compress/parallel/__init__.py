"""One training in several processes: ranks, process groups, helper processes, DDP."""
