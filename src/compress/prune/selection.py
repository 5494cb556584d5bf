"""From scores and a budget to a plan: channels are removed in ascending order of score until the budget is met.

`select` is where a budget becomes widths by scores. A budget in channels (`percent`) is a percentile, as in network
slimming (Liu et al., ICCV 2017, arXiv:1708.06519, section 3): with the scores s of all groups in one pool of N,
ascending, `threshold = s[int(N * p)]`, and channels strictly above it are kept (N - int(N * p) - 1 without ties). A
budget in any other unit removes channels in the same order, one step of an allowed width at a time, until the network
fits; so do the limits that stand beside either. A larger budget never keeps fewer channels of a group.

`scope: isomorphic` ranks within classes of groups of the same structure, each of which loses the same share, as
scores of layers of different kinds do not compare (Fang et al., "Isomorphic Pruning for Vision Models", ECCV 2024,
arXiv:2407.04616). There a class is a set of identical sub-graphs; here the number of layers of each kind may differ,
or every residual stream of a network would be a class of its own.
"""

import math
from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from compress.errors import OWN, SettingError
from compress.graph.plan import Plan
from compress.graph.types import ChannelGraph, ChannelGroup
from compress.io.files import JSON
from compress.io.seeds import derive_seed
from compress.prune.budget import Ceiling, Ceilings, Price, alone, ceilings_of, prices
from compress.prune.cost import CostModel
from compress.prune.limits import Limits, free
from compress.prune.method import Decision, Evidence, Problem
from compress.prune.order import plan_of
from compress.prune.refit import input_moments, refitted
from compress.prune.scores import (
    Coupled,
    Scores,
    Select,
    check_ties,
    kept_counts,
    largest_share_without_empty,
    most_first,
    producers,
)
from compress.prune.surgery import masked
from compress.prune.widths import Choices, all_choices, ends, largest_count, uniform_within
from compress.schema.bounds import Count, Natural, Share
from compress.schema.settings import Budget

Scope = Literal["global", "layer", "isomorphic"]

REFIT_BATCH, REFIT_POINTS = 250, 10  # images per batch, output pixels per image


@dataclass(frozen=True, kw_only=True)
class Selection(Limits):
    """Settings of the selection, shared by methods; conf/method/slimming.yaml explains every value."""

    scope: Scope
    select: Select
    on_empty: Literal["keep_max", "error", "drop_block"]
    min_channels: Count
    round_to: Count
    coupled: Coupled
    refit_images: Natural
    protect: Share = 1.0

    def __post_init__(self) -> None:
        if self.select == "threshold" and self.round_to > 1:
            raise SettingError(
                f"{OWN}round_to={self.round_to}: a threshold knows no multiples; use {OWN}select=rank with it"
            )


@dataclass(frozen=True)
class Selected:
    """The plan of a budget, and how it was reached."""

    plan: Plan
    options: Choices  # allowed widths of every group
    thresholds: Mapping[str, float]  # "all": of one pool; or by group
    emptied: Sequence[str]  # groups that would have lost all channels by their scores alone
    warnings: Sequence[str]


# -- checks before the run ---------------------------------------------------------------------------------------


def check_reach(how: Selection, graph: ChannelGraph, ceilings: Ceilings, scored: set[str]) -> None:
    """Check that the budgets are reachable when only the groups in `scored` lose channels.

    Not checked for `percent` with a threshold: there it depends on the scores and on `on_empty`.

    Raises:
        InputError: no group has scores, or a budget is out of reach; names what is reachable.
    """
    if scored and not (
        scored := {group.name for group in graph if group.name in scored and group.least < group.width}
    ):
        raise SettingError(
            f"{OWN}coupled={how.coupled}: leaves no group of channels that the limits ({OWN}skip, {OWN}only, "
            f"{OWN}keep) let go; use {OWN}coupled=sum"
        )
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
    narrowest = ends(allowed_widths(how, graph, scored))[:1]
    problems = []
    for limit in ceilings.every:
        by_threshold = limit.budget.kind == "percent" and how.select == "threshold"
        if not by_threshold and not limit.fits(narrowest)[0]:
            problems.append(_out_of_reach(how, limit, float(limit.price(narrowest)[0])))
    if problems:
        raise SettingError(*problems)


def check_problem(how: Selection, problem: Problem, scored: set[str]) -> None:
    """`check_reach` of the budget of a run."""
    ceilings = ceilings_for(problem.graph, problem.cost, problem.budget, scored, problem.latency)
    check_reach(how, problem.graph, ceilings, scored)


def _out_of_reach(how: Selection, limit: Ceiling, least: float) -> str:
    settings = f"{alone(limit.budget)}: out of reach; with {_limits(how)}"
    if limit.budget.kind == "percent":
        return f"{settings} and {OWN}round_to={how.round_to} at most {limit.told(least, 'most')} can go"
    return (
        f"{settings}, {OWN}round_to={how.round_to} and {OWN}coupled={how.coupled} at least "
        f"{limit.told(least, 'least')} stay"
    )


def ceilings_for(
    graph: ChannelGraph,
    cost: CostModel | None,
    budget: Budget,
    scored: Collection[str],
    latency: Callable[[], Price] | None = None,
) -> Ceilings:
    """As `Problem.ceilings`, but shares of channels are of those with scores that may go. A budget in channels alone
    needs no cost model."""
    counted = [group.name in scored and group.least < group.width for group in graph]
    return ceilings_of(budget, [group.width for group in graph], prices(cost, counted=counted, latency=latency))


def allowed_widths(how: Selection, graph: ChannelGraph, scored: set[str]) -> Choices:
    """Allowed widths of every group, ascending."""
    options = []
    for group, widths in zip(graph, all_choices(graph, how.round_to), strict=True):
        least = min(max(how.min_channels, _protected(how, group.width)), group.width)
        fits = widths[widths >= least] if group.name in scored else widths[-1:]
        may_go = how.on_empty == "drop_block" and group.name in graph.emptiable and how.protect == 1
        if group.name in scored and may_go and group.least == 1:
            fits = np.array([0, *fits], dtype=np.int64)
        options.append(fits)
    return options


def _protected(how: Selection, width: int) -> int:
    """How many channels of a group stay, as it may lose a share of them only."""
    return math.ceil((1 - how.protect) * width - 1e-9)


def _limits(how: Selection) -> str:
    """The settings that limit what may go, for messages."""
    protect = f", {OWN}protect={how.protect:g}" if how.protect < 1 else ""
    return f"{OWN}min_channels={how.min_channels}{protect}"


def structure(graph: ChannelGraph, group: ChannelGroup) -> Hashable:
    """What groups of one class have in common: the kinds of layers that make their channels, pass them on and read
    them, whatever their number and width, and whether several make them (a residual stream)."""
    kinds = {
        ("reads" if layer.name in group.consumers else "makes", layer.kind, layer.kernel, layer.in_axis is None)
        for layer in graph.layers
        if layer.name in group.consumers or layer.out_axis in group.positions
    }
    return frozenset(kinds), producers(graph, group) > 1


def pools(how: Selection, graph: ChannelGraph, scores: Scores) -> list[Scores]:
    """The groups whose scores are ranked together: all, those of one structure, or each alone."""
    if how.scope == "global":
        return [scores]
    if how.scope == "layer":
        return [{name: score} for name, score in scores.items()]
    classes: dict[Hashable, dict[str, Tensor]] = {}
    for group in graph:
        if group.name in scores:
            classes.setdefault(structure(graph, group), {})[group.name] = scores[group.name]
    return list(classes.values())


# -- deciding ---------------------------------------------------------------------------------------------------


def decide(how: Selection, problem: Problem, scores: Scores) -> Decision:
    """The plan of the problem's budget, refitted weights, and a report: thresholds, emptied groups, the largest
    percent that empties none.

    Raises:
        InputError: a layer would lose all channels and `on_empty` is error, or a threshold among equal scores.
    """
    graph, scores = problem.graph, free(problem.graph, scores)
    ceilings = ceilings_for(graph, problem.cost, problem.budget, scores, problem.latency)
    selected = select(how, graph, ceilings, scores)
    plan = within(selected.plan, problem.before)
    widths = zip(graph, graph.widths(plan), strict=True)
    kept = sum(width for group, width in widths if group.name in scores)
    largest = _largest_share(how, graph, scores)
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
        rounding_step=_rounding_step(how, ceilings.aim, graph, selected.options, scores),
    )
    return Decision(
        plan,
        weights=refit(plan) if refit is not None else {},
        own=own,
        notes=[f"up to percent={largest:.4f} no layer is emptied"],
        warnings=selected.warnings,
        evidence=evidence,
    )


def within(plan: Plan, before: Plan | None) -> Plan:
    """A plan without the channels that an earlier step has cut."""
    if before is None:
        return plan
    left = {name: set(channels) for name, channels in before.kept.items()}
    return Plan(
        {name: [c for c in channels if name not in left or c in left[name]] for name, channels in plan.kept.items()}
    )


def select(how: Selection, graph: ChannelGraph, ceilings: Ceilings, scores: Scores) -> Selected:
    """The plan of a budget by these scores alone; the weights of the network are not read. `ceilings` are those of
    `ceilings_for`.

    Raises:
        InputError: a layer would lose all channels and `on_empty` is error, or a threshold among equal scores.
    """
    scores = free(graph, scores)
    options = allowed_widths(how, graph, set(scores))
    budget = ceilings.aim.budget
    if budget.kind == "percent":
        widths, thresholds, emptied = _widths_for_channels(how, graph, scores, options, ceilings)
    else:
        widths = _widths_within(how, graph, scores, options, ceilings)
        removed = _largest_removed(graph, scores, widths)
        most = max(removed.values(), default=0.0)
        if how.select == "threshold" and how.scope == "global":
            check_ties(torch.cat(list(scores.values())), most, budget)
        thresholds = {"all": most} if how.scope == "global" else removed
        emptied = [n for n, score in scores.items() if how.scope == "global" and float(score.max()) < most]
    emptied += [g.name for g, w in zip(graph, widths, strict=True) if w == 0 and g.name not in emptied]
    orders = {g.name: most_first(scores[g.name]) if g.name in scores else torch.arange(g.width) for g in graph}
    plan = plan_of(graph, orders, widths)
    if how.on_empty == "drop_block" and not _is_alive(graph, plan):
        # each emptied block can be removed alone, but not all of them together
        widths = [max(w, int(allowed[allowed > 0][0])) for w, allowed in zip(widths, options, strict=True)]
        plan = plan_of(graph, orders, widths)
    warnings = _warnings(how, graph, budget, scores, widths, thresholds, emptied)
    return Selected(plan, options, thresholds, emptied, warnings)


def _refit(how: Selection, problem: Problem) -> Callable[[Plan], Mapping[str, Tensor]] | None:
    """A function from a plan to new weights of the layers that read pruned channels, by least squares on training
    images; None if `refit_images` is 0.

    He, Zhang and Sun, "Channel Pruning for Accelerating Very Deep Neural Networks", ICCV 2017, arXiv:1707.06168,
    section 3.1, without its LASSO selection of channels.
    """
    if not how.refit_images:
        return None
    graph, model, seed = problem.graph, problem.model, derive_seed(problem.seed, "refit")
    drawn = problem.data.drawn("train", how.refit_images, REFIT_BATCH, seed, problem.device)
    generator = torch.Generator().manual_seed(seed)
    with nullcontext() if problem.before is None else masked(model, graph, problem.before):
        moments = input_moments(model, graph, (images for images, _ in drawn), REFIT_POINTS, generator)

    return lambda plan: refitted(model, graph, moments, plan)


Chosen = tuple[list[int], dict[str, float], list[str]]  # widths, thresholds (one, or by group), emptied groups


def _widths_for_channels(
    how: Selection, graph: ChannelGraph, scores: Scores, options: Choices, ceilings: Ceilings
) -> Chosen:
    """For a share of channels that goes; as much more of them as the limits beside it ask for."""
    total = sum(map(len, scores.values()))

    def fits(chosen: Chosen) -> bool:
        return all(limit.fits(chosen[0])[0] for limit in ceilings.beside)

    chosen = _widths_for_share(how, graph, scores, options, ceilings.aim.budget.value)
    if fits(chosen):
        return chosen
    asked = int(total * ceilings.aim.budget.value)

    def with_more(count: int) -> Chosen:
        return _widths_for_share(how, graph, scores, options, min(asked + count + 0.5, total - 0.5) / total)

    return with_more(1 + largest_count(total - asked - 1, lambda count: not fits(with_more(count))))


def _widths_for_share(
    how: Selection, graph: ChannelGraph, scores: Scores, options: Choices, removed_share: float
) -> Chosen:
    """Widths, thresholds (one, or one per group) and the groups that the scores alone would empty."""
    wanted: dict[str, int] = {}
    thresholds: dict[str, float] = {}
    for pool in pools(how, graph, scores):
        kept, threshold = kept_counts(pool, removed_share, how.select)
        wanted |= kept
        thresholds |= {"all": threshold} if how.scope == "global" else dict.fromkeys(pool, threshold)
    emptied = [name for name, width in wanted.items() if width == 0]
    if how.select == "rank" and how.scope != "layer":
        most_removed = int(sum(map(len, scores.values())) * removed_share)
        full = sum(group.width for group in graph)
        return (
            _narrowed(how, graph, scores, options, lambda widths: full - sum(widths) <= most_removed),
            thresholds,
            emptied,
        )
    targets = [wanted.get(group.name, group.width) for group in graph]
    widths = [_nearest(aim, w[w > 0] if aim else w) for aim, w in zip(targets, options, strict=True)]
    return widths, thresholds, emptied


def _widths_within(
    how: Selection, graph: ChannelGraph, scores: Scores, options: Choices, ceilings: Ceilings
) -> list[int]:
    if how.scope == "layer":
        return list(uniform_within([group.width for group in graph], options, ceilings.fits))
    return _narrowed(how, graph, scores, options, lambda widths: not ceilings.fits(widths)[0], one_more=True)


def _rounding_step(how: Selection, aim: Ceiling, graph: ChannelGraph, options: Choices, scores: Scores) -> float:
    """The largest change by a single step, as a share: of channels with scores, or of the dense network's price."""
    gaps = [int(np.diff(widths).max(initial=0)) for widths in options]
    if aim.budget.kind == "percent":
        channels = sum(map(len, scores.values()))
        at_once = how.scope == "layer" or (how.scope == "isomorphic" and how.select == "threshold")
        return (sum(gaps) if at_once else max(gaps)) / channels
    full = np.array([group.width for group in graph])
    narrower = np.stack([full] * len(full)) - np.diag(gaps)
    return float((aim.full - aim.price(narrower)).max()) / aim.full


def _warnings(
    how: Selection,
    graph: ChannelGraph,
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
    if not emptied or how.protect < 1:
        return []
    name, largest = emptied[0], _largest_share(how, graph, scores)
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


def _largest_share(how: Selection, graph: ChannelGraph, scores: Scores) -> float:
    """The largest share of channels, rounded down to four digits, at which no group loses all of its channels."""
    ranked = pools(how, graph, scores)
    return min((largest_share_without_empty(pool, how.select) for pool in ranked), default=0.0)


def _is_alive(graph: ChannelGraph, plan: Plan) -> bool:
    try:
        graph.kept(plan)
    except ValueError:
        return False
    return True


def _nearest(aim: int, widths: NDArray[np.int64]) -> int:
    """The allowed width nearest to the target width, the wider of two equally near."""
    return int(widths[::-1][np.abs(widths[::-1] - aim).argmin()])


def _narrowed(
    how: Selection,
    graph: ChannelGraph,
    scores: Scores,
    options: Choices,
    holds: Callable[[Sequence[int]], bool],
    one_more: bool = False,
) -> list[int]:
    """Widths after the largest number of steps, in ascending order of score, for which `holds(widths)` is true; with
    `one_more` after the smallest number for which it is false.

    A step takes a group to its next narrower allowed width; its score is the mean score of the channels it removes.
    With several pools every one loses the same share: a step's place is that of its channels among those of its pool.
    """
    ranked = pools(how, graph, scores)
    steps: list[tuple[float, int]] = []
    for pool in ranked:
        of_pool = [
            step
            for place, (group, widths) in enumerate(zip(graph, options, strict=True))
            if group.name in pool
            for step in _steps(pool[group.name], widths, place)
        ]
        steps += [(score, at) for score, at, _ in of_pool] if len(ranked) == 1 else _by_share(of_pool)
    narrowed = np.array([index for _, index in sorted(steps, key=lambda step: step[0])], dtype=np.int64)

    def widths_after(count: int) -> list[int]:
        taken = np.bincount(narrowed[:count], minlength=len(options))
        return [int(widths[len(widths) - 1 - steps]) for widths, steps in zip(options, taken, strict=True)]

    count = largest_count(len(narrowed), lambda steps: holds(widths_after(steps)))
    more = one_more and holds(widths_after(count)) and count < len(narrowed)
    return widths_after(count + more)


def _steps(score: Tensor, widths: NDArray[np.int64], place: int) -> list[tuple[float, int, int]]:
    """The steps of the group at `place`: the score, the place, and how many channels go."""
    ordered = score.double().sort(stable=True).values
    ends = (len(score) - torch.from_numpy(widths.copy()).flip(0)).tolist()
    return [(float(ordered[a:b].mean()), place, b - a) for a, b in pairwise(ends)]


def _by_share(steps: Sequence[tuple[float, int, int]]) -> list[tuple[float, int]]:
    """Steps of one pool by the share of its channels that have gone half-way through each, instead of by score."""
    ordered = sorted(steps, key=lambda step: step[0])
    gone = np.cumsum([count for _, _, count in ordered])
    return [
        (float(after - count / 2) / float(gone[-1]), place)
        for (_, place, count), after in zip(ordered, gone, strict=True)
    ]


def _largest_removed(graph: ChannelGraph, scores: Scores, widths: Sequence[int]) -> dict[str, float]:
    """The largest score that is removed, for every group that loses channels."""
    return {
        group.name: float(scores[group.name].sort().values[group.width - width - 1])
        for group, width in zip(graph, widths, strict=True)
        if group.name in scores and width < group.width
    }
