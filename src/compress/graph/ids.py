"""Channel numbers with union-find, and tensors of them.

An activation on numbers is an int64 tensor of the activation's shape; usually one number per channel, expanded in
space without memory.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

FROZEN = 0  # the number of all channels that nothing may cut
INDEX = torch.int32  # stands for a whole-number buffer of the network, which is no activation


class Numbers:
    """Channel numbers with union-find; number 0 is the frozen one."""

    def __init__(self) -> None:
        self._parent = [FROZEN]
        self._why: dict[int, str] = {}

    def fresh(self, count: int) -> Tensor:
        start = len(self._parent)
        self._parent.extend(range(start, start + count))
        return torch.arange(start, start + count)

    def root(self, number: int) -> int:
        parent = self._parent
        while parent[number] != number:
            parent[number] = parent[parent[number]]
            number = parent[number]
        return number

    def roots(self, numbers: Tensor) -> Tensor:
        parent = torch.tensor(self._parent)
        while not torch.equal(parent, above := parent[parent]):
            parent = above
        return parent[numbers]

    def unite(self, a: Tensor, b: Tensor) -> None:
        """Element by element, after broadcasting."""
        a, b = torch.broadcast_tensors(a, b)
        differ = a != b
        count = len(self._parent)
        pairs = (a[differ] * count + b[differ]).unique()  # of one number each: sorted far faster than pairs are
        for left, right in zip((pairs // count).tolist(), (pairs % count).tolist(), strict=True):
            x, y = self.root(left), self.root(right)
            if x != y:
                self._parent[max(x, y)] = min(x, y)

    def freeze(self, numbers: Tensor, why: str) -> None:
        for number in compact(numbers).unique().tolist():
            root = self.root(number)
            if root != FROZEN:
                self._why.setdefault(number, why)
                self._parent[root] = FROZEN

    def why(self, numbers: Tensor) -> str | None:
        """Why a frozen channel of these is frozen."""
        frozen = [number for number in numbers.flatten().tolist() if self.root(number) == FROZEN]
        reasons = (self._why[number] for number in frozen if number in self._why)
        return next(reasons, "is united with channels that cannot be cut" if frozen else None)


def compact(numbers: Tensor) -> Tensor:
    """Broadcast dimensions narrowed to one: most activations hold one number per channel, expanded in space."""
    for dim, stride in enumerate(numbers.stride()):
        if stride == 0 and numbers.shape[dim] > 1:
            numbers = numbers.narrow(dim, 0, 1)
    return numbers


def varying(numbers: Tensor) -> list[int]:
    """Dimensions along which the numbers change."""
    few = compact(numbers)
    return [dim for dim, size in enumerate(few.shape) if size > 1 and not bool((few == few.narrow(dim, 0, 1)).all())]


def line(numbers: Tensor, dim: int) -> Tensor:
    """The numbers along one dimension, at the first place of the others: (C,)."""
    for other in range(numbers.dim()):
        if other != dim:
            numbers = numbers.narrow(other, 0, 1)
    return numbers.flatten()


def is_numbers(value: Any) -> bool:
    return isinstance(value, Tensor) and value.dtype == torch.int64 and value.dim() > 0


def _bounds(shape: Sequence[int]) -> list[tuple[int, int]]:
    """Elements per step and per whole of each dimension, from the last: what lies in memory between them."""
    bounds, step = [], 1
    for size in reversed(shape):
        bounds.append((step, step * size))
        step *= size
    return bounds[::-1]


def home(shape: Sequence[int], out: Sequence[int], dim: int) -> int | None:
    """The dimension of `out` that holds all of dimension `dim` of `shape`, or None if it is split."""
    low, high = _bounds(shape)[dim]
    for other, (start, end) in enumerate(_bounds(out)):
        if start <= low and high <= end:
            return other
    return None
