"""sensitivity: a table of what the network loses with one group cut at a time, then widths for any budget from it."""
