"""Runs as they lie on disk: finding folders, reading summaries, metrics and plans."""
