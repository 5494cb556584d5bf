"""Allowed widths of groups (multiples for fast kernels, never zero), and the uniform widths of a budget.

Where a budget becomes widths without scores: `uniform_within`. (By scores of channels: `selection.select`.) Rounding
is part of the search for the budget, not done afterwards: the steps from each allowed width of each group to the next
are sorted into one list, and the widths are those after the longest prefix of it that fits the budget. So a
larger budget never gives a narrower group, and what is left of it is less than one step costs.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from compress.graph.types import ChannelGraph, ChannelGroup
from compress.prune.cost import CostModel

Choices = Sequence[NDArray[np.int64]]  # per group, ascending


def choices(group: ChannelGroup, round_to: int, lowest: float, highest: float) -> NDArray[np.int64]:
    """Allowed widths between the shares `lowest` and `highest` of the full width: (n,) ascending, n >= 1, none zero
    and none below `group.least`.

    `round_to` counts output channels of a layer. A group may stand for several of them per channel
    (`outputs_per_channel`; 32 for a convolution with 32 conv groups, all of whose widths are then multiples of 8). A
    group narrower than one multiple keeps its full width.
    """
    full = group.width
    step = round_to // math.gcd(round_to, group.outputs_per_channel)
    steps = np.array(sorted({*range(step, full + 1, step), full}), dtype=np.int64)
    low = steps[steps >= max(lowest * full - 1e-9, group.least)][0]
    high = steps[steps <= highest * full + 1e-9]
    allowed: NDArray[np.int64] = steps[(steps >= low) & (steps <= max(low, high[-1] if len(high) else low))]
    return allowed


def all_choices(graph: ChannelGraph, round_to: int, lowest: float = 0.0, highest: float = 1.0) -> Choices:
    """`choices` of every group, in the order of the graph."""
    return [choices(group, round_to, lowest, highest) for group in graph.groups]


def ends(options: Choices) -> NDArray[np.int64]:
    """The narrowest and the widest widths: (2, groups)."""
    return np.array([[widths[at] for widths in options] for at in (0, -1)], dtype=np.int64)


def reachable(cost: CostModel, options: Choices) -> tuple[float, float]:
    """Smallest and largest share of the dense MACs that these widths allow."""
    low, high = cost.macs(ends(options)) / cost.full_macs
    return float(low), float(high)


def uniform_widths(cost: CostModel, options: Choices, target: float) -> tuple[int, ...]:
    """`uniform_within` of a share of the dense MACs, the smallest of which gives the narrowest widths."""
    return uniform_within(cost.full_widths, options, lambda widths: cost.macs(widths) <= target * cost.full_macs)


def uniform_within(
    full_widths: ArrayLike, options: Choices, fits: Callable[[NDArray[np.int64]], NDArray[np.bool_]]
) -> tuple[int, ...]:
    """One width per group, all as close to one common share as the allowed widths permit: the largest such widths
    that fit; (n, groups) -> (n,). The narrowest ones where nothing does.

    Monotone: where more fits, no group is narrower.
    """
    full = np.asarray(full_widths).tolist()
    taken = largest_prefix(options, full, lambda taken: bool(fits(_taken(options, taken)[None])[0]))
    return tuple(_taken(options, taken).tolist())


def largest_prefix(
    options: Choices, full_widths: Sequence[int], fits: Callable[[NDArray[np.int64]], bool]
) -> NDArray[np.int64]:
    """Per row of `options` the index of one of them, all at about one share of `full_widths`: the largest for which
    `fits` is true, or else all 0. The indices are (rows,) int64, also those that `fits` is asked about.

    The steps from each option of each row to the next are taken in the order of the share between the two.
    """
    steps = sorted(
        ((wide + narrow) / 2 / full_widths[index], index)
        for index, widths in enumerate(options)
        for narrow, wide in zip(widths[:-1].tolist(), widths[1:].tolist(), strict=True)
    )
    growing = np.array([index for _, index in steps], dtype=np.int64)

    def after(count: int) -> NDArray[np.int64]:
        return np.bincount(growing[:count], minlength=len(options))

    return after(largest_count(len(growing), lambda count: fits(after(count))))


def _taken(options: Choices, taken: NDArray[np.int64]) -> NDArray[np.int64]:
    """Widths by index: (groups,)."""
    return np.array([widths[at] for widths, at in zip(options, taken, strict=True)])


def largest_count(most: int, holds: Callable[[int], bool]) -> int:
    """The largest number in [0, most] for which `holds` is true, by bisection.

    `holds` must be monotone: true for 0 and for every number below one for which it is true.
    """
    low, high = 0, most
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if holds(middle) else (low, middle - 1)
    return low


def rounding_step(
    price: Callable[[NDArray[np.int64]], NDArray[Any]], options: Choices, widths: Sequence[int]
) -> float:
    """The largest change of a price, (n, groups) -> (n,), from moving one group to the next allowed width."""
    batch = np.tile(np.array(widths, dtype=np.int64), (len(options), 1))
    for at, allowed in enumerate(options):
        current = int(np.searchsorted(allowed, widths[at]))
        batch[at, at] = allowed[current + 1 if current + 1 < len(allowed) else max(current - 1, 0)]
    return float(np.abs(price(batch) - price(np.array([widths]))).max())
