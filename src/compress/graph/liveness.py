"""Liveness: does a network's output still depend on its images when some of its layers output only a constant?

A layer whose input channels are all cut is *dead*: it outputs zeros and its bias, whatever the image.
"""

import operator
from collections.abc import Collection
from typing import Any, NamedTuple

import torch
from torch import fx

SUMS: frozenset[Any] = frozenset({
    operator.add, operator.iadd, operator.sub, operator.isub, torch.add, torch.sub, torch.cat, torch.concat,
    "add", "add_", "sub", "sub_",
})  # fmt: skip
CONSTANT, LIVE, DEAD = range(3)  # computed from parameters only; from the images; from dead layers, not from images


class Call(NamedTuple):
    """One node of the traced forward."""

    layer: str  # the module that is called, or ""
    inputs: tuple[int, ...]  # positions of the earlier calls whose results it takes
    is_sum: bool  # a sum or concatenation: a constant operand does no harm
    is_images: bool


Calls = tuple[Call, ...]  # in order of execution; the last one is what the network returns


def calls_of(trace: fx.Graph) -> Calls:
    at = {node: i for i, node in enumerate(trace.nodes)}
    images = next(node for node in trace.nodes if node.op == "placeholder")
    return tuple(
        Call(
            str(node.target) if node.op == "call_module" else "",
            tuple(at[given] for given in node.all_input_nodes),
            node.op.startswith("call") and node.target in SUMS,
            node is images,
        )
        for node in trace.nodes
    )


def liveness_error(calls: Calls, dead_layers: Collection[str]) -> str | None:
    """Why these layers may not all be dead, as a relative clause; None where the output stays live.

    A dead value may be added to a live one, and may pass through anything by itself. Where the two meet in another
    operation (a gate, a scale), the constant could be a factor of zero: refused.
    """
    states: list[int] = []
    for call in calls:
        inputs = {states[i] for i in call.inputs} - {CONSTANT}
        if call.is_images:
            states.append(LIVE)
        elif call.layer in dead_layers:
            states.append(DEAD)
        elif inputs == {LIVE, DEAD} and not call.is_sum:
            return "without which a constant would meet other channels in another way than a sum"
        else:
            states.append(LIVE if LIVE in inputs else max(inputs, default=CONSTANT))
    return None if states[-1] == LIVE else "without which the output would not depend on the images"
