"""Channels ranked by how much they matter: by norms of weights, the cheap baseline of every table, or by a criterion.

Li et al., "Pruning Filters for Efficient ConvNets", ICLR 2017, arXiv:1608.08710: the score of a filter is the L1 norm
of its weights; every layer loses the same share, and the channels of a residual stream are not pruned. AMC scores a
channel by the norm of the weights that read it (`sides: readers`); `sides: both` combines the norms of both. With
`normalise: mean` the norms of a layer are divided by their mean, so that layers can be compared in one pool. A
criterion (`compress.prune.criteria`) takes the place of the norms; all else stays.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from torch import Tensor, nn

from compress.errors import OWN, SettingError
from compress.graph.types import ChannelGraph
from compress.io.stage_folder import StageFolder
from compress.prune.criteria.criterion import Criterion, Normalise, normalised, scored_groups
from compress.prune.method import Decision, Problem, Traits
from compress.prune.scores import Coupled, Scores, may_lose, per_channel
from compress.prune.selection import check_problem, decide
from compress.prune.steps import InSteps, ranked
from compress.schema.settings import Budget

Norm = Literal["l1", "l2"]
Sides = Literal["filters", "readers", "both"]


def filter_scores(
    model: nn.Module,
    graph: ChannelGraph,
    norm: Norm,
    sides: Sides,
    normalise: Normalise,
    coupled: Coupled,
) -> Scores:
    """Scores (width,) by group; groups that `coupled` leaves out have none. The model is not changed."""
    parts: dict[str, list[Tensor]] = {}
    for layer in graph.layers:
        weight = model.get_parameter(layer.out_axis.tensor).detach().float().cpu()
        for side, axis in (("filters", layer.out_axis), ("readers", layer.in_axis)):
            if axis is None or sides not in (side, "both"):
                continue
            norms = weight.transpose(0, axis.dim).flatten(1).norm(1 if norm == "l1" else 2, dim=1)
            if normalise == "mean":
                norms = norms / norms.mean().clamp_min(1e-12)
            for group in graph:
                if axis in group.positions:
                    # after a flatten several columns read one channel: their mean
                    parts.setdefault(group.name, []).append(norms[group.positions[axis]].mean(1, keepdim=True))
    return per_channel(parts, graph, coupled)


@dataclass(frozen=True, kw_only=True)
class FilterMagnitude(InSteps):
    """The method `filter_magnitude`; conf/method/filter_magnitude.yaml explains every setting."""

    norm: Norm
    sides: Sides
    normalise: Normalise
    criterion: Criterion | None = None

    traits: ClassVar = Traits()

    def check(self, problem: Problem) -> Budget:
        check_problem(self, problem, self._scored(problem))
        return problem.budget

    def plan(self, problem: Problem, learned: Path | None, work: StageFolder | None = None) -> Decision:
        return decide(self, problem, ranked(problem, self._scores))

    def _scored(self, problem: Problem) -> set[str]:
        """The groups that lose channels. No weight or image is read, which are not there before the run."""
        if self.criterion is None:
            return set(self._scores(problem))
        scored = scored_groups(self.criterion, problem.model, problem.graph)
        if not scored:
            raise SettingError(f"{OWN}criterion: has no scores for this network; take another, such as l1")
        return {g.name for g in problem.graph if g.name in scored and may_lose(problem.graph, g, self.coupled)}

    def _scores(self, problem: Problem) -> Scores:
        model, graph = problem.model, problem.graph
        if self.criterion is None:
            return filter_scores(model, graph, self.norm, self.sides, self.normalise, self.coupled)
        parts = self.criterion(model, graph, problem.sample)
        return per_channel(normalised(parts, self.normalise), graph, self.coupled)
