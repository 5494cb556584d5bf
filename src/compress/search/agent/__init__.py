"""Search by a reinforcement learning agent that walks the layers and sets one width after the other."""
