"""Who proposes the next candidate (the agent), and what a candidate is worth (the scorers)."""
