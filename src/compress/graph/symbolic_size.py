"""Numbers of channels that a network computes with.

A size read from an activation (`b, c, h, w = x.shape`) changes when channels are cut. Such a number remembers whose
it is, so that a shape that is made of it can be told from one in which a fixed number stands.
"""

from collections.abc import Iterable
from fractions import Fraction
from typing import Any

from torch import Tensor
from torch.utils import _pytree as pytree

from compress.graph.ids import line, varying


class ChannelCount(int):
    """`factor` times as many as there are of these channels."""

    channels: Tensor  # (n,)
    factor: Fraction
    rounded: bool  # a quotient: right for as many channels as there are, perhaps not for fewer

    @classmethod
    def of(cls, channels: Tensor, factor: Fraction = Fraction(1), rounded: bool = False) -> "ChannelCount":
        self = cls(int(len(channels) * factor))
        self.channels, self.factor, self.rounded = channels, factor, rounded
        return self

    def times(self, factor: Fraction) -> "ChannelCount | None":
        """None where it would not be whole."""
        whole = len(self.channels) * self.factor * factor
        rounded = self.rounded or factor < 1
        return ChannelCount.of(self.channels, self.factor * factor, rounded) if whole.denominator == 1 else None


class Sizes(tuple[int, ...]):
    """A shape, some of whose numbers are `ChannelCount`s."""

    def numel(self) -> int:
        product: int = 1
        for size in self:
            product = multiplied(product, size)
        return product


def sizes_of(x: Tensor) -> Sizes:
    """The shape of an activation on channel numbers."""
    changing = varying(x)
    return Sizes(ChannelCount.of(line(x, dim)) if dim in changing else size for dim, size in enumerate(x.shape))


def multiplied(a: int, b: int) -> int:
    """A product that remembers its channels; two numbers of channels make one that none can follow."""
    if isinstance(b, ChannelCount) and not isinstance(a, ChannelCount):
        a, b = b, a
    if isinstance(a, ChannelCount) and not isinstance(b, ChannelCount):
        return a.times(Fraction(int(b))) or int(a) * int(b)
    return a * b


def counts_in(values: Any) -> list[ChannelCount]:
    return [value for value in pytree.tree_leaves(_plain_tuples(values)) if isinstance(value, ChannelCount)]


def without_counts(values: Any) -> Any:
    """The same with ordinary whole numbers."""
    return pytree.tree_map(lambda v: int(v) if isinstance(v, ChannelCount) else v, _plain_tuples(values))


def _plain_tuples(value: Any) -> Any:
    """`Sizes` as tuples, which pytree can look into."""
    if isinstance(value, Sizes):
        return tuple(value)
    if type(value) in (tuple, list):
        return type(value)(_plain_tuples(item) for item in value)
    if type(value) is dict:
        return {key: _plain_tuples(item) for key, item in value.items()}
    return value


def bounds(index: Any) -> list[Any]:
    """What stands in the slices of an index."""
    places = index if isinstance(index, tuple) else (index,)
    return [bound for place in places if isinstance(place, slice) for bound in (place.start, place.stop, place.step)]


def flat(sizes: Iterable[Any]) -> list[int]:
    """The sizes of `view(2, -1)`, `view((2, -1))` or `view(x.shape)` as one list."""
    found: list[int] = []
    for size in sizes:
        found += flat(size) if isinstance(size, list | tuple) else [size]
    return found
