"""What a budget allows: the genes of a space whose widths cost no more than it, and no less than a lower end.

What widths cost is a price (`compress.prune.budget`), which must not fall when a group gets wider. Where several
limits stand side by side it is that by the tightest of them.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from compress.prune.budget import Ceilings, Price
from compress.prune.widths import largest_prefix
from compress.search.space import Genes, WidthSpace

AT_ONCE = 2048  # genes that are priced at once: few enough to stay in the cache


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


def uniform_gene(space: WidthSpace, price: Price, high: float) -> Genes:
    """The gene (places,) with all places at about the same share of their largest width, the largest such one whose
    price is at most `high`; the narrowest one where nothing fits. For MACs and a space up to the full widths, that of
    `prune.widths.uniform_widths`."""
    widest = space.chosen(space.widest).tolist()
    return largest_prefix(space.options, widest, lambda gene: float(price(space.widths(gene)[None])[0]) <= high)


def feasible(space: WidthSpace, ceilings: Ceilings, band: float | None = None) -> Feasible:
    """What the budgets allow of `space`.

    `band` is how far below the tightest of them a gene may be, as a share of it; None: anywhere. Where the allowed
    widths come in steps so coarse that the uniform widths of the budget cost even less, the lower end is what these
    cost.

    Raises:
        SettingError: no gene fits, or the widest ones cost too little; says what is reachable in the budget's unit.
    """
    price, high, aim = ceilings.price, ceilings.high, ceilings.aim
    narrowest, widest = space.widths(np.stack([space.narrowest, space.widest]))
    ceilings.check(narrowest)
    low = -math.inf
    if band is not None:
        low = high * (1 - band)
        most = float(price(widest[None])[0])
        if most < low and aim.asked <= aim.full:
            raise aim.out_of_reach(float(aim.price(widest[None])[0]), "widest")
        uniform = uniform_gene(space, price, high)
        low = min(low, float(price(space.widths(uniform)[None])[0]))
    return Feasible(space, price, low, high)
