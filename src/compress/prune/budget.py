"""Budgets: what widths may cost. One budget is the aim; others may stand beside it as upper limits.

A *price* maps widths to what a budget limits: MACs, channels that stay, parameters, nanoseconds. It does not fall
when a group gets wider. A budget makes a `Ceiling` of it, and all budgets of a run are its `Ceilings`: whoever
chooses widths asks whether they fit.

Where a budget becomes widths: `widths.uniform_within` (the same share of every group), `selection.select` (by scores
of channels), `compress.search` (by candidates). A budget of single weights becomes masks in `weight_masks`.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from compress.errors import SettingError
from compress.graph.plan import Plan
from compress.graph.types import ChannelGraph
from compress.io.files import JSON
from compress.prune.cost import CostModel
from compress.prune.widths import Choices, rounding_step
from compress.schema.settings import BUDGET_UNITS, Budget, BudgetKind

NEAR = 0.01  # relative deviation from a budget above which, and above one rounding step, it counts as missed
IN_MACS: tuple[BudgetKind, ...] = ("preserve_ratio", "flops_limit")
NOISE = 1e-9  # of floats, so that a deviation of exactly one rounding step counts as met

Price = Callable[[NDArray[Any]], NDArray[np.float64]]  # widths (n, groups) -> (n,), whole numbers below 2^53
PriceOf = Callable[[BudgetKind], Price]


def removed_share(widths: Sequence[int], full_widths: Sequence[int]) -> float:
    """Share of channels removed by these widths, over all groups: in [0, 1]."""
    full = sum(full_widths)
    return 1 - sum(widths) / full if full else 0.0


def plan_removed_share(graph: ChannelGraph, plan: Plan) -> float:
    """Share of channels removed by a plan, over all groups: in [0, 1]."""
    return removed_share(graph.widths(plan), [group.width for group in graph.groups])


def achieved(graph: ChannelGraph, cost: CostModel, plan: Plan) -> JSON:
    """What a plan achieves: shares of MACs kept and of channels removed; MACs and parameters, also in the units of
    their limits."""
    macs, params = cost.macs(plan), cost.params(plan)
    return {
        "preserve_ratio": macs / cost.full_macs,
        "percent": plan_removed_share(graph, plan),
        "macs": macs,
        "params": params,
        "flops_limit": macs / 1e6,
        "params_limit": params / 1e6,
    }


# -- prices ----------------------------------------------------------------------------------------------------------


def kept_channels(widths: ArrayLike) -> NDArray[np.float64]:
    """The price of a budget in percent: channels that stay, over all groups; (n, groups) -> (n,)."""
    total: NDArray[np.float64] = np.atleast_2d(np.asarray(widths, dtype=np.float64)).sum(1)
    return total


def prices(
    cost: CostModel | None,
    macs: Price | None = None,
    counted: Sequence[bool] | None = None,
    latency: Callable[[], Price] | None = None,
) -> PriceOf:
    """The price of every kind of budget. `macs` counts multiply-adds by another counter than the cost model; only the
    channels of `counted` groups (groups,) are of a share of channels, which without a cost model is the only price;
    `latency` gives the price in nanoseconds."""

    def of_channels(widths: NDArray[Any]) -> NDArray[np.float64]:
        return kept_channels(widths if counted is None else np.atleast_2d(widths)[:, np.array(counted)])

    def price_of(kind: BudgetKind) -> Price:
        if kind == "percent":
            return of_channels
        if kind in IN_MACS and macs is not None:
            return macs
        if kind == "latency_limit":
            assert latency is not None
            return latency()
        assert cost is not None
        count = cost.macs if kind in IN_MACS else cost.params
        return lambda widths: count(widths).astype(np.float64)

    return price_of


@dataclass(frozen=True, eq=False)
class Tightest:
    """The price of widths by the limit that they spend the largest share of, in the unit of the first: it is at most
    the end of the first where all are kept."""

    prices: tuple[Price, ...]
    ends: tuple[float, ...]

    def __call__(self, widths: NDArray[Any]) -> NDArray[np.float64]:
        return self.of([price(widths) for price in self.prices])

    def of(self, prices: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
        """From the prices by every limit, all of one shape."""
        first, *others = prices
        scaled = [price / end * self.ends[0] for price, end in zip(others, self.ends[1:], strict=True)]
        highest: NDArray[np.float64] = np.maximum.reduce([first, *scaled])
        return highest


# -- ceilings --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Ceiling:
    """One budget as the upper end of a price; `full` is that of the dense network."""

    budget: Budget
    price: Price
    full: float

    @property
    def asked(self) -> float:
        """In the unit of the price."""
        if self.budget.kind == "percent":
            return self.full - int(self.full * self.budget.value)
        return self.budget.value * (self.full if self.budget.kind == "preserve_ratio" else 1e6)  # also ns in a ms

    @property
    def high(self) -> float:
        """In the unit of the price: what is asked, and never above the dense network."""
        return min(self.asked, self.full)

    @property
    def share(self) -> float:
        """What is asked, as a share of the dense network's price, in (0, 1]."""
        if self.budget.kind == "preserve_ratio":
            return self.budget.value
        return 1 - self.budget.value if self.budget.kind == "percent" else self.high / self.full

    @property
    def is_of_macs(self) -> bool:
        return self.budget.kind in IN_MACS

    def fits(self, widths: ArrayLike) -> NDArray[np.bool_]:
        """(n, groups) -> (n,)."""
        fits: NDArray[np.bool_] = self.price(np.atleast_2d(np.asarray(widths))) <= self.high
        return fits

    def step(self, options: Choices, widths: Sequence[int]) -> float:
        """The largest change of the price from moving one group to the next allowed width, as a share of `full`."""
        return rounding_step(self.price, options, widths) / self.full

    def is_near(self, share: float, step: float) -> bool:
        """Whether a share of the dense network's price is within 1 % or one step of the end."""
        scale = 1.0 if self.budget.kind == "percent" else self.share
        return abs(share - self.share) <= max(NEAR * scale, step) + NOISE

    def told(self, price: float, side: Literal["least", "most"]) -> str:
        """A price in the unit of the budget, for messages, rounded up or down: to the side within reach."""
        kind = self.budget.kind
        value = price / 1e6 if kind in BUDGET_UNITS else abs((kind == "percent") - price / self.full)
        rounded = {"least": math.ceil(1e4 * value), "most": math.floor(1e4 * value)}[side]
        text = f"{rounded / 1e4:.4f}"
        if kind == "percent":
            return f"{text} of the {self.full:.0f} channels"
        return (
            f"{text} {BUDGET_UNITS[kind]}" if kind in BUDGET_UNITS else f"{text} of the {self.full / 1e6:.4g} MMACs"
        )

    def out_of_reach(self, price: float, which: Literal["narrowest", "widest"]) -> SettingError:
        """That not even the `which` allowed widths, which cost `price`, are within the budget."""
        kind = self.budget.kind
        side: Literal["least", "most"] = "least" if (which == "narrowest") != (kind == "percent") else "most"
        verb = "leave off" if kind == "percent" else "have"
        told = f"the {which} allowed widths {verb} {self.told(price, side)}; ask for at {side} that"
        return SettingError(f"{alone(self.budget)}: out of reach; {told}")


def alone(budget: Budget) -> Budget:
    """A budget without those beside it, for what is said of it alone."""
    return Budget(budget.kind, budget.value)


@dataclass(frozen=True, eq=False)
class Ceilings:
    """All that limits the widths of a run: its aim, and the budgets beside it."""

    aim: Ceiling
    beside: tuple[Ceiling, ...] = ()

    @property
    def every(self) -> tuple[Ceiling, ...]:
        """The aim, then those beside it."""
        return (self.aim, *self.beside)

    def fits(self, widths: ArrayLike) -> NDArray[np.bool_]:
        """Whether widths are within all limits: (n, groups) -> (n,)."""
        fits: NDArray[np.bool_] = np.all([each.fits(widths) for each in self.every], axis=0)
        return fits

    @property
    def price(self) -> Price:
        """At most `high` where widths fit. In the unit of the aim's price; that of the tightest limit where several
        may bind."""
        binding = [each for each in self.beside if each.high < each.full]
        if not binding:
            return self.aim.price
        parts = [self.aim, *binding]
        return Tightest(tuple(each.price for each in parts), tuple(each.high for each in parts))

    @property
    def high(self) -> float:
        return self.aim.high

    def check(self, narrowest: ArrayLike) -> None:
        """
        Raises:
            SettingError: not even these widths (groups,) are within the limits; says what is reachable of each.
        """
        widths = np.atleast_2d(np.asarray(narrowest))
        missed = [each for each in self.every if not each.fits(widths)[0]]
        errors = [each.out_of_reach(float(each.price(widths)[0]), "narrowest") for each in missed]
        if errors:
            raise SettingError(*(line for error in errors for line in error.lines))


def ceilings_of(budget: Budget, full_widths: ArrayLike, price_of: PriceOf) -> Ceilings:
    """The ceilings of a budget for a network with these widths of its groups, (groups,)."""
    full = np.atleast_2d(np.asarray(full_widths, dtype=np.int64))
    parts = [(each, price_of(each.kind)) for each in budget.every]
    aim, *beside = [Ceiling(each, price, float(price(full)[0])) for each, price in parts]
    return Ceilings(aim, tuple(beside))


@dataclass(frozen=True)
class Verdict:
    """Whether a budget is met: its aim within 1 % or one step, or one of the limits beside it binds, and all hold."""

    met: bool
    binds: BudgetKind | None  # the limit beside the aim that kept the network from it
    broken: tuple[BudgetKind, ...]  # limits beside the aim that do not hold


def verdict(
    ceilings: Ceilings, widths: Sequence[int], options: Choices | None, step: float, percent: float | None = None
) -> Verdict:
    """On widths (groups,). `options` are those that were allowed, `step` is the largest change of the aim by one
    step, as a share of the dense network; `percent` is the share removed as the method counts it."""
    chosen = np.array([widths])

    def share(limit: Ceiling) -> float:
        if limit.budget.kind == "percent" and percent is not None:
            return 1 - percent
        return float(limit.price(chosen)[0]) / limit.full

    def binds(limit: Ceiling) -> bool:
        return limit.is_near(share(limit), 0.0 if options is None else limit.step(options, widths))

    def holds(limit: Ceiling) -> bool:
        if limit.budget.kind == "percent" and percent is not None:  # of other channels than the price counts
            return share(limit) <= limit.share + NEAR
        return bool(limit.fits(chosen)[0])

    aim, beside = ceilings.aim, ceilings.beside
    near = aim.is_near(share(aim), step)
    binding = None
    if not near and share(aim) < aim.share:
        binding = next((each.budget.kind for each in beside if binds(each)), None)
    broken = tuple(each.budget.kind for each in beside if not holds(each))
    return Verdict((near or binding is not None) and not broken, binding, broken)
