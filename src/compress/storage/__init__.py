"""What lies under outputs/, what refers to what, and the removal of the rest: `compress ls`, `compress clean`."""
