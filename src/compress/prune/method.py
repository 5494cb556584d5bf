"""What a compression method is to the pipeline: something that may learn, and that decides which channels stay."""

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
from compress.io.stage_folder import StageFolder
from compress.prune.cost import CostModel
from compress.prune.widths import Choices
from compress.schema.settings import BUDGETS, Budget, BudgetKind, Recipe
from compress.train.loop import Hooks


def _not_here(*_: Any) -> Any:
    raise AssertionError("the stage `sparsify` provides it, no other")


@dataclass(frozen=True)
class Problem:
    """The network as it stands, what is known of it, and what is asked.

    Methods leave `model` as they found it, but for those whose trait `trains` is network: these change it in
    `learn`, and what they leave is the network from then on.
    """

    model: nn.Module
    graph: ChannelGraph
    cost: CostModel
    data: Data
    budget: Budget
    device: torch.device
    seed: int
    fresh: Callable[[], nn.Module] = _not_here  # the network with new weights
    # trains `model` in place, with the teacher if one joins, and keeps its best epoch; in `sparsify` only
    train: Callable[[Recipe, Hooks], JSON] = _not_here


@dataclass(frozen=True)
class Evidence:
    """What a decision went by: for its controls, and for tables."""

    scores: Mapping[str, Tensor] | None = None  # of channels, by group: what a control of the same MACs keeps by
    choices: Choices | None = None  # allowed widths of every group, for that control too; None: any
    refit: Callable[[Plan], Mapping[str, Tensor]] | None = None  # weights for any plan, for a control to use too
    percent: float | None = None  # share removed as the method counts it; None: of all channels
    rounding_step: float = 0.0  # what the coarsest single step would change, in what the budget counts


@dataclass(frozen=True)
class Decision:
    """What stays, and what the method changed on the way."""

    plan: Plan
    weights: Mapping[str, Tensor] = field(default_factory=dict)  # new parameters and buffers, at full shape
    masks: Mapping[str, Tensor] = field(default_factory=dict)  # of single weights, by layer: True stays
    own: JSON = field(default_factory=dict)  # the result in the method's own terms, for plan.json
    notes: Sequence[str] = ()  # what the user should know
    warnings: Sequence[str] = ()  # and what to worry about
    evidence: Evidence = Evidence()


@dataclass(frozen=True, kw_only=True)
class Traits:
    """What a method is to the pipeline. Every trait has a default: a new one changes no method that is there."""

    budgets: tuple[BudgetKind, ...] = BUDGETS  # which of the root keys it takes
    cuts: Literal["channels", "weights"] = "channels"  # weights: single ones are masked, which any network can spare
    begins: Literal["trained", "fresh"] = "trained"  # fresh: from new weights, so it does without `pretrain`
    learns: bool = False  # False: nothing to do in `sparsify`, which is left out
    needs_learned: bool = False  # whether `plan` cannot do without what was learned
    learns_for_budget: bool = False  # False: what is learned serves every budget
    trains: Literal["nothing", "network", "own"] = "nothing"  # in `sparsify`; own: a network that is not the run's
    plan_only: frozenset[str] = frozenset()  # settings that only `plan` reads
    files: Mapping[str, str] = field(default_factory=dict)  # digests of the files it reads, for the cache's keys


class Method(Protocol):
    """Settings as fields, and what it does with them. Deciding is all it does: cutting is `surgery`'s.

    A method that learns has `learn` too (`Learning`).
    """

    @property
    def traits(self) -> Traits:
        """A constant of the class, or what its settings make of it."""

    def check(self, problem: Problem) -> Budget:
        """Called before anything is computed, on fresh weights; returns the budget, or the method's own where it
        `is_default`.

        Raises:
            InputError: this network cannot meet the budget; names what it can.
        """

    def plan(self, problem: Problem, learned: Path | None, work: StageFolder | None) -> Decision:
        """Decide, from what `learn` left in the folder `learned`.

        A long search writes its rows into `work` and continues there after a kill.

        Raises:
            InputError: the budget cannot be met; names what can.
        """


@runtime_checkable
class Learning(Protocol):
    """A method that has something to do in `sparsify`."""

    def learn(self, problem: Problem, work: StageFolder) -> JSON:
        """Learn what can go, into the work folder (or into the weights); returns what there is to report."""
