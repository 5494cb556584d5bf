"""What a candidate is worth before fine-tuning: cut, refitted, evaluated on held-out images."""
