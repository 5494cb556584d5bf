"""What a budget allows: the genes of a space whose widths cost no more than it, and no less than a lower end.

A *price* maps widths to what the budget limits: multiply-adds by one of the counters of `compress.prune.counters`, or
for a budget in percent the channels that stay. It must be quadratic in the widths (a constant, one term per group and
one per pair of groups), in whole numbers below 2^53, and must not fall when a group gets wider.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from compress.errors import SettingError
from compress.graph.types import ChannelGraph
from compress.prune.widths import largest_prefix
from compress.schema.settings import Budget
from compress.search.space import Genes, WidthSpace

AT_ONCE = 2048  # genes that are priced at once: few enough to stay in the cache

Price = Callable[[NDArray[Any]], NDArray[np.float64]]  # widths (n, groups) -> (n,)


@dataclass(frozen=True, eq=False)
class Feasible:
    """The genes of `space` with low <= price <= high; never empty where `feasible` made it."""

    space: WidthSpace
    price: Price
    low: float
    high: float

    def holds(self, genes: Genes) -> NDArray[np.bool_]:
        """(n, places) -> (n,)."""
        prices = self.prices(genes)
        return (self.low <= prices) & (prices <= self.high)

    def prices(self, genes: Genes) -> NDArray[np.float64]:
        """(n, places) -> (n,), in the unit of the price, in bounded memory."""
        batch = np.atleast_2d(genes)
        found = np.empty(len(batch))
        for first in range(0, len(batch), AT_ONCE):
            part = slice(first, first + AT_ONCE)
            found[part] = self.price(self.space.widths(batch[part]))
        return found

    def uniform(self) -> Genes:
        """`uniform_gene` of the upper end: feasible, where `feasible` made the set."""
        return uniform_gene(self.space, self.price, self.high)


def kept_channels(widths: NDArray[Any]) -> NDArray[np.float64]:
    """The price of a budget in percent: channels that stay, over all groups; (n, groups) -> (n,)."""
    total: NDArray[np.float64] = np.atleast_2d(np.asarray(widths, dtype=np.float64)).sum(1)
    return total


def uniform_gene(space: WidthSpace, price: Price, high: float) -> Genes:
    """The gene (places,) with all places at about the same share of their largest width, the largest such one whose
    price is at most `high`; the narrowest one where nothing fits. For MACs and a space up to the full widths, that of
    `prune.widths.uniform_widths`."""
    widest = space.chosen(space.widest).tolist()
    return largest_prefix(space.options, widest, lambda gene: float(price(space.widths(gene)[None])[0]) <= high)


def feasible(
    space: WidthSpace, budget: Budget, graph: ChannelGraph, price: Price, band: float | None = None
) -> Feasible:
    """What `budget` allows of `space`. `price` is the counter of multiply-adds, which a budget in percent ignores.

    A budget is an upper end: a share of what the whole network costs, or MMACs, both by that counter, or all channels
    less the removed share, counted as `prune.budget.removed_share` does, of whose fractions nothing is removed.

    `band` is how far below that a gene may be, as a share of it; None: anywhere. Where the allowed widths come in
    steps so coarse that the uniform widths of the budget cost even less, the lower end is what these cost.

    Raises:
        SettingError: no gene fits, or the widest ones cost too little; says what is reachable in the budget's unit.
    """
    how = kept_channels if budget.kind == "percent" else price
    full = float(how(np.array([[group.width for group in graph]]))[0])
    if budget.kind == "flops_limit" and budget.value * 1e6 > full:
        raise SettingError(f"{budget}: the dense network needs only {full / 1e6:.4g} MMACs; ask for at most that")
    high = _upper_end(budget, full)
    least, most = how(space.widths(np.stack([space.narrowest, space.widest]))).tolist()
    if least > high:
        raise SettingError(_out_of_reach(budget, full, least, "narrowest"))
    low = -math.inf
    if band is not None:
        low = high * (1 - band)
        if most < low:
            raise SettingError(_out_of_reach(budget, full, most, "widest"))
        uniform = uniform_gene(space, how, high)
        low = min(low, float(how(space.widths(uniform)[None])[0]))
    return Feasible(space, how, low, high)


def _upper_end(budget: Budget, full: float) -> float:
    """In the unit of the price; `full` is that of the whole network."""
    if budget.kind == "percent":
        return full - int(full * budget.value)
    return budget.value * (full if budget.kind == "preserve_ratio" else 1e6)


def _out_of_reach(budget: Budget, full: float, reached: float, which: Literal["narrowest", "widest"]) -> str:
    """The message for a budget that no gene meets: `reached` is the price of the `which` widths, `full` that of the
    whole network. The figure that is told is rounded to the side within reach."""
    by_percent = budget.kind == "percent"
    at_least = (which == "narrowest") != by_percent
    value = reached / 1e6 if budget.kind == "flops_limit" else abs(by_percent - reached / full)
    told = f"{(math.ceil if at_least else math.floor)(1e4 * value) / 1e4:.4f}"
    ask = f"ask for at {'least' if at_least else 'most'} that"
    if by_percent:
        return (
            f"{budget}: out of reach; the {which} allowed widths leave off {told} of the {full:.0f} channels; {ask}"
        )
    unit = "MMACs" if budget.kind == "flops_limit" else f"of the {full / 1e6:.4g} MMACs"
    return f"{budget}: out of reach; the {which} allowed widths have {told} {unit}; {ask}"
