"""Cropping: the part of a tensor that is left where every group keeps its first channels.

The layers of a network tell which channels they read by their order, so the first `width` channels of a group are
not always the first places of an axis: behind a concatenation they are the first of each part. Where they are the
first places, which is nearly always, a crop is a view (`narrow`).
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from compress.graph.types import Axis, ChannelGraph

Widths = tuple[int, ...]  # one per group, in the order of the graph; each in [1, full width]
Places = int | Tensor  # kept places of an axis: the first so many, or int64 (kept,) ascending
MOST_KEPT = 1000  # remembered places; one of 25,088, as of VGG's first linear layer, is 200 kB


def check_widths(graph: ChannelGraph, widths: Sequence[int]) -> Widths:
    """
    Raises:
        ValueError: not one width per group, or one that is not in [1, full width].
    """
    if len(widths) != len(graph):
        raise ValueError(f"widths: must be {len(graph)}, one per group, got {len(widths)}")
    for group, width in zip(graph, widths, strict=True):
        if not 1 <= width <= group.width:
            raise ValueError(f"width of {group.name}: must be in [1, {group.width}], got {width}")
    return tuple(map(int, widths))


def kept_places(length: int, dropped: Sequence[NDArray[np.int64]], device: torch.device) -> Places:
    """What stays of the places 0 ... length - 1 of an axis; an int if it is the first ones."""
    stays = np.ones(length, dtype=bool)
    for places in dropped:
        stays[places.ravel()] = False
    kept = np.flatnonzero(stays)
    if not len(kept) or kept[-1] == len(kept) - 1:
        return len(kept)
    with torch.inference_mode(False):  # of a caller: the places are kept for trainings too
        return torch.from_numpy(kept).to(device, non_blocking=True)


def cropped(tensor: Tensor, dim: int, places: Places) -> Tensor:
    """A view if the places are the first ones."""
    if isinstance(places, Tensor):
        return tensor.index_select(dim, places)
    return tensor if places == tensor.shape[dim] else tensor.narrow(dim, 0, places)


class _Part(NamedTuple):
    """One group's channels on one axis."""

    group: int  # index in the graph
    positions: NDArray[np.int64]  # (width, m)


class Crops:
    """Crops of the tensors of one network, by their names in it; the places are remembered."""

    def __init__(self, graph: ChannelGraph) -> None:
        self.graph = graph
        self.full_widths: Widths = tuple(group.width for group in graph)
        self._parts: dict[Axis, list[_Part]] = {}
        for index, group in enumerate(graph):
            for axis, positions in group.positions.items():
                self._parts.setdefault(axis, []).append(_Part(index, positions.numpy()))
        self._dims: dict[str, list[int]] = {}
        for axis in self._parts:
            self._dims.setdefault(axis.tensor, []).append(axis.dim)
        self._kept: dict[tuple[Axis, Widths, torch.device], Places] = {}

    def __call__(self, name: str, tensor: Tensor, widths: Widths) -> Tensor:
        """The part of a tensor, given at full shape, that is left at these widths."""
        for dim in self._dims.get(name, ()):
            tensor = cropped(tensor, dim, self.places(Axis(name, dim), tensor.shape[dim], widths, tensor.device))
        return tensor

    @property
    def names(self) -> frozenset[str]:
        """Names of what is on an axis of a group: tensors, and integer attributes such as `ChannelPad.before`."""
        return frozenset(self._dims)

    def groups(self, name: str, dim: int) -> tuple[int, ...]:
        """Indices in the graph of the groups on one dimension of a tensor, ascending."""
        return tuple(part.group for part in self._parts.get(Axis(name, dim), ()))

    def dropped(self, name: str, widths: Widths) -> int:
        """How many channels these widths take from an integer attribute."""
        return sum(part.positions[widths[part.group] :].size for part in self._parts[Axis(name, 0)])

    def places(self, axis: Axis, length: int, widths: Widths, device: torch.device) -> Places:
        """What stays of an axis, of `length` places at full width."""
        parts = self._parts.get(axis, [])
        key = axis, tuple(widths[part.group] for part in parts), device
        found = self._kept.get(key)
        if found is None:
            found = kept_places(length, [part.positions[widths[part.group] :] for part in parts], device)
            if len(self._kept) >= MOST_KEPT:
                del self._kept[next(iter(self._kept))]
            self._kept[key] = found
        return found
