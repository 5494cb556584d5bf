"""Random numbers by purpose: what is random in a stage, an epoch or an episode comes from a seed of its own, so that
a resumed run needs no generator state."""

import hashlib


def derive_seed(*parts: object) -> int:
    """A seed for one purpose: the same words and numbers, the same seed."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:6], "big")
