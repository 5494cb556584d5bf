"""From a command line to objects: overrides, checks, diagnosis of mistakes, sweeps, `build`; Hydra ends here."""
