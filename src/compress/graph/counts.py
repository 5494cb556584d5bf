"""Sizes that know their channels: integers that a network computes with and that are numbers of channels.

A size read from an activation (`b, c, h, w = x.shape`) changes when channels are cut, and so does an integer
attribute of a module that is used as such a size (`self.heads`), since a cut lowers it. A `Count` is an int that
remembers which channels it counts. Arithmetic on it stays exact by uniting channels: `c // 2` ties channel j of
both halves, so that the quotient is the number of channels of a half after any cut. What cannot be kept exact gives
a plain int and freezes the channels: their number must not change then.
"""

import math
import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from compress.graph.ids import ChannelIds

COMPUTED = "their number is computed with, and a cut would change it"


class Count(int):
    """`factor` times the number of these channels. Its methods are called by the network's own code."""

    sets: ChannelIds
    factor: int
    _issue: Callable[[], Tensor]

    @classmethod
    def of(cls, sets: ChannelIds, channels: Tensor, factor: int = 1) -> "Count":
        return cls.later(sets, lambda: channels, len(channels) * factor, factor)

    @classmethod
    def later(cls, sets: ChannelIds, issue: Callable[[], Tensor], value: int, factor: int = 1) -> "Count":
        """A count whose channels get their ids when they are first asked for."""
        self = cls(value)
        self.sets, self._issue, self.factor = sets, issue, factor
        return self

    @property
    def ids(self) -> Tensor:
        """Ids of the channels, (value / factor,)."""
        return self._issue()

    @property
    def all_ids(self) -> Tensor:
        """Ids of what it counts, with repetition: (value,)."""
        return self.ids.repeat(self.factor)

    def freeze(self, why: str = COMPUTED) -> int:
        """Freeze the channels; their number as a plain int."""
        with torch._C.DisableTorchFunction():
            self.sets.freeze(self.ids, why)
        return int.__index__(self)

    def counts(self, channels: Tensor) -> bool:
        """Whether it is the number of these channels (n,), after any cut too. Where it counts others, equally many,
        the two are united; as many of the same channels in another order are right without that."""
        if len(channels) != int.__index__(self):
            return False
        mine, theirs = self.sets.roots(self.all_ids), self.sets.roots(channels)
        if not torch.equal(mine.sort().values, theirs.sort().values):
            self.sets.union(mine, theirs)
        return True

    # -- arithmetic that stays exact ---------------------------------------------------------------------------

    def __mul__(self, other: Any) -> Any:
        with torch._C.DisableTorchFunction():
            if isinstance(other, Count):  # linear in one of the two
                mine, fixed = (other, self) if self.sets.is_frozen(self.ids) else (self, other)
                return mine * fixed.freeze()
            if type(other) is int and other >= 1:
                return Count.later(self.sets, self._issue, int.__mul__(self, other), self.factor * other)
            return NotImplemented if not isinstance(other, int | float) else self.freeze() * other

    __rmul__ = __mul__

    def __floordiv__(self, other: Any) -> Any:
        with torch._C.DisableTorchFunction():
            if isinstance(other, Count):
                return self._per_channel_of(other)
            if type(other) is not int or other < 1:
                return NotImplemented if not isinstance(other, int | float) else self.freeze() // other
            shared = math.gcd(self.factor, other)
            factor, parts = self.factor // shared, other // shared
            ids = self.ids
            if len(ids) % parts:
                return self.freeze() // other
            if parts == 1:
                return Count.later(self.sets, self._issue, int.__floordiv__(self, other), factor)
            halves = ids.view(parts, -1)
            self.sets.union(halves, halves[:1])
            return Count.of(self.sets, halves[0], factor)

    def _per_channel_of(self, other: "Count") -> int:
        """The quotient of two counts: a plain number, the same after any cut, once the channels are united."""
        ids, of = self.ids, other.ids
        if self.factor != 1 or other.factor != 1 or len(ids) % len(of):
            return self.freeze() // other.freeze()
        self.sets.union(ids.view(len(of), -1), of[:, None])
        return len(ids) // len(of)

    def __add__(self, other: Any) -> Any:
        with torch._C.DisableTorchFunction():
            if isinstance(other, Count):
                return Count.of(self.sets, torch.cat([self.all_ids, other.all_ids]))
            if type(other) is int and other == 0:
                return self
            return NotImplemented if not isinstance(other, int | float) else self.freeze() + other

    __radd__ = __add__

    def __eq__(self, other: object) -> bool:
        with torch._C.DisableTorchFunction():
            if not isinstance(other, int | float):
                return False
            if isinstance(other, Count) and int.__eq__(self, other):
                return self.counts(other.all_ids)
            mine = self.freeze()
            return mine == (other.freeze() if isinstance(other, Count) else other)

    def __ne__(self, other: object) -> bool:
        return not self == other

    __hash__ = int.__hash__


def _fixed(function: Callable[..., Any]) -> Callable[..., Any]:
    """An operation whose result a cut would falsify: on plain ints, with the channels frozen."""

    def method(self: Count, *others: Any) -> Any:
        if others and not isinstance(others[0], int | float):
            return NotImplemented
        return function(*(value.freeze() if isinstance(value, Count) else value for value in (self, *others)))

    return method


def _reflected(function: Callable[..., Any]) -> Callable[..., Any]:
    return lambda a, b: function(b, a)


for _name in ("sub", "truediv", "mod", "pow"):
    setattr(Count, f"__{_name}__", _fixed(getattr(operator, _name)))
    setattr(Count, f"__r{_name}__", _fixed(_reflected(getattr(operator, _name))))
for _name in ("lt", "le", "gt", "ge", "neg", "abs", "and_", "or_", "lshift", "rshift"):
    setattr(Count, f"__{_name.rstrip('_')}__", _fixed(getattr(operator, _name)))
_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "int": int, "float": float, "round": round, "rfloordiv": _reflected(operator.floordiv), "divmod": divmod,
    "trunc": math.trunc, "ceil": math.ceil, "floor": math.floor,
}  # fmt: skip
for _name, _function in _FUNCTIONS.items():
    setattr(Count, f"__{_name}__", _fixed(_function))


def plain(value: Any) -> Any:
    """The same structure with plain ints in place of counts; nothing is frozen."""
    if isinstance(value, Count):
        return int.__index__(value)
    if type(value) in (tuple, list, torch.Size):
        return (tuple if type(value) is torch.Size else type(value))(plain(item) for item in value)
    if type(value) is dict:
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, slice):
        return slice(plain(value.start), plain(value.stop), plain(value.step))
    return value


def counts_in(value: Any) -> list[Count]:
    """Every count in nested tuples, lists, dicts and slices."""
    if isinstance(value, Count):
        return [value]
    if isinstance(value, slice):
        value = (value.start, value.stop, value.step)
    if isinstance(value, dict):
        value = tuple(value.values())
    return [count for item in value for count in counts_in(item)] if isinstance(value, list | tuple) else []


def flat(sizes: Any) -> list[Any]:
    """The sizes of `view(2, -1)`, `view((2, -1))` or `view(x.shape)` as one list."""
    return [size for given in sizes for size in (flat(given) if isinstance(given, list | tuple) else [given])]
