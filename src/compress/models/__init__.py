"""The networks of the zoo, and how a network is described, built and given weights."""
