"""What a network is to pruning: groups of coupled channels, and plans that say which of them stay."""
