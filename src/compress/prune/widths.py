"""Widths that a plan may have: multiples for fast kernels, never zero, and uniform ones for any budget.

Rounding is decided with the budget, not after it: the allowed widths of all groups are put in one order, and a budget
takes as many steps of it as it can pay. So a larger budget never gives a narrower group, and what is left over is
less than one step.
"""

import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from compress.graph.types import ChannelGraph, ChannelGroup
from compress.prune.cost import CostModel

Choices = Sequence[NDArray[np.int64]]  # per group, ascending


def choices(group: ChannelGroup, round_to: int, lowest: float, highest: float) -> NDArray[np.int64]:
    """Allowed widths between two shares of the full one, ascending; at least one, never zero.

    `round_to` counts channels of a layer: a group of a convolution with 32 conv groups has 32 of them per channel, so
    that all its widths are multiples of 8. A group narrower than a multiple keeps its full width.
    """
    full = group.width
    step = round_to // math.gcd(round_to, group.outputs_per_channel)
    steps = np.array(sorted({*range(step, full + 1, step), full}), dtype=np.int64)
    low = steps[steps >= lowest * full - 1e-9][0]
    high = steps[steps <= highest * full + 1e-9]
    allowed: NDArray[np.int64] = steps[(steps >= low) & (steps <= max(low, high[-1] if len(high) else low))]
    return allowed


def all_choices(graph: ChannelGraph, round_to: int, lowest: float = 0.0, highest: float = 1.0) -> Choices:
    """Allowed widths of every group."""
    return [choices(group, round_to, lowest, highest) for group in graph.groups]


def reachable(cost: CostModel, options: Choices) -> tuple[float, float]:
    """Smallest and largest share of MACs that these widths allow."""
    ends = np.array([[widths[0] for widths in options], [widths[-1] for widths in options]])
    low, high = cost.macs(ends) / cost.full_macs
    return float(low), float(high)


def uniform_widths(cost: CostModel, options: Choices, target: float) -> tuple[int, ...]:
    """All groups as near to one share as their choices allow, at the most MACs within the target share.

    The widths of two targets are nested. Below the reachable share they are the narrowest there are.
    """
    steps = sorted(
        ((wide + narrow) / 2 / cost.full_widths[at], at)
        for at, widths in enumerate(options)
        for narrow, wide in zip(widths[:-1].tolist(), widths[1:].tolist(), strict=True)
    )
    grows = np.array([at for _, at in steps], dtype=np.int64)

    def after(count: int) -> NDArray[np.int64]:
        taken = np.bincount(grows[:count], minlength=len(options))
        return np.array([widths[steps] for widths, steps in zip(options, taken, strict=True)])

    steps_paid = largest_count(len(grows), lambda count: cost.macs(after(count))[0] <= target * cost.full_macs)
    return tuple(after(steps_paid).tolist())


def largest_count(most: int, holds: Callable[[int], bool]) -> int:
    """The largest number in [0, most] for which `holds`, by bisection.

    It holds for 0, and for every number below one for which it holds.
    """
    low, high = 0, most
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if holds(middle) else (low, middle - 1)
    return low
