"""The contract of a compression method: it may learn in `sparsify`, and decides in `prune` what is kept."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from compress.data.base import Data
from compress.graph.plan import Plan
from compress.graph.types import ChannelGraph
from compress.io.files import JSON
from compress.io.seeds import derive_seed
from compress.io.stage_folder import StageFolder
from compress.prune.budget import Ceilings, Price, ceilings_of, prices
from compress.prune.cost import CostModel
from compress.prune.criteria.criterion import Criterion, Drawn, totals
from compress.prune.latency.prediction import LatencyModel
from compress.prune.order import channel_orders
from compress.prune.scores import Scores
from compress.prune.widths import Choices
from compress.schema.settings import BUDGETS, Budget, BudgetKind, Recipe
from compress.train.loop import Hooks
from compress.train.objective import Objective
from compress.train.penalty import Penalty


class Train(Protocol):
    def __call__(
        self,
        recipe: Recipe,
        hooks: Hooks,
        network: nn.Module | None = None,
        objective: Callable[[Objective], Objective] | None = None,
    ) -> JSON:
        """Train in place; the history, with `epochs` and the held-out top-1. `objective` is for a network of the
        method's own: it makes what is minimised there of what the run minimises, the cross entropy on the labels or
        distillation."""


def _unavailable(*_: Any, **__: Any) -> Any:
    raise AssertionError("only the stage `sparsify` provides it")


@dataclass(frozen=True)
class Problem:
    """The input of a method: the network at full width, its channel groups and costs, the data and the budget.

    A method leaves `model` unchanged, except where its trait `trains` is "network": then `learn` changes it in place,
    and the later stages use the result.
    """

    model: nn.Module
    graph: ChannelGraph
    cost: CostModel
    data: Data
    budget: Budget
    device: torch.device
    seed: int
    fresh: Callable[[], nn.Module] = _unavailable  # builds the network with new random weights
    scores: Path | None = None  # folder in which searches remember what they scored; None: nowhere
    latency: Callable[[], LatencyModel] = _unavailable  # measured when it is first asked for
    criterion: Criterion | None = None  # of the run: which channels matter; None: the method's own
    before: Plan | None = None  # what an earlier step of the same method kept: all other channels are gone
    # In `sparsify` only, in place, on all devices; returns the history. Of `model` (`network` left out): by
    # distillation if the run has a teacher for that stage, and the best epoch is saved. Of a network of the method's
    # own, which no file of ours can rebuild: by the same or what its objective makes of it, and keeping it is up to
    # the method.
    train: Train = _unavailable

    def ceilings(self, macs: Price | None = None) -> Ceilings:
        """What the budget limits; `macs` counts multiply-adds by another counter than the cost model's."""
        return ceilings_of(self.budget, self.cost.full_widths, prices(self.cost, macs, latency=self.latency))

    @property
    def sample(self) -> Drawn:
        """What a criterion may look at: training images, by the seed of the run."""
        return Drawn(self.data, self.device, derive_seed(self.seed, "criterion"))

    def channel_scores(self) -> Scores:
        """How much each channel matters by the run's criterion, (width,) by group; none where it has none."""
        if self.criterion is None:
            return {}
        return totals(self.criterion(self.model, self.graph, self.sample))

    def channel_orders(self) -> dict[str, Tensor]:
        """The channels of each group, most important first, (width,): by the run's criterion, and by the L1 norm of
        the weights that read them where there is none or it has no scores."""
        return channel_orders(self.model, self.graph, self.channel_scores())


@dataclass(frozen=True)
class Evidence:
    """What a decision was based on: its controls and the tables are computed from it."""

    scores: Mapping[str, Tensor] | None = None  # (width,) by group; the uniform control keeps the largest
    choices: Choices | None = None  # allowed widths of every group; None: any. The uniform control keeps to them
    refit: Callable[[Plan], Mapping[str, Tensor]] | None = None  # plan -> refitted weights; None: not refitted
    percent: float | None = None  # share removed as the method counts it, in [0, 1]; None: of all channels
    rounding_step: float = 0.0  # largest change of the budget's price by a single step, as a share of the dense one


@dataclass(frozen=True)
class Decision:
    """What a method keeps: channels (`plan`) or single weights (`masks`), and weights that it changed."""

    plan: Plan
    weights: Mapping[str, Tensor] = field(default_factory=dict)  # new parameters and buffers by name, at uncut shape
    masks: Mapping[str, Tensor] = field(default_factory=dict)  # bool, of the weight's shape, by layer: True is kept
    own: JSON = field(default_factory=dict)  # the result in the method's own terms, for plan.json
    notes: Sequence[str] = ()  # logged at INFO
    warnings: Sequence[str] = ()  # logged at WARNING
    evidence: Evidence = Evidence()


@dataclass(frozen=True, kw_only=True)
class Traits:
    """Properties of a method that the pipeline reads. All have defaults: a new trait breaks no existing method."""

    budgets: tuple[BudgetKind, ...] = BUDGETS  # kinds of budget that it accepts
    cuts: Literal["channels", "weights"] = "channels"  # weights: masks single weights, in any network
    begins: Literal["trained", "fresh"] = "trained"  # fresh: starts from random weights, without `pretrain`
    learns: bool = False  # False: `sparsify` is left out
    needs_learned: bool = False  # whether `plan` needs the result of `sparsify`
    learns_for_budget: bool = False  # False: `sparsify` serves every budget, which is not in its cache key
    trains: Literal["nothing", "network", "own"] = "nothing"  # in `sparsify`; own: another network than the run's
    plan_only: frozenset[str] = frozenset()  # settings that `learn` does not read: not in the cache key of `sparsify`
    files: Mapping[str, str] = field(default_factory=dict)  # digests of the files that it reads, for the cache keys


class Method(Protocol):
    """A frozen dataclass whose fields are the settings. It decides; cutting is done by `prune.surgery`.

    A method with something to do in `sparsify` implements `Learning` too.
    """

    @property
    def traits(self) -> Traits:
        """A class constant, or computed from the settings."""

    def check(self, problem: Problem) -> Budget:
        """Called before any stage runs, on random weights. Returns the budget of the run: that of the problem, or
        where that one `is_default`, possibly another.

        Raises:
            InputError: this network cannot meet the budget; names what is reachable.
        """

    def plan(self, problem: Problem, learned: Path | None, work: StageFolder | None) -> Decision:
        """Decide. `learned` is the folder that `learn` wrote to, None without `sparsify`.

        A long search writes its rows and progress to `work`, and resumes from there after a kill.

        Raises:
            InputError: the budget cannot be met; names what is reachable.
        """


@runtime_checkable
class Learning(Protocol):
    """A method with a learning step, which runs as the stage `sparsify`."""

    def learn(self, problem: Problem, work: StageFolder) -> JSON:
        """Learn what can be removed; leaves the result in the work folder, or in the weights of `problem.model`.
        Returns what to report, as JSON."""


@runtime_checkable
class Sparse(Protocol):
    """A method that trains under a penalty, also between the steps of an iterative schedule."""

    def penalty(self, problem: Problem) -> Penalty:
        """For trainings of the network of the problem."""


def criterion_of(method: Method) -> Criterion | None:
    """The setting `criterion` of a method, where it is one of channels: it is that of the run."""
    found = getattr(method, "criterion", None)
    return found if callable(found) else None


def recipes_of(method: Method) -> dict[str, Recipe]:
    """By what a method trains in `sparsify`, by the names of its settings."""
    others = method.traits.plan_only
    return {name: value for name, value in vars(method).items() if isinstance(value, Recipe) and name not in others}
