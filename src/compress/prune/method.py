"""What a compression method is to the pipeline: something that may learn, and that decides which channels stay."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Protocol

import torch
from torch import Tensor, nn

from compress.data.base import Data
from compress.files import JSON
from compress.prune.cost import CostModel
from compress.prune.graph import ChannelGraph
from compress.prune.plan import Plan
from compress.settings import Budget, BudgetKind
from compress.work import Work


@dataclass(frozen=True)
class Problem:
    """The dense network, what is known of it, and what is asked. Methods leave `model` as they found it."""

    model: nn.Module
    graph: ChannelGraph
    cost: CostModel
    data: Data
    budget: Budget
    device: torch.device
    seed: int


@dataclass(frozen=True)
class Decision:
    """What stays, and what the method changed on the way."""

    plan: Plan
    weights: Mapping[str, Tensor] = field(default_factory=dict)  # new values of parameters, at full shape
    own: JSON = field(default_factory=dict)  # the result in the method's own terms, for plan.json
    rounding_step: float = 0.0  # share of MACs that the method's coarsest single step would change


class Method(Protocol):
    """Settings as fields, and two steps. Deciding is all it does: cutting is `surgery`'s."""

    budgets: ClassVar[tuple[BudgetKind, ...]]  # which of the root keys it takes
    needs_sparsify: ClassVar[bool]  # whether `plan` reads what `sparsify` learned
    sparsify_trains_weights: ClassVar[bool]  # whether a teacher can join that stage
    plan_only: ClassVar[frozenset[str]]  # settings that `sparsify` does not depend on

    @property
    def sparsify_reads_budget(self) -> bool:
        """False: learned once for every budget."""

    @property
    def files(self) -> Mapping[str, str]:
        """Digests of the files it reads, if any: part of the cache's keys."""

    def check(self, graph: ChannelGraph, cost: CostModel, budget: Budget) -> Budget:
        """Called before anything is computed; returns the budget, or the method's own where `budget.is_default`.

        Raises:
            InputError: this network cannot meet the budget; names what it can.
        """

    def sparsify(self, problem: Problem, work: Work) -> JSON:
        """Learn what can go, into the work folder; returns what there is to report."""

    def plan(self, problem: Problem, learned: Path | None) -> Decision:
        """Decide, from what `sparsify` left in the folder `learned`.

        Raises:
            InputError: the budget cannot be met; names what can.
        """
