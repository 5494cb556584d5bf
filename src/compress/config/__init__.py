"""From a command line to objects: overrides, checks, error messages, sweeps, `build`. No Hydra below this package."""
