"""What a compression method is to the pipeline: something that may learn, and that decides which channels stay."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor, nn

from compress.data.base import Data
from compress.graph.plan import Plan
from compress.graph.types import ChannelGraph
from compress.io.files import JSON
from compress.io.stage_folder import Work
from compress.prune.cost import CostModel
from compress.prune.widths import Choices
from compress.schema.settings import Budget, BudgetKind, Recipe
from compress.train.loop import Hooks


def _not_here(*_: Any) -> Any:
    raise AssertionError("the stage `sparsify` provides it, no other")


@dataclass(frozen=True)
class Problem:
    """The network as it stands, what is known of it, and what is asked.

    Methods leave `model` as they found it, but for those that say `sparsify_trains_weights`: these change it in
    `sparsify`, and what they leave is the network from then on.
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
class Decision:
    """What stays, and what the method changed on the way."""

    plan: Plan
    weights: Mapping[str, Tensor] = field(default_factory=dict)  # new values of parameters, at full shape
    own: JSON = field(default_factory=dict)  # the result in the method's own terms, for plan.json
    rounding_step: float = 0.0  # what the coarsest single step would change, in what the budget counts
    masks: Mapping[str, Tensor] = field(default_factory=dict)  # of single weights, by layer: True stays
    percent: float | None = None  # share removed as the method counts it; None: of all channels
    notes: Sequence[str] = ()  # what the user should know
    warnings: Sequence[str] = ()  # and what to worry about
    refit: Callable[[Plan], Mapping[str, Tensor]] | None = None  # weights for any plan, for a control to use too
    scores: Mapping[str, Tensor] | None = None  # of channels, by group: what a control of the same MACs keeps by
    choices: Choices | None = None  # allowed widths of every group, for that control too; None: any


class Method(Protocol):
    """Settings as fields, and two steps. Deciding is all it does: cutting is `surgery`'s."""

    budgets: ClassVar[tuple[BudgetKind, ...]]  # which of the root keys it takes
    cuts_channels: ClassVar[bool]  # False: single weights go, which any network can spare
    sparsify_trains_weights: ClassVar[bool]  # whether a teacher can join that stage
    plan_only: ClassVar[frozenset[str]]  # settings that `sparsify` does not depend on

    @property
    def learns(self) -> bool:
        """Whether there is anything to do in `sparsify`; without it that stage is left out."""

    @property
    def needs_sparsify(self) -> bool:
        """Whether `plan` cannot do without what `sparsify` learned."""

    @property
    def sparsify_reads_budget(self) -> bool:
        """False: learned once for every budget."""

    @property
    def files(self) -> Mapping[str, str]:
        """Digests of the files it reads, if any: part of the cache's keys."""

    def check(self, problem: Problem) -> Budget:
        """Called before anything is computed, on fresh weights; returns the budget, or the method's own where it
        `is_default`.

        Raises:
            InputError: this network cannot meet the budget; names what it can.
        """

    def sparsify(self, problem: Problem, work: Work) -> JSON:
        """Learn what can go, into the work folder (or into the weights); returns what there is to report."""

    def plan(self, problem: Problem, learned: Path | None) -> Decision:
        """Decide, from what `sparsify` left in the folder `learned`.

        Raises:
            InputError: the budget cannot be met; names what can.
        """
