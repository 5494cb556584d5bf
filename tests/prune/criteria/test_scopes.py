"""Ranking within classes of one structure, and how much of a group may go."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from conftest import CPU, compose_config, livened, zoo
from torch import nn

from compress.config.build import make
from compress.config.criteria import GivenBatches, criterion_of
from compress.errors import InputError
from compress.graph.build import channel_graph
from compress.methods.filter_magnitude import FilterMagnitude
from compress.prune.cost import cost_model
from compress.prune.criteria.criterion import totals
from compress.prune.method import Decision, Problem
from compress.prune.selection import pools, structure
from compress.schema.settings import Budget

SHAPE = (3, 32, 32)
FILTERS: FilterMagnitude = make(compose_config("method=filter_magnitude")["method"])
CLASSES = replace(FILTERS, scope="isomorphic", coupled="sum", normalise="none")
PROBLEMS: dict[str, Problem] = {}


@pytest.fixture
def problem(request: pytest.FixtureRequest) -> Problem:
    name = getattr(request, "param", "resnet20")
    if name not in PROBLEMS:
        torch.manual_seed(0)
        model = livened(zoo(name))
        graph, data = channel_graph(model, SHAPE), SimpleNamespace(shape=SHAPE)
        cost = cost_model(model, graph, SHAPE)
        PROBLEMS[name] = Problem(model, graph, cost, data, Budget("percent", 0.5), CPU, 0)  # type: ignore[arg-type]
    return PROBLEMS[name]


def at(problem: Problem, method: FilterMagnitude, kind: Any, value: float) -> Decision:
    asked = replace(problem, budget=Budget(kind, value))
    assert method.check(asked) == asked.budget
    return method.plan(asked, None)


def classes_of(problem: Problem) -> list[set[str]]:
    scores = {group.name: torch.zeros(group.width) for group in problem.graph}
    return [set(pool) for pool in pools(CLASSES, problem.graph, scores)]


def test_inner_groups_of_all_blocks_are_of_one_class_and_no_stream_is_of_it(problem: Problem) -> None:
    inner = {f"layer{stage}.{block}.conv1" for stage in (1, 2, 3) for block in (0, 1, 2)}
    streams = {group.name for group in problem.graph} - inner
    assert inner in classes_of(problem)
    assert set().union(*classes_of(problem)) == inner | streams
    assert all(not one & inner for one in classes_of(problem) if one != inner)


@pytest.mark.slow
@pytest.mark.parametrize("problem", ["mobilenetv2"], indirect=True)
def test_depthwise_layers_and_streams_are_told_apart(problem: Problem) -> None:
    wide = [one for one in classes_of(problem) if len(one) > 5]
    (expanded,) = wide  # made by a 1x1, passed on by a depthwise 3x3, read by a 1x1: in all blocks but the first
    assert len(expanded) >= 15


def shares_lost(problem: Problem, decision: Decision) -> list[float]:
    """Of every class."""
    kept = dict(zip((g.name for g in problem.graph), problem.graph.widths(decision.plan), strict=True))
    full = {group.name: group.width for group in problem.graph}
    return [1 - sum(kept[n] for n in one) / sum(full[n] for n in one) for one in classes_of(problem)]


@pytest.mark.parametrize(("kind", "value"), [("percent", 0.3), ("preserve_ratio", 0.5)])
@pytest.mark.parametrize("problem", ["resnet20", "vgg11_bn"], indirect=True)
def test_every_class_loses_the_same_share_whatever_its_scores(problem: Problem, kind: Any, value: float) -> None:
    model = problem.model
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with torch.no_grad():
        model.get_parameter(f"{problem.graph[1].name}.weight").mul_(1000)  # which alone would decide a common pool
    try:
        lost = shares_lost(problem, at(problem, CLASSES, kind, value))
        together = shares_lost(problem, at(problem, replace(CLASSES, scope="global"), kind, value))
    finally:
        model.load_state_dict(before)
    smallest = min(sum(g.width for g in problem.graph if g.name in one) for one in classes_of(problem))
    assert max(lost) - min(lost) <= 1.5 / smallest  # a channel of the smallest class
    if len(lost) > 1:
        assert max(together) - min(together) > 3 * (max(lost) - min(lost))


def test_within_a_class_the_smallest_scores_go(problem: Problem) -> None:
    decision = at(problem, CLASSES, "percent", 0.4)
    assert decision.evidence.scores is not None
    for one in classes_of(problem):
        kept, gone = [], []
        for name in one:
            stays = torch.zeros(len(decision.evidence.scores[name]), dtype=torch.bool)
            stays[list(decision.plan.kept[name])] = True
            if int(stays.sum()) > CLASSES.min_channels:  # which stay whatever they are worth
                kept.append(decision.evidence.scores[name][stays])
            gone.append(decision.evidence.scores[name][~stays])
        assert float(torch.cat(gone).max()) <= float(torch.cat(kept).min())


@pytest.mark.parametrize("select", ["rank", "threshold"])
def test_a_threshold_of_each_class_takes_its_share_too(problem: Problem, select: Any) -> None:
    decision = at(problem, replace(CLASSES, select=select), "percent", 0.4)
    assert all(abs(lost - 0.4) < 1 / 16 for lost in shares_lost(problem, decision))
    assert len(set(decision.own["thresholds"].values())) == len(classes_of(problem))


@pytest.mark.parametrize("scope", ["global", "layer", "isomorphic"])
@pytest.mark.parametrize("protect", [1.0, 0.5])
def test_larger_budgets_keep_all_of_smaller_ones_and_are_met_from_below(
    problem: Problem, scope: Any, protect: float
) -> None:
    method, kept = replace(CLASSES, scope=scope, protect=protect), None
    for asked in np.linspace(0.35, 1.0, 8):
        decision = at(problem, method, "preserve_ratio", float(asked))
        share = problem.cost.macs(decision.plan) / problem.cost.full_macs
        assert asked - decision.evidence.rounding_step - 1e-9 <= share <= asked
        if kept is not None:
            assert all(set(channels) <= set(decision.plan.kept[name]) for name, channels in kept.items())
        kept = decision.plan.kept


@pytest.mark.parametrize("select", ["rank", "threshold"])
@pytest.mark.parametrize("scope", ["global", "layer", "isomorphic"])
@pytest.mark.parametrize(("kind", "value"), [("preserve_ratio", 0.3), ("percent", 0.5)])
def test_no_group_loses_more_than_is_allowed(
    problem: Problem, select: Any, scope: Any, kind: Any, value: float
) -> None:
    unlimited, limited = (
        at(problem, replace(CLASSES, scope=scope, select=select, protect=protect), kind, value)
        for protect in (1.0, 0.6)
    )
    for group in problem.graph:
        assert len(limited.plan.kept[group.name]) >= 0.4 * group.width - 1e-9
    if scope == "global":
        assert any(len(unlimited.plan.kept[group.name]) < 0.4 * group.width for group in problem.graph)
        if select == "rank" and kind == "percent":  # others lose instead
            assert sum(map(len, limited.plan.kept.values())) == sum(map(len, unlimited.plan.kept.values()))


def test_what_protection_puts_out_of_reach_is_told(problem: Problem) -> None:
    with pytest.raises(
        InputError, match=r"out of reach; with min_channels=1, protect=0.2, round_to=1 and coupled=sum"
    ):
        at(problem, replace(CLASSES, protect=0.2), "preserve_ratio", 0.3)
    with pytest.raises(InputError, match=r"with min_channels=1, protect=0.2 and round_to=1 at most 0.1"):
        at(problem, replace(CLASSES, protect=0.2), "percent", 0.3)


def test_a_protected_group_is_never_emptied_so_that_is_no_error(problem: Problem) -> None:
    low = at(problem, replace(CLASSES, scope="global", normalise="none"), "preserve_ratio", 0.2)
    assert low.own["emptied"] or low.warnings == []
    strict = replace(CLASSES, scope="global", on_empty="error", protect=0.9)
    assert at(problem, strict, "preserve_ratio", 0.2).warnings == []
    assert all(at(problem, replace(CLASSES, on_empty="drop_block", protect=0.9), "percent", 0.8).plan.kept.values())


class Chain(nn.Sequential):
    """Two groups of one structure, though of other widths."""

    def __init__(self) -> None:
        super().__init__(
            nn.Conv2d(3, 4, 3), nn.Conv2d(4, 8, 3), nn.Conv2d(8, 2, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()
        )


def test_the_structure_is_kinds_and_kernels_and_not_widths() -> None:
    graph = channel_graph(Chain(), SHAPE)
    assert len({structure(graph, group) for group in graph}) == 1
    other = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.Conv2d(4, 8, 1), nn.Conv2d(8, 2, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    )
    graph = channel_graph(other, SHAPE)
    assert len({structure(graph, group) for group in graph}) == 2


def test_a_ranking_removes_the_smallest_scores_of_its_criterion(problem: Problem) -> None:
    criterion = criterion_of("fpgm", normalise="none")
    method = replace(CLASSES, scope="global", criterion=criterion)
    scores = totals(criterion(problem.model, problem.graph, GivenBatches(None, CPU, 0, "")))
    for coupled, width in (("keep", 16), ("sum", None)):
        decision = at(problem, replace(method, coupled=coupled), "percent", 0.3)
        assert decision.evidence.scores is not None
        for group in problem.graph:
            stays = list(decision.plan.kept[group.name])
            best = scores[group.name].sort(descending=True).indices[: len(stays)].sort().values.tolist()
            assert stays == best
        stream = decision.plan.kept["conv1"]
        assert len(stream) == width or width is None
        assert ("conv1" in decision.evidence.scores) == (coupled == "sum")
    assert at(problem, CLASSES, "percent", 0.3).plan != at(problem, method, "percent", 0.3).plan
