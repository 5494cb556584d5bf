"""What a run would do, without doing it: `compress plan`."""
