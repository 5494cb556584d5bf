"""Whether a network still depends on its images when some of its layers give nothing but a constant."""

import operator
from collections.abc import Collection
from typing import Any, NamedTuple

import torch
from torch import fx

SUMS: frozenset[Any] = frozenset({
    operator.add, operator.iadd, operator.sub, operator.isub, torch.add, torch.sub, torch.cat, torch.concat,
    "add", "add_", "sub", "sub_",
})  # fmt: skip
CONSTANT, ALIVE, SILENT = range(3)  # of parameters alone; of the images; would be of the images


class Step(NamedTuple):
    """One call of a forward."""

    layer: str  # the module that is called, or ""
    inputs: tuple[int, ...]  # the earlier steps whose results it takes
    adds: bool  # a sum or concatenation, to which a constant does no harm
    is_images: bool


Flow = tuple[Step, ...]  # in order of execution; the last is what the network returns


def flow_of(run: fx.Graph) -> Flow:
    at = {node: i for i, node in enumerate(run.nodes)}
    images = next(node for node in run.nodes if node.op == "placeholder")
    return tuple(
        Step(
            str(node.target) if node.op == "call_module" else "",
            tuple(at[given] for given in node.all_input_nodes),
            node.op.startswith("call") and node.target in SUMS,
            node is images,
        )
        for node in run.nodes
    )


def what_is_lost(flow: Flow, silent: Collection[str]) -> str | None:
    """Why the layers of `silent` may not give a constant, or None where all that the network returns lives on.

    A constant may be added to what depends on the images, and pass by itself through anything. Where the two meet in
    another way (a gate, a scale), the constant could be a factor of zero: refused.
    """
    states: list[int] = []
    for step in flow:
        met = {states[i] for i in step.inputs} - {CONSTANT}
        if step.is_images:
            states.append(ALIVE)
        elif step.layer in silent:
            states.append(SILENT)
        elif met == {ALIVE, SILENT} and not step.adds:
            return "without which a constant would meet other channels in another way than a sum"
        else:
            states.append(ALIVE if ALIVE in met else max(met, default=CONSTANT))
    return None if states[-1] == ALIVE else "without which the output would not depend on the images"
