"""Network slimming: L1 on batch norm scales, then one threshold for all channels."""
