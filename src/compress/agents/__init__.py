"""Reinforcement learning, vectors in and actions out: DDPG, its replay memory, exploration noise."""
