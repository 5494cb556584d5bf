"""Seeds by purpose: every stage, epoch and episode seeds its own generator, so that a resumed run need not restore
the state of any generator."""

import hashlib


def derive_seed(*parts: object) -> int:
    """A seed in [0, 2**48), a hash of `parts`, such as (run seed, "episode", 7). Parts need a stable `repr`."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:6], "big")
