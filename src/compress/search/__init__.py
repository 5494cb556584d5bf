"""Searches (who proposes the next candidate) and scorers (what a candidate is worth)."""
