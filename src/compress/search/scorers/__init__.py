"""Scorers: what a candidate is worth before fine-tuning, on held-out images."""
