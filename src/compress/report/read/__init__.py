"""Runs as they lie on disk: finding their folders, reading summaries, settings, metrics and plans."""
