"""Reinforcement learning on vectors: DDPG, its replay memory, exploration noise."""
