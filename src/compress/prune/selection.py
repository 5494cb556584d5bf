"""Channels in the order in which they go: the smallest scores first, as many as a budget asks for.

Two ways to say how many. A share of channels by a percentile, as network slimming has it (Liu et al., ICCV 2017,
arXiv:1708.06519, section 3): with the scores of all groups in one pool of N, ascending, `threshold = s[int(N * p)]`,
and what is above it stays (strictly, so without ties N - int(N * p) - 1 channels do). Or a share of MACs: channels go
in the same order, one step at a time, until the network fits. A larger budget never keeps fewer channels of a group.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from compress.errors import OWN, SettingError
from compress.graph.plan import Plan
from compress.graph.types import ChannelGraph
from compress.io.files import JSON
from compress.io.seeds import derive_seed
from compress.prune.budget import preserve_ratio
from compress.prune.cost import CostModel
from compress.prune.method import Decision, Evidence, Problem
from compress.prune.order import plan_of
from compress.prune.refit import input_moments, refitted
from compress.prune.scores import Coupled, Scores, Threshold, check_ties, kept_counts, largest_percent, most_first
from compress.prune.widths import Choices, all_choices, largest_count, reachable, uniform_widths
from compress.schema.bounds import Count, Natural
from compress.schema.settings import Budget

REFIT_BATCH, REFIT_POINTS = 250, 10  # images per batch, output pixels per image


@dataclass(frozen=True, kw_only=True)
class Selection:
    """How scores become widths, as methods set it; every value's meaning stands in conf/method/slimming.yaml."""

    scope: Literal["global", "layer"]
    select: Threshold
    on_empty: Literal["keep_max", "error", "drop_block"]
    min_channels: Count
    round_to: Count
    coupled: Coupled
    refit_images: Natural

    def __post_init__(self) -> None:
        if self.select == "threshold" and self.round_to > 1:
            raise SettingError(
                f"{OWN}round_to={self.round_to}: a threshold knows no multiples; use {OWN}select=rank with it"
            )


@dataclass(frozen=True)
class Selected:
    """What a budget leaves, and how that came about."""

    plan: Plan
    options: Choices  # the widths that were allowed
    thresholds: Mapping[str, float]  # of all scores, or of each group's
    emptied: Sequence[str]  # groups of which the scores alone would have left nothing
    warnings: Sequence[str]


# -- before anything runs ---------------------------------------------------------------------------------------


def check_reach(how: Selection, graph: ChannelGraph, cost: CostModel, budget: Budget, scored: set[str]) -> None:
    """Of the groups in `scored` channels can go. How far a threshold reaches the scores say, and `on_empty`.

    Raises:
        InputError: no group has scores, or the budget is out of reach; names what can be reached.
    """
    if not scored:
        raise SettingError(
            f"{OWN}coupled={how.coupled}: leaves no group of channels to choose from, as several layers make "
            f"each of them; use {OWN}coupled=sum"
        )
    widest = max(group.width for group in graph if group.name in scored)
    if how.min_channels >= widest:
        raise SettingError(
            f"{OWN}min_channels={how.min_channels}: must be below {widest}, the width of the widest group, "
            "or nothing can go"
        )
    if budget.kind == "percent" and how.select == "threshold":
        return
    options = allowed_widths(how, graph, scored)
    if budget.kind == "percent":
        total = sum(group.width for group in graph if group.name in scored)
        most = sum(g.width - int(widths[0]) for g, widths in zip(graph, options, strict=True)) / total
        if budget.value > most:
            raise SettingError(
                f"{budget}: out of reach; with {OWN}min_channels={how.min_channels} and {OWN}round_to="
                f"{how.round_to} at most {math.floor(1e4 * most) / 1e4} of the {total} channels can go"
            )
        return
    low, _ = reachable(cost, options)
    target = preserve_ratio(budget, cost)
    if target < low:
        raise SettingError(
            f"{budget}: out of reach; with {OWN}min_channels={how.min_channels}, {OWN}round_to="
            f"{how.round_to} and {OWN}coupled={how.coupled} at least {low:.4f} of the "
            f"{cost.full_macs / 1e6:.4g} MMACs stay"
        )


def allowed_widths(how: Selection, graph: ChannelGraph, scored: set[str]) -> Choices:
    """Allowed widths of every group, ascending."""
    options = []
    for group, widths in zip(graph, all_choices(graph, how.round_to), strict=True):
        least = min(how.min_channels, group.width)
        fits = widths[widths >= least] if group.name in scored else widths[-1:]
        if group.name in scored and how.on_empty == "drop_block" and group.name in graph.emptiable:
            fits = np.array([0, *fits], dtype=np.int64)
        options.append(fits)
    return options


# -- deciding ---------------------------------------------------------------------------------------------------


def decide(how: Selection, problem: Problem, scores: Scores) -> Decision:
    """The plan, and what there is to say of it: thresholds, emptied layers, the largest percent without one.

    Raises:
        InputError: a layer would lose all channels and `on_empty` is error, or a threshold among equal scores.
    """
    graph = problem.graph
    selected = select(how, graph, problem.cost, problem.budget, scores)
    widths = zip(graph, graph.widths(selected.plan), strict=True)
    kept = sum(width for group, width in widths if group.name in scores)
    largest = largest_percent_of(how, scores)
    own: JSON = {
        "thresholds": selected.thresholds,
        "emptied": selected.emptied,
        "largest_percent_without_empty": largest,
        "kept_channels": kept,
        "channels": sum(map(len, scores.values())),
        "unscored": [group.name for group in graph if group.name not in scores],
    }
    refit = _refit(how, problem)
    evidence = Evidence(
        scores=scores,
        choices=selected.options,
        refit=refit,
        percent=1 - kept / own["channels"],
        rounding_step=_rounding_step(how, problem, selected.options, scores),
    )
    return Decision(
        selected.plan,
        weights=refit(selected.plan) if refit is not None else {},
        own=own,
        notes=[f"up to percent={largest:.4f} no layer is emptied"],
        warnings=selected.warnings,
        evidence=evidence,
    )


def select(how: Selection, graph: ChannelGraph, cost: CostModel, budget: Budget, scores: Scores) -> Selected:
    """What these scores come to under the budget; the network itself is not asked.

    Raises:
        InputError: a layer would lose all channels and `on_empty` is error, or a threshold among equal scores.
    """
    options = allowed_widths(how, graph, set(scores))
    if budget.kind == "percent":
        widths, thresholds, emptied = _to_percent(how, graph, scores, options, budget.value)
    else:
        target = preserve_ratio(budget, cost)
        widths = _to_macs(how, graph, cost, scores, options, target)
        gone = _largest_gone(graph, scores, widths)
        most = max(gone.values(), default=0.0)
        if how.select == "threshold" and how.scope == "global":
            check_ties(torch.cat(list(scores.values())), most, budget)
        thresholds = {"all": most} if how.scope == "global" else gone
        emptied = [n for n, score in scores.items() if how.scope == "global" and float(score.max()) < most]
    emptied += [g.name for g, w in zip(graph, widths, strict=True) if w == 0 and g.name not in emptied]
    orders = {g.name: most_first(scores[g.name]) if g.name in scores else torch.arange(g.width) for g in graph}
    plan = plan_of(graph, orders, widths)
    if how.on_empty == "drop_block" and not _is_alive(graph, plan):
        # blocks that can go one by one, but not all of them at once
        widths = [max(w, int(found[found > 0][0])) for w, found in zip(widths, options, strict=True)]
        plan = plan_of(graph, orders, widths)
    return Selected(plan, options, thresholds, emptied, _warnings(how, budget, scores, widths, thresholds, emptied))


def _refit(how: Selection, problem: Problem) -> Callable[[Plan], Mapping[str, Tensor]] | None:
    """What gives the readers of a plan's channels new weights, by least squares on training images.

    He, Zhang and Sun, "Channel Pruning for Accelerating Very Deep Neural Networks", ICCV 2017, arXiv:1707.06168,
    section 3.1, without its choice of channels.
    """
    if not how.refit_images:
        return None
    graph, model, seed = problem.graph, problem.model, derive_seed(problem.seed, "refit")
    drawn = problem.data.drawn("train", how.refit_images, REFIT_BATCH, seed, problem.device)
    generator = torch.Generator().manual_seed(seed)
    moments = input_moments(model, graph, (images for images, _ in drawn), REFIT_POINTS, generator)

    return lambda plan: refitted(model, graph, moments, plan)


def _to_percent(
    how: Selection, graph: ChannelGraph, scores: Scores, options: Choices, percent: float
) -> tuple[list[int], dict[str, float], list[str]]:
    """Widths, thresholds (one, or one per group) and the groups of which nothing would be left."""
    pools = [scores] if how.scope == "global" else [{name: score} for name, score in scores.items()]
    wanted: dict[str, int] = {}
    thresholds: dict[str, float] = {}
    for pool in pools:
        kept, threshold = kept_counts(pool, percent, how.select)
        wanted |= kept
        thresholds |= {"all": threshold} if how.scope == "global" else dict.fromkeys(pool, threshold)
    emptied = [name for name, width in wanted.items() if width == 0]
    if how.select == "rank" and how.scope == "global":
        gone = int(sum(map(len, scores.values())) * percent)
        full = sum(group.width for group in graph)
        return _narrowed(graph, scores, options, lambda widths: full - sum(widths) <= gone), thresholds, emptied
    aims = [wanted.get(group.name, group.width) for group in graph]
    widths = [_nearest(aim, w[w > 0] if aim else w) for aim, w in zip(aims, options, strict=True)]
    return widths, thresholds, emptied


def _to_macs(
    how: Selection, graph: ChannelGraph, cost: CostModel, scores: Scores, options: Choices, target: float
) -> list[int]:
    if how.scope == "layer":
        return list(uniform_widths(cost, options, target))
    limit = target * cost.full_macs
    return _narrowed(graph, scores, options, lambda widths: int(cost.macs(widths)[0]) > limit, one_more=True)


def _rounding_step(how: Selection, problem: Problem, options: Choices, scores: Scores) -> float:
    """The coarsest single step, in what the budget counts: a share of channels, or of MACs."""
    gaps = [int(np.diff(widths).max(initial=0)) for widths in options]
    if problem.budget.kind == "percent":
        channels = sum(map(len, scores.values()))
        return (sum(gaps) if how.scope == "layer" else max(gaps)) / channels
    full = problem.cost.full_widths
    narrower = np.stack([full] * len(full)) - np.diag(gaps)
    return float((problem.cost.full_macs - problem.cost.macs(narrower)).max()) / problem.cost.full_macs


def _warnings(
    how: Selection,
    budget: Budget,
    scores: Scores,
    widths: Sequence[int],
    thresholds: Mapping[str, float],
    emptied: Sequence[str],
) -> list[str]:
    """
    Raises:
        InputError: a layer would lose all channels and `on_empty` is error.
    """
    if not emptied:
        return []
    name, largest = emptied[0], largest_percent_of(how, scores)
    if how.on_empty == "error":
        threshold = thresholds.get(name, thresholds.get("all", 0.0))
        raise SettingError(
            f"{budget}: {name} would lose all of its channels (threshold {threshold:.4g}, its largest score "
            f"{float(scores[name].max()):.4g}); up to percent={largest:.4f} no layer does; or use "
            f"{OWN}on_empty=keep_max"
        )
    gone = sum(width == 0 for width in widths)
    blocks = f"{gone} of them go with their block, of the others " if how.on_empty == "drop_block" else ""
    return [
        f"{budget}: {len(emptied)} of {len(scores)} groups would lose all of their channels, {name} first; "
        f"{blocks}{how.min_channels} stay; up to percent={largest:.4f} none is emptied"
    ]


def largest_percent_of(how: Selection, scores: Scores) -> float:
    """The largest share of channels, rounded down to four digits, at which no group loses all of its own."""
    pools = [scores] if how.scope == "global" else [{name: score} for name, score in scores.items()]
    return min((largest_percent(pool, how.select) for pool in pools), default=0.0)


def _is_alive(graph: ChannelGraph, plan: Plan) -> bool:
    try:
        graph.kept(plan)
    except ValueError:
        return False
    return True


def _nearest(aim: int, widths: NDArray[np.int64]) -> int:
    """The allowed width nearest to the aimed one, the wider of two."""
    return int(widths[::-1][np.abs(widths[::-1] - aim).argmin()])


def _narrowed(
    graph: ChannelGraph,
    scores: Scores,
    options: Choices,
    holds: Callable[[Sequence[int]], bool],
    one_more: bool = False,
) -> list[int]:
    """As many steps down, smallest scores first, as `holds`; `one_more` makes it the first number that does not.

    A step takes a group to its next narrower width; its score is the mean of the channels that go.
    """
    steps: list[tuple[float, int]] = []
    for at, (group, widths) in enumerate(zip(graph, options, strict=True)):
        if group.name not in scores:
            continue
        ordered = scores[group.name].double().sort(stable=True).values
        ends = (group.width - torch.from_numpy(widths.copy()).flip(0)).tolist()
        steps += [(float(ordered[a:b].mean()), at) for a, b in pairwise(ends)]
    goes = np.array([at for _, at in sorted(steps, key=lambda step: step[0])], dtype=np.int64)

    def after(count: int) -> list[int]:
        taken = np.bincount(goes[:count], minlength=len(options))
        return [int(widths[len(widths) - 1 - steps]) for widths, steps in zip(options, taken, strict=True)]

    count = largest_count(len(goes), lambda steps: holds(after(steps)))
    more = one_more and holds(after(count)) and count < len(goes)
    return after(count + more)


def _largest_gone(graph: ChannelGraph, scores: Scores, widths: Sequence[int]) -> dict[str, float]:
    """The largest score that goes, of every group that loses channels."""
    return {
        group.name: float(scores[group.name].sort().values[group.width - width - 1])
        for group, width in zip(graph, widths, strict=True)
        if group.name in scores and width < group.width
    }
