"""The networks of the zoo, and how a network is named, built and given weights."""
