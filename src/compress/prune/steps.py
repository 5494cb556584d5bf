"""Iterative pruning of channels: to a ladder of budgets, with training between the steps.

Every step but the last cuts a network and trains what is left; the next one ranks the channels of that. Plans are
those of the dense network all the way, and so are budgets and prices: the trained weights of a step are put back to
their places in a network of full width (`widened`), whose other channels are gone.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Annotated

import torch
from torch import Tensor, nn

from compress.errors import SettingError
from compress.graph.plan import Plan
from compress.graph.types import Axis, ChannelGraph
from compress.prune.method import Problem
from compress.prune.schedule import Schedule, check_schedule, sparsities
from compress.prune.scores import Scores
from compress.prune.selection import Selection
from compress.prune.surgery import cut, kept_places, named_tensors
from compress.schema.bounds import Bound
from compress.schema.settings import Budget, Recipe


@dataclass(frozen=True, kw_only=True)
class InSteps(Selection):
    """A selection that may be made in several steps; conf/method/steps/one.yaml explains every value."""

    schedule: Schedule
    steps: Annotated[int, Bound(ge=1, most=10_000)]
    retraining: Recipe

    def __post_init__(self) -> None:
        super().__post_init__()
        if problems := check_schedule(self.schedule, self.steps, self.retraining.epochs):
            raise SettingError(*problems)


def ladder(how: InSteps, problem: Problem) -> list[Budget]:
    """The budgets of all steps but the last, each smaller than the one before: the schedule of the share that goes.
    Limits beside the aim are those of the last step."""
    kind, value = problem.budget.kind, problem.budget.value
    if kind == "percent":
        return [Budget(kind, share) for share in sparsities(how.schedule, how.steps, value)[:-1]]
    left = problem.ceilings().aim.share
    return [Budget(kind, value / left * (1 - share)) for share in sparsities(how.schedule, how.steps, 1 - left)[:-1]]


def ranked(problem: Problem, score: Callable[[Problem], Scores]) -> Scores:
    """Scores (width,) by group, by the network that an earlier step left if there was one: what it has cut comes
    last."""
    if problem.before is None:
        return score(problem)
    small = cut(problem.model, problem.graph, problem.before)
    graph = narrowed(problem.graph, problem.before, problem.model, small)
    found = score(replace(problem, model=small, graph=graph, before=None))
    if not found:
        return found
    last = min(float(scores.min()) for scores in found.values()) - 1
    kept = problem.graph.kept(problem.before)
    widths = {group.name: group.width for group in problem.graph}
    return {
        name: scores.new_full((widths[name],), last).index_copy(0, kept[name], scores)
        for name, scores in found.items()
    }


def narrowed(graph: ChannelGraph, plan: Plan, model: nn.Module, small: nn.Module) -> ChannelGraph:
    """The graph of `small`, the network that a plan leaves of `model`: of the same groups, without those of which
    nothing is left."""
    kept, dropped = graph.kept(plan), graph.dropped(plan)
    gone = named_tensors(model).keys() - named_tensors(small).keys()
    layers = tuple(layer for layer in graph.layers if layer.weight not in gone)
    names = {layer.name for layer in layers}

    def places(axis: Axis, of: Tensor) -> Tensor:
        missing = dropped.get(axis)
        return of if missing is None else of - torch.searchsorted(missing.sort().values, of)

    groups = tuple(
        replace(
            group,
            width=len(stays),
            least=min(group.least, len(stays)),
            positions={
                axis: places(axis, of[stays]) for axis, of in group.positions.items() if axis.tensor not in gone
            },
            consumers=tuple(name for name in group.consumers if name in names),
        )
        for group in graph
        if len(stays := kept[group.name])
    )
    return replace(graph, groups=groups, layers=layers)


@torch.no_grad()
def widened(model: nn.Module, graph: ChannelGraph, plan: Plan, small: nn.Module) -> None:
    """Give `model`, at full width, the weights of `small`, the network that a plan leaves of it: `cut` gives them
    back. All weights of the other channels become zero, so that the whole computes what `small` does."""
    dropped, trained = graph.dropped(plan), named_tensors(small)
    for name, tensor in named_tensors(model).items():
        if name not in trained:
            tensor.zero_()
            continue
        value = trained[name].to(tensor)
        for dim in range(tensor.dim()):
            if (missing := dropped.get(Axis(name, dim))) is not None:
                shape = [*value.shape[:dim], tensor.shape[dim], *value.shape[dim + 1 :]]
                # whole numbers are indices, of channels that are there or not
                whole = value.new_zeros(shape) if tensor.is_floating_point() else tensor.clone()
                value = whole.index_copy(dim, kept_places(tensor.shape[dim], missing), value)
        tensor.copy_(value)
