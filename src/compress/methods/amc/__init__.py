"""AMC and conditional AMC: a DDPG agent chooses channel ratios under a budget of MACs."""
