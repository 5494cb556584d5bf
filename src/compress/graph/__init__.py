"""The channel graph: groups of coupled channels of a network, and plans that say which channels are kept."""
