"""Criteria: how much each channel of a group matters, one file for each choice of `criterion=`."""
