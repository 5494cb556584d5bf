"""Symbolic sizes: integers that a network computes with and that are numbers of channels.

A size read from an activation (`b, c, h, w = x.shape`) changes when channels are cut. A `ChannelCount` is an int that
remembers which channels it counts, so that a shape computed from it can be told from one with a literal size, which
would be stale after a cut.
"""

from collections.abc import Iterable
from fractions import Fraction
from typing import Any

from torch import Tensor
from torch.utils import _pytree as pytree

from compress.graph.ids import channel_dims, ids_along


class ChannelCount(int):
    """`factor` times the number of these channels."""

    channels: Tensor  # ids, (n,)
    factor: Fraction
    rounded: bool  # came from a division: exact now, perhaps not once channels are cut

    @classmethod
    def of(cls, channels: Tensor, factor: Fraction = Fraction(1), rounded: bool = False) -> "ChannelCount":
        self = cls(int(len(channels) * factor))
        self.channels, self.factor, self.rounded = channels, factor, rounded
        return self

    def times(self, factor: Fraction) -> "ChannelCount | None":
        """None where the product would not be an integer."""
        product = len(self.channels) * self.factor * factor
        rounded = self.rounded or factor < 1
        return ChannelCount.of(self.channels, self.factor * factor, rounded) if product.denominator == 1 else None


class SymbolicShape(tuple[int, ...]):
    """A shape, some of whose sizes are `ChannelCount`s."""

    def numel(self) -> int:
        result: int = 1
        for size in self:
            result = product(result, size)
        return result


def symbolic_shape(x: Tensor) -> SymbolicShape:
    """The shape of an activation on channel ids; sizes of dimensions that channels lie on are `ChannelCount`s."""
    on_channels = channel_dims(x)
    return SymbolicShape(
        ChannelCount.of(ids_along(x, dim)) if dim in on_channels else size for dim, size in enumerate(x.shape)
    )


def product(a: int, b: int) -> int:
    """A product that remembers its channels; that of two `ChannelCount`s is a plain int, not linear in either."""
    if isinstance(b, ChannelCount) and not isinstance(a, ChannelCount):
        a, b = b, a
    if isinstance(a, ChannelCount) and not isinstance(b, ChannelCount):
        return a.times(Fraction(int(b))) or int(a) * int(b)
    return a * b


def counts_in(values: Any) -> list[ChannelCount]:
    """Every `ChannelCount` in nested tuples, lists and dicts."""
    return [value for value in pytree.tree_leaves(_plain_tuples(values)) if isinstance(value, ChannelCount)]


def without_counts(values: Any) -> Any:
    """The same structure with plain ints in place of `ChannelCount`s."""
    return pytree.tree_map(lambda v: int(v) if isinstance(v, ChannelCount) else v, _plain_tuples(values))


def _plain_tuples(value: Any) -> Any:
    """`SymbolicShape`s as tuples, which are the ones that pytree descends into."""
    if isinstance(value, SymbolicShape):
        return tuple(value)
    if type(value) in (tuple, list):
        return type(value)(_plain_tuples(item) for item in value)
    if type(value) is dict:
        return {key: _plain_tuples(item) for key, item in value.items()}
    return value


def slice_bounds(index: Any) -> list[Any]:
    """Start, stop and step of every slice in an index."""
    parts = index if isinstance(index, tuple) else (index,)
    return [bound for part in parts if isinstance(part, slice) for bound in (part.start, part.stop, part.step)]


def flat_sizes(sizes: Iterable[Any]) -> list[int]:
    """The sizes of `view(2, -1)`, `view((2, -1))` or `view(x.shape)` as one list."""
    found: list[int] = []
    for size in sizes:
        found += flat_sizes(size) if isinstance(size, list | tuple) else [size]
    return found
