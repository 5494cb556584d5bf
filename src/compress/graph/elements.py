"""How many elements of each group's channels pass through every call of a network: what some counters count.

The number of elements of an activation is affine in the widths of the groups whose channels it holds. The network is
run on channel ids, as `compress.graph.build` does to find the groups; here the ids tell whose elements each operation
reads and writes.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import fx, nn

from compress.graph.build import traced
from compress.graph.deepcopy import copy_sharing_tensors
from compress.graph.ids import is_ids, unexpanded
from compress.graph.tracing import IdInterpreter, IdRecord
from compress.graph.types import ChannelGraph

PerGroup = NDArray[np.float64]  # (groups,): elements per kept channel of each group


@dataclass(frozen=True)
class Call:
    """A module or function that ran for one image in eval mode."""

    called: nn.Module | Callable[..., Any] | str  # a method of a tensor is its name
    arguments: tuple[Any, ...]  # of a function: as in the graph of torch.fx
    named: dict[str, Any]
    read: PerGroup  # of its first argument; 0 for what is no activation
    written: PerGroup


@dataclass(frozen=True)
class _Seen:
    node: fx.Node
    read: Any
    written: Any


class _Watched(IdInterpreter):
    """Keeps the activations, on channel ids, that every call reads and writes."""

    def __init__(self, model: nn.Module, calls: fx.GraphModule, found: IdRecord) -> None:
        super().__init__(model, calls, found, counted=True)
        self.seen: list[_Seen] = []

    def run_node(self, n: fx.Node) -> Any:
        read = self.env.get(n.args[0]) if n.args and isinstance(n.args[0], fx.Node) else None
        written = super().run_node(n)
        if n.op in ("call_module", "call_function", "call_method"):
            self.seen.append(_Seen(n, read, written))
        return written


def elements(model: nn.Module, graph: ChannelGraph, shape: tuple[int, int, int]) -> list[Call]:
    """Every call of `model` for one image of `shape` (C, H, W), in order. `graph` is that of the model.

    Raises:
        InputError: the network cannot be traced, or cannot take such images.
    """
    twin = copy_sharing_tensors(model).eval()
    calls, found = traced(twin), IdRecord(model)
    run = _Watched(twin, calls, found)
    images = torch.zeros(1, dtype=torch.int64).expand(1, *shape)
    defaults = [node.args[0] for node in calls.graph.nodes if node.op == "placeholder" and node.args]
    with torch.no_grad():
        run.run(images, *defaults)
    group_of = _group_of(found, graph)
    widths = np.array([group.width for group in graph], dtype=np.float64)

    def per_channel(value: Any) -> PerGroup:
        if not is_ids(value):
            return np.zeros(len(graph))
        few = unexpanded(value)
        groups = group_of[few.flatten()]
        counted = np.bincount(groups[groups >= 0], minlength=len(graph))
        per_group: PerGroup = counted * (value.numel() / max(few.numel(), 1)) / widths
        return per_group

    found_modules = dict(model.named_modules())
    return [
        Call(
            found_modules[str(seen.node.target)] if seen.node.op == "call_module" else seen.node.target,
            seen.node.args,
            seen.node.kwargs,
            per_channel(seen.read),
            per_channel(seen.written),
        )
        for seen in run.seen
    ]


def _group_of(found: IdRecord, graph: ChannelGraph) -> NDArray[np.int64]:
    """The group of every id, -1 for those of channels that no plan cuts: (ids,)."""
    roots = found.ids.all_roots().numpy()
    of_root = np.full(len(roots), -1, dtype=np.int64)
    for at, group in enumerate(graph):
        for axis, places in group.positions.items():
            if axis in found.axes:
                of_root[roots[found.axes[axis][places.flatten()].numpy()]] = at
    result: NDArray[np.int64] = of_root[roots]
    return result
