"""Channel ids: a union-find (disjoint-set forest) of them, and tensors that hold them.

The channel graph runs a network on ids instead of activations. Such a tensor is int64 and has the activation's shape;
usually every channel has one id, expanded over the other dimensions with stride 0, which takes no memory.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

FROZEN = 0  # the id of the set of all channels that cannot be cut


class Sets(NamedTuple):
    """What a `ChannelIds` knows, to go back to."""

    parent: Tensor
    why: Tensor


class ChannelIds:
    """A union-find of channel ids: two channels are coupled when their ids have the same root, the smallest id of
    their set. Id 0 is frozen."""

    def __init__(self) -> None:
        self._parent = torch.zeros(1, dtype=torch.int64)  # (ids,)
        self._why = torch.zeros(1, dtype=torch.int64)  # (ids,): the place of the reason why an id is frozen, or 0
        self._reasons = ["is united with channels that cannot be cut"]

    def fresh(self, count: int) -> Tensor:
        """New ids, each a set of its own: (count,)."""
        start = len(self._parent)
        ids = torch.arange(start, start + count)
        self._parent = torch.cat([self._parent, ids])
        self._why = torch.cat([self._why, ids.new_zeros(count)])
        return ids

    def roots(self, ids: Tensor) -> Tensor:
        """The root of every id: any shape -> the same shape. Later look-ups of these ids are one step."""
        few = unexpanded(ids)
        above = self._parent[few]
        if torch.equal(above, few):
            return ids
        while not torch.equal(above, further := self._parent[above]):
            above = further
        self._parent[few] = above
        return above.expand(ids.shape)

    def all_roots(self) -> Tensor:
        """The root of every id: (ids,)."""
        return self.roots(torch.arange(len(self._parent)))

    def union(self, a: Tensor, b: Tensor) -> None:
        """Merge the sets of `a` and `b` element by element, after broadcasting; the smaller root stays a root."""
        a, b = self.roots(unexpanded(a)), self.roots(unexpanded(b))
        if a is b or torch.equal(a, b):
            return
        a, b = (ids.flatten() for ids in torch.broadcast_tensors(a, b))
        while not torch.equal(a, b):
            self._parent.scatter_reduce_(0, torch.maximum(a, b), torch.minimum(a, b), "amin")
            a, b = self.roots(a), self.roots(b)

    def freeze(self, ids: Tensor, reason: str) -> None:
        """Merge the sets of these ids into the frozen one."""
        roots = self.roots(unexpanded(ids)).flatten()
        roots = roots[roots != FROZEN]
        if not len(roots):
            return
        now = torch.zeros(len(self._parent), dtype=torch.bool)
        now[roots] = True
        self._why[now[self.all_roots()]] = len(self._reasons)
        self._reasons.append(reason)
        self._parent[roots] = FROZEN

    def is_frozen(self, ids: Tensor) -> bool:
        """Whether all of these ids are."""
        return not bool(self.roots(unexpanded(ids)).any())

    def reason(self, ids: Tensor) -> str | None:
        """Why the first frozen one of these ids is frozen; None if none is."""
        frozen = ids[self.roots(ids) == FROZEN]
        told = self._why[frozen]
        told = told[told > 0]
        return None if not len(frozen) else self._reasons[int(told[0]) if len(told) else 0]

    def snapshot(self) -> Sets:
        return Sets(self._parent.clone(), self._why.clone())

    def restore(self, sets: Sets) -> None:
        """Undo all unions and freezing since the snapshot; ids issued since then become sets of their own."""
        before = len(sets.parent)
        self._parent = torch.cat([sets.parent, torch.arange(before, len(self._parent))])
        self._why = torch.cat([sets.why, sets.why.new_zeros(len(self._parent) - before)])


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


def spread(channels: Tensor, shape: Sequence[int], dim: int = 1) -> Tensor:
    """Ids (C,) expanded to an activation of this shape, whose dimension `dim` is the one of channels."""
    dim %= len(shape)
    return channels.view([-1 if at == dim else 1 for at in range(len(shape))]).expand(tuple(shape))


def extents(shape: Sequence[int]) -> list[tuple[int, int]]:
    """For each dimension of a contiguous tensor its stride, and its stride times its size, in elements."""
    found, step = [], 1
    for size in reversed(shape):
        found.append((step, step * size))
        step *= size
    return found[::-1]
