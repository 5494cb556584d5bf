"""One network that holds all narrower ones: weights for any widths, and how they are trained."""
