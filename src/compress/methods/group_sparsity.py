"""Group sparsity: train so that all weights of a channel shrink together, then cut the channels of small norms.

Fang et al., "DepGraph: Towards Any Structural Pruning", CVPR 2023, arXiv:2301.12900, section 3.3. I(c) is the sum of
squares of all weights of channel c: those that make it, pass it on and read it, in all coupled layers, and the scales
of its norms; biases do not count. The penalty's gradient is `reg * factor(c) * W[c]`, added to the gradients of the
loss (`compress.train.penalty`), with

    depgraph    factor(c) = 2^(alpha (I_max - I(c)) / (I_max - I_min)), by group: equation 4
    lasso       factor(c) = 1 / sqrt(I(c)), the group lasso: Yuan and Lin 2006; in networks Wen et al., NeurIPS 2016,
                arXiv:1608.03665

The score of a channel is sqrt(I(c)) divided by its mean over the group. No batch norm is needed. Where we differ: the
factors follow the weights of every step, and groups that lose nothing (`coupled: keep`, limits by layer) are not
pulled at.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from compress.graph.types import ChannelGraph, ChannelGroup
from compress.io.files import JSON
from compress.io.stage_folder import StageFolder
from compress.methods.sparse_plots import plots_of
from compress.methods.sparse_training import diagnosis, distribution, train_sparsely
from compress.prune.criteria.criterion import Slices
from compress.prune.limits import Limits
from compress.prune.method import Decision, Problem, Traits
from compress.prune.scores import Scores, may_lose
from compress.prune.selection import check_problem, decide
from compress.prune.steps import InSteps, ranked
from compress.schema.bounds import NonNegative
from compress.schema.settings import Budget, Recipe
from compress.train.penalty import Gradients, Penalty

Weighting = Literal["depgraph", "lasso"]
Members = Sequence[Slices]

# times the median of the kept norms: a threshold above it removes channels that are not near zero. Both what makes a
# channel and what reads it shrink, so what it does is of the order of the square: a tenth
SPARSE = 0.3


def members(model: nn.Module, group: ChannelGroup, device: torch.device | None = None) -> Members:
    """The weights that belong to the channels of a group."""
    parameters = dict(model.named_parameters())
    return [
        Slices(axis.tensor, axis.dim, places if device is None else places.to(device))
        for axis, places in group.positions.items()
        if axis.tensor in parameters and "bias" not in axis.tensor.rpartition(".")[2]
    ]


def squares(model: nn.Module, of: Members) -> Tensor:
    """I, the sum of squares of all weights of each channel: (width,)."""
    parts = [part.summed(model.get_parameter(part.parameter).detach().square()) for part in of]
    return torch.cat(parts, 1).sum(1)


def by_depgraph(of: Tensor, alpha: float) -> Tensor:
    """2^alpha for the channel of the least sum of squares, 1 for that of the largest: (width,) -> (width,)."""
    least, most = of.aminmax()
    return torch.exp2(alpha * (most - of) / (most - least).clamp_min(torch.finfo(of.dtype).tiny))


def by_lasso(of: Tensor) -> Tensor:
    return of.clamp_min(torch.finfo(of.dtype).tiny).rsqrt()


@torch.no_grad()
def pulls(groups: Sequence[Members], reg: float, factor: Callable[[Tensor], Tensor], model: nn.Module) -> Gradients:
    """`reg * factor(I) * W` for all weights of these groups. A weight that reads one group and makes another is
    pulled at by both."""
    factors: dict[str, Tensor] = {}
    for of in groups:
        each = factor(squares(model, of))
        for part in of:
            weight = model.get_parameter(part.parameter)
            along = weight.new_zeros(weight.shape[part.dim])
            along[part.places] = each[:, None].expand(part.places.shape)
            shape = [-1 if dim == part.dim else 1 for dim in range(weight.dim())]
            factors[part.parameter] = factors.get(part.parameter, 0) + along.view(shape)
    weights = {name: model.get_parameter(name) for name in factors}
    return [(weight, reg * factors[name] * weight) for name, weight in weights.items() if weight.requires_grad]


def scores(model: nn.Module, graph: ChannelGraph, coupled: Literal["sum", "keep"] = "sum") -> Scores:
    """The norms of all weights of each channel, divided by their mean: (width,) by group, on the CPU."""
    found = {}
    for group in graph:
        if may_lose(graph, group, coupled) and (of := members(model, group)):
            norms = squares(model, of).sqrt().double().cpu()
            found[group.name] = norms / norms.mean().clamp_min(1e-12)
    return found


@dataclass(frozen=True, kw_only=True)
class GroupSparsity(InSteps):
    """The method `group_sparsity`; conf/method/group_sparsity.yaml explains every setting."""

    weighting: Weighting
    reg: NonNegative
    alpha: NonNegative
    coupled: Literal["sum", "keep"]  # a norm over all members is one score already
    training: Recipe

    # what the penalty reads of them: which groups may lose channels
    traits: ClassVar = Traits(
        learns=True,
        trains="network",
        plan_only=frozenset(field.name for field in fields(InSteps))
        - {"coupled", *(field.name for field in fields(Limits))},
    )
    plots: ClassVar = staticmethod(plots_of("norm", "Norms of the channels", "norm, of the group's mean"))

    def check(self, problem: Problem) -> Budget:
        scored = set(scores(problem.model, problem.graph, self.coupled))
        check_problem(self, problem, scored)
        return problem.budget

    def learn(self, problem: Problem, work: StageFolder) -> JSON:
        graph = problem.graph

        def row(trained: nn.Module) -> JSON:
            return distribution("norm", torch.cat(list(scores(trained, graph, self.coupled).values())).float())

        history = train_sparsely(problem, self.training, self.penalty(problem), row)
        return {"made": "sparse-trained network", "reg": self.reg, **history, **row(problem.model)}

    def penalty(self, problem: Problem) -> Penalty:
        graph = problem.graph
        may = [group for group in graph if group.least < group.width and may_lose(graph, group, self.coupled)]
        groups = [of for group in may if (of := members(problem.model, group, problem.device))]
        factor = by_lasso if self.weighting == "lasso" else partial(by_depgraph, alpha=self.alpha)
        return Penalty(partial(pulls, groups, self.reg, factor), self.reg, "reg", problem.device)

    def plan(self, problem: Problem, learned: Path | None, work: StageFolder | None = None) -> Decision:
        decision = decide(self, problem, ranked(problem, lambda of: scores(of.model, of.graph, self.coupled)))
        own = {**decision.own, "reg": self.reg if learned is not None else None}
        return replace(decision, own=own, warnings=[*decision.warnings, *diagnosis(decision, "norm", "reg", SPARSE)])
