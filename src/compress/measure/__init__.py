"""Measuring a network: MACs, parameters, latency, accuracy."""
