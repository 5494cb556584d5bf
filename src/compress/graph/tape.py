"""The tape of a run: every call that a network made for one image, in order."""

from typing import NamedTuple

IMAGES, OUTPUT = "images", "output"  # operations that are none: where a tape begins and ends


class Call(NamedTuple):
    """A layer that was called, a function, or a size that was read."""

    op: str  # the function's name; "" for a layer
    layer: str  # the layer's name; "" for a function
    inputs: tuple[int, ...]  # places on the tape of the calls whose results it takes
    reads: tuple[str, ...] = ()  # modules whose tensors a function takes

    @property
    def name(self) -> str:
        return self.layer or self.op


Tape = tuple[Call, ...]


def users(tape: Tape) -> list[list[int]]:
    """For each call the places of those that take its result."""
    found: list[list[int]] = [[] for _ in tape]
    for at, call in enumerate(tape):
        for before in dict.fromkeys(call.inputs):
            found[before].append(at)
    return found
