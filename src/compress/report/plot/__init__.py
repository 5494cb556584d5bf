"""Figures: of one run at its end, and of several beside each other."""
