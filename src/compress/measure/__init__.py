"""What a network costs and is worth: MACs, parameters, latency, accuracy."""
