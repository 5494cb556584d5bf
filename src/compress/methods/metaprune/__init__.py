"""metaprune and supernet: a network for all widths is trained, searched, and the winner trained from scratch."""
