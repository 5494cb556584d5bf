"""How many elements of each group's channels pass through every call of a network: what some counters count.

The number of elements of an activation is affine in the widths of the groups whose channels it holds. The network is
run on channel ids, as `compress.graph.build` does to find the groups; here the ids tell whose elements each operation
reads and writes.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from compress.graph.caches import empty
from compress.graph.ids import unexpanded
from compress.graph.record import Record
from compress.graph.run import Run
from compress.graph.twin import set_training
from compress.graph.types import ChannelGraph
from compress.graph.values import Ids, Operation

PerGroup = NDArray[np.float64]  # (groups,): elements per kept channel of each group


@dataclass(frozen=True)
class Counted:
    """A layer or function that ran for one image in eval mode."""

    layer: nn.Module | None
    function: Operation | None
    read: PerGroup  # of its first argument; 0 for what is no activation
    written: PerGroup


def elements(model: nn.Module, graph: ChannelGraph, shape: tuple[int, int, int]) -> list[Counted]:
    """Every call of `model` for one image of `shape` (C, H, W), in order. `graph` is that of the model.

    Raises:
        InputError: the network cannot be followed, or cannot take such images.
    """
    run = Run(model, keep=True)
    set_training(run.twin, False)
    empty(run.twin, graph.caches)
    run(shape)
    run.found.close()
    group_of = _group_of(run.found, graph)
    widths = np.array([group.width for group in graph], dtype=np.float64)

    def per_channel(value: Any) -> PerGroup:
        if not isinstance(value, Ids):
            return np.zeros(len(graph))
        few = unexpanded(value)
        groups = group_of[few.flatten()]
        counted = np.bincount(groups[groups >= 0], minlength=len(graph))
        per_group: PerGroup = counted * (value.numel() / max(few.numel(), 1)) / widths
        return per_group

    return [
        Counted(
            model.get_submodule(seen.call.layer) if seen.operation is None else None,
            seen.operation,
            per_channel(seen.read),
            per_channel(seen.written),
        )
        for seen in run.seen or ()
    ]


def _group_of(found: Record, graph: ChannelGraph) -> NDArray[np.int64]:
    """The group of every id, -1 for those of channels that no plan cuts: (ids,)."""
    roots = found.ids.all_roots().numpy()
    of_root = np.full(len(roots), -1, dtype=np.int64)
    for at, group in enumerate(graph):
        for axis, places in group.positions.items():
            if axis in found.axes:
                of_root[roots[found.axes[axis][places.flatten()].numpy()]] = at
    result: NDArray[np.int64] = of_root[roots]
    return result
