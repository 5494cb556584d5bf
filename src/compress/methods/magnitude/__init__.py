"""Magnitude pruning: single weights below a threshold go, at once or in steps."""
