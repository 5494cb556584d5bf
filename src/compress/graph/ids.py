"""Channel ids: a union-find (disjoint-set forest) of them, and tensors that hold them.

The channel graph runs a network on ids instead of activations. Such a tensor is int64 and has the activation's shape;
usually every channel has one id, expanded over the other dimensions with stride 0, which takes no memory.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

FROZEN = 0  # the id of the set of all channels that cannot be cut
INTEGER_STAND_IN = torch.int32  # stands for the dtype of an integer tensor of the network: data, not channel ids


class ChannelIds:
    """A union-find of channel ids: two channels are coupled when their ids have the same root. Id 0 is frozen."""

    def __init__(self) -> None:
        self._parent = [FROZEN]
        self._reasons: dict[int, str] = {}  # id -> why it was frozen

    def fresh(self, count: int) -> Tensor:
        """New ids, each a set of its own: (count,)."""
        start = len(self._parent)
        self._parent.extend(range(start, start + count))
        return torch.arange(start, start + count)

    def find(self, channel: int) -> int:
        """The root of an id, with path halving."""
        parent = self._parent
        while parent[channel] != channel:
            parent[channel] = parent[parent[channel]]
            channel = parent[channel]
        return channel

    def find_all(self, ids: Tensor) -> Tensor:
        """The roots of many ids: any shape -> the same shape."""
        return self.all_roots()[ids]

    def all_roots(self) -> Tensor:
        """The root of every id: (ids,)."""
        parent = torch.tensor(self._parent)
        while not torch.equal(parent, above := parent[parent]):
            parent = above
        return parent

    def union(self, a: Tensor, b: Tensor) -> None:
        """Merge the sets of `a` and `b` element by element, after broadcasting; the smaller root stays a root."""
        a, b = torch.broadcast_tensors(a, b)
        differ = a != b
        count = len(self._parent)
        pairs = (a[differ] * count + b[differ]).unique()  # each pair coded as one integer: faster to sort than pairs
        for left, right in zip((pairs // count).tolist(), (pairs % count).tolist(), strict=True):
            x, y = self.find(left), self.find(right)
            if x != y:
                self._parent[max(x, y)] = min(x, y)

    def freeze(self, ids: Tensor, reason: str) -> None:
        """Merge the sets of these ids into the frozen one."""
        for channel in unexpanded(ids).unique().tolist():
            root = self.find(channel)
            if root != FROZEN:
                self._reasons.setdefault(channel, reason)
                self._parent[root] = FROZEN

    def reason(self, ids: Tensor) -> str | None:
        """Why the first frozen one of these ids is frozen; None if none is."""
        frozen = [channel for channel in ids.flatten().tolist() if self.find(channel) == FROZEN]
        reasons = (self._reasons[channel] for channel in frozen if channel in self._reasons)
        return next(reasons, "is united with channels that cannot be cut" if frozen else None)


def unexpanded(ids: Tensor) -> Tensor:
    """`expand` undone: dimensions of stride 0 narrowed to size one, so that few elements are left to look at."""
    for dim, stride in enumerate(ids.stride()):
        if stride == 0 and ids.shape[dim] > 1:
            ids = ids.narrow(dim, 0, 1)
    return ids


def channel_dims(ids: Tensor) -> list[int]:
    """Dimensions along which the ids change: those that channels lie on."""
    few = unexpanded(ids)
    return [dim for dim, size in enumerate(few.shape) if size > 1 and not bool((few == few.narrow(dim, 0, 1)).all())]


def ids_along(ids: Tensor, dim: int) -> Tensor:
    """The ids along one dimension, at index 0 of all others: (C,)."""
    for other in range(ids.dim()):
        if other != dim:
            ids = ids.narrow(other, 0, 1)
    return ids.flatten()


def is_ids(value: Any) -> bool:
    """Whether a value of the run is an activation on channel ids."""
    return isinstance(value, Tensor) and value.dtype == torch.int64 and value.dim() > 0


def _strides(shape: Sequence[int]) -> list[tuple[int, int]]:
    """For each dimension of a contiguous tensor its stride, and its stride times its size, in elements."""
    strides, step = [], 1
    for size in reversed(shape):
        strides.append((step, step * size))
        step *= size
    return strides[::-1]


def reshaped_dim(shape: Sequence[int], out: Sequence[int], dim: int) -> int | None:
    """Where dimension `dim` of `shape` is after a reshape to `out`: the one that contains it whole, None if split.

    It is contained if its range of strides is: (2, 6, 5) to (2, 30) has 6 in dimension 1; to (4, 15) it is split.
    """
    low, high = _strides(shape)[dim]
    for other, (start, end) in enumerate(_strides(out)):
        if start <= low and high <= end:
            return other
    return None
