"""Search by a reinforcement learning agent, which walks the groups and sets one width after the other."""
