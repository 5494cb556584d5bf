"""Action bounds: the kept share that an agent asks for, turned into a width from which the budget can still be met.

He et al., "AMC", ECCV 2018, arXiv:1802.03494, algorithm 1, in two forms. `PublishedBounds` is the authors' code: clip
the share by the MACs of unrounded widths, then round up, which may overshoot the budget by a rounding step.
`RoundedBounds` computes the bounds for the rounded widths that are cut, so that nothing overshoots. In both a group
of coupled layers is one decision. In mode "exact" actions are bounded from below too, so that the budget is spent.
"""

import math
from collections.abc import Callable, Sequence
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from torch import nn

from compress.graph.types import ChannelGraph
from compress.prune.cost import CostModel
from compress.prune.widths import Choices

BudgetMode = Literal["upper", "exact"]
Shares = NDArray[np.float64]


class ActionBounds(Protocol):
    """Which widths a strategy may still choose."""

    def width(self, widths: Sequence[int], share: float, budget: float) -> int:
        """Width of group number `len(widths)`, the groups before it having `widths`.

        `share` is the kept share of its channels that the agent asks for, in [0, 1]; `budget` the share of the
        network's MACs that may be kept.
        """


def bounded(
    price: Callable[[NDArray[np.int64]], NDArray[np.float64]],
    choices: Choices,
    widths: Sequence[int],
    wished: float,
    low: float,
    high: float,
) -> int:
    """The allowed width nearest to `wished` channels, among those from which a price in [low, high] can still be met
    with allowed widths; above `low` only as far as `high` allows.

    `price` is of the widths that all of `choices` decide, (n, choices) -> (n,); `widths` are those chosen so far.
    """
    at, options = len(widths), choices[len(widths)]

    def prices(end: int) -> NDArray[np.float64]:
        """For every choice now, with the later ones at their first (0) or last (-1) allowed width."""
        later = [int(allowed[end]) for allowed in choices[at + 1 :]]
        batch = np.tile(np.array([*widths, 0, *later], dtype=np.int64), (len(options), 1))
        batch[:, at] = options
        return price(batch)

    fits = options[prices(0) <= high]
    most = int(fits[-1]) if len(fits) else int(options[0])
    spends = options[prices(-1) >= low]
    least = min(int(spends[0]) if len(spends) else int(options[-1]), most)
    nearest = int(options[np.abs(options - wished).argmin()])
    return min(max(nearest, least), most)


class RoundedBounds:
    """The allowed width nearest to the share, among those from which the budget can still be met with allowed
    widths."""

    def __init__(self, cost: CostModel, choices: Choices, mode: BudgetMode) -> None:
        self._cost, self._choices, self._mode = cost, choices, mode

    def width(self, widths: Sequence[int], share: float, budget: float) -> int:
        wished = min(max(share, 0.0), 1.0) * self._cost.full_widths[len(widths)]
        low = budget if self._mode == "exact" else -math.inf
        return bounded(self._share_of_macs, self._choices, widths, wished, low, budget)

    def _share_of_macs(self, widths: NDArray[np.int64]) -> Shares:
        return self._cost.macs(widths) / self._cost.full_macs


class PublishedBounds:
    """The published rule: clip the share by the MACs of unrounded widths, then round the width up to a multiple."""

    def __init__(
        self, cost: CostModel, biases: Shares, *, lbound: float, rbound: float, round_to: int, mode: BudgetMode
    ) -> None:
        """`biases` are those of `bias_macs`; `lbound` and `rbound` the smallest and largest kept share of a group."""
        self._cost, self.biases = cost, biases
        self._lbound, self._rbound, self._round_to, self._mode = lbound, rbound, round_to, mode
        self.full_macs = float(self.macs(np.ones((1, len(biases))))[0])

    def macs(self, shares: Shares) -> Shares:
        """MACs as the published code counts them, for unrounded kept shares: (strategies, groups) ->
        (strategies,)."""
        return self._cost.divisible_macs(shares * self._cost.full_widths) + shares @ self.biases

    def share(self, widths: Sequence[int], share: float, budget: float) -> float:
        """The share after clipping to its bounds, before it is rounded."""
        limit = budget * self.full_macs
        share = min(max(share, 0.0), 1.0)
        if self._mode == "exact":
            share = max(share, _root(*self._curve(widths, self._rbound), limit))
        share = min(share, _root(*self._curve(widths, self._lbound), limit), self._rbound)
        return max(share, self._lbound)

    def width(self, widths: Sequence[int], share: float, budget: float) -> int:
        full = int(self._cost.full_widths[len(widths)])
        rounded = rounded_up(self.share(widths, share, budget), full, self._round_to)
        if self._rbound == 1:
            return rounded
        most = int(self._rbound * full) // self._round_to * self._round_to
        return min(rounded, max(most, rounded_up(self._lbound, full, self._round_to)))

    def _curve(self, widths: Sequence[int], later: float) -> tuple[float, float, float]:
        """MACs with 0, half and all of the current group kept, and the share `later` of every later group."""
        at = len(widths)
        shares = np.full((3, len(self.biases)), later)
        shares[:, :at] = np.array(widths) / self._cost.full_widths[:at]
        shares[:, at] = 0, 0.5, 1
        none, half, whole = self.macs(shares).tolist()
        return none, half, whole


def _root(none: float, half: float, whole: float, limit: float) -> float:
    """The x at which the parabola through (0, none), (1/2, half), (1, whole) reaches `limit`, on its rising side.

    The MACs of a group whose layers read and produce it (a residual stream) are quadratic in its width, else linear.
    """
    square, slope = 2 * (none - 2 * half + whole), -3 * none + 4 * half - whole
    assert whole > none, "a group without MACs"
    if abs(square) < 1e-9 * abs(whole):
        return (limit - none) / (whole - none)
    discriminant = slope * slope + 4 * square * (limit - none)
    return (math.sqrt(discriminant) - slope) / (2 * square) if discriminant > 0 else 0.0


def rounded_up(share: float, full: int, multiple: int) -> int:
    """The published code's width for a share: rounded half to even, then up to a multiple; down if that exceeds
    `full`."""
    if share >= 1:
        return full
    channels = max(1, round(full * share))
    up = math.ceil(channels / multiple) * multiple
    return up if up <= full else full // multiple * multiple or full


def bias_macs(model: nn.Module, graph: ChannelGraph) -> Shares:
    """Per group one addition per output of the linear layers with a bias that read it: (groups,).

    The published code counts these in proportion to the inputs that are kept.
    """
    parameters = dict(model.named_parameters(remove_duplicate=False))
    linear = {
        layer.name: f"{layer.weight.removesuffix('weight')}bias" for layer in graph.layers if layer.kind == "linear"
    }
    counted = []
    for group in graph:
        biases = [linear[name] for name in group.consumers if name in linear]
        counted.append(sum(len(parameters[bias]) for bias in biases if bias in parameters))
    return np.array(counted, dtype=np.float64)
