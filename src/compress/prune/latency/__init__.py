"""Latency as a budget: layers measured at their widths, and the time of any widths predicted from that."""
