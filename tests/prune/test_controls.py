"""What a decision is held against: as much kept, but blindly chosen; or the same MACs, but every layer alike."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from conftest import CPU, compose_config, livened, zoo
from torch import nn

from compress.config.build import make
from compress.graph.build import channel_graph
from compress.graph.plan import Plan
from compress.methods.filter_magnitude import FilterMagnitude
from compress.methods.slimming.slimming import Slimming
from compress.prune.controls import Control, controlled, controls_of
from compress.prune.cost import cost_model
from compress.prune.method import Decision, Evidence, Problem
from compress.prune.scales import norms_of
from compress.prune.surgery import cut, difference
from compress.prune.weight_masks import pools, weight_masks
from compress.schema.settings import Budget

SHAPE = (3, 32, 32)
SLIMMING: Slimming = make(compose_config("method=slimming")["method"])
FILTERS: FilterMagnitude = make(compose_config("method=filter_magnitude")["method"])
NETWORKS = ["resnet20", "resnet20_cs", "vgg11_bn"]
UNIFORM = Control("uniform")
PROBLEMS: dict[str, Problem] = {}


@pytest.fixture
def problem(request: pytest.FixtureRequest) -> Problem:
    name = request.param
    if name not in PROBLEMS:
        torch.manual_seed(0)
        model = livened(zoo(name))
        for at, norm in enumerate(norms_of(model).values()):  # layers of different worth
            norm.weight.data *= 1 + 0.3 * (at % 3)
        graph = channel_graph(model, SHAPE)
        data: Any = SimpleNamespace(shape=SHAPE)
        cost = cost_model(model, graph, SHAPE)
        PROBLEMS[name] = Problem(model, graph, cost, data, Budget("percent", 0.5), CPU, 0)
    return PROBLEMS[name]


def test_what_is_asked_becomes_controls() -> None:
    assert controls_of(None, 3) == controls_of([], 3) == ()
    assert controls_of("uniform", 3) == (UNIFORM,)
    assert controls_of("random", 2) == (Control("random", 1), Control("random", 2))
    assert controls_of(["uniform", "random"], 1) == (UNIFORM, Control("random", 1))
    assert controls_of(["random", "uniform", "random"], 2) == (Control("random", 1), Control("random", 2), UNIFORM)
    assert [str(control) for control in controls_of(["random", "uniform"], 3)] == [
        "random 1", "random 2", "random 3", "uniform",
    ]  # fmt: skip


# -- channels --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("problem", NETWORKS, indirect=True)
def test_random_keeps_as_many_of_each_group_but_others(problem: Problem) -> None:
    decision = SLIMMING.plan(problem, None)
    widths = problem.graph.widths(decision.plan)
    draws = [controlled(problem, decision, Control("random", draw)) for draw in (1, 2, 3)]
    for draw in draws:
        assert problem.graph.widths(draw.plan) == widths
        assert problem.cost.macs(draw.plan) == problem.cost.macs(decision.plan)
        assert problem.cost.params(draw.plan) == problem.cost.params(decision.plan)
        assert draw.evidence.percent == decision.evidence.percent
        assert draw.evidence.rounding_step == decision.evidence.rounding_step
        assert draw.masks == draw.weights == {}
    plans = [decision.plan, *(draw.plan for draw in draws)]
    for at, plan in enumerate(plans):
        for other in plans[:at]:
            apart = [name for name in plan.kept if plan.kept[name] != other.kept[name]]
            assert len(apart) > len(plan.kept) / 2
    assert [draw.own for draw in draws] == [{"control": f"random {draw}"} for draw in (1, 2, 3)]
    again = controlled(problem, decision, Control("random", 2))
    assert again.plan == draws[1].plan
    assert controlled(replace(problem, seed=1), decision, Control("random", 2)).plan != draws[1].plan
    small = cut(problem.model, problem.graph, draws[0].plan)
    assert difference(problem.model, small, problem.graph, draws[0].plan, torch.randn(1, *SHAPE)) < 1e-10


@pytest.mark.parametrize("problem", ["vgg11_bn"], indirect=True)
def test_random_does_not_look_at_scores(problem: Problem) -> None:
    """Over many draws every channel of a layer stays about as often as every other."""
    decision = SLIMMING.plan(problem, None)
    kept = torch.tensor(decision.plan.kept["features.0"])
    times = torch.zeros(64)
    for draw in range(200):
        times[list(controlled(problem, decision, Control("random", draw)).plan.kept["features.0"])] += 1
    share = len(kept) / 64
    assert float((times / 200 - share).abs().max()) < 5 * (share * (1 - share) / 200) ** 0.5


@pytest.mark.parametrize("method", [SLIMMING, FILTERS], ids=["slimming", "filters"])
@pytest.mark.parametrize("budget", [Budget("percent", 0.5), Budget("preserve_ratio", 0.4)])
@pytest.mark.parametrize("problem", NETWORKS, indirect=True)
def test_uniform_has_the_macs_and_every_layer_alike(problem: Problem, budget: Budget, method: Any) -> None:
    asked = replace(problem, budget=budget)
    decision = replace(method, scope="global").plan(asked, None)
    control = controlled(asked, decision, UNIFORM)
    macs, own = problem.cost.macs(control.plan), problem.cost.macs(decision.plan)
    full = problem.cost.full_widths
    one_less = problem.cost.macs(full - np.eye(len(full), dtype=np.int64))
    assert own - int((problem.cost.full_macs - one_less).max()) <= macs <= own  # within one channel
    assert control.evidence.rounding_step == decision.evidence.rounding_step
    assert decision.evidence.scores is not None
    scored = [group for group in problem.graph if group.name in decision.evidence.scores]
    widths = dict(zip([g.name for g in problem.graph], problem.graph.widths(control.plan), strict=True))
    shares = [widths[group.name] / group.width for group in scored]
    assert max(shares) - min(shares) <= 1 / min(group.width for group in scored) + 1e-9
    for group in problem.graph:
        if group.name not in decision.evidence.scores:
            assert widths[group.name] == group.width
    if method is FILTERS and len(problem.graph) == 12:
        assert (
            set(decision.own["unscored"])
            == {g.name for g in problem.graph if g.name not in decision.evidence.scores}
            != set()
        )
    # and keeps by the method's own scores
    for group in scored:
        stays = torch.zeros(group.width, dtype=torch.bool)
        stays[list(control.plan.kept[group.name])] = True
        score = decision.evidence.scores[group.name]
        if not bool(stays.all()):
            assert float(score[stays].min()) >= float(score[~stays].max())
    assert control.own == {"control": "uniform"}
    kept, total = sum(widths[group.name] for group in scored), sum(group.width for group in scored)
    assert control.evidence.percent == pytest.approx(1 - kept / total)  # of the channels that the method chose from
    assert control.plan != decision.plan
    assert controlled(asked, decision, UNIFORM).plan == control.plan


@pytest.mark.parametrize("method", [replace(SLIMMING, select="rank"), FILTERS], ids=["slimming", "filters"])
@pytest.mark.parametrize("problem", ["resnet20"], indirect=True)
def test_uniform_keeps_to_the_widths_that_the_method_has(problem: Problem, method: Any) -> None:
    asked = replace(problem, budget=Budget("preserve_ratio", 0.5))
    decision = replace(method, scope="global", round_to=8, min_channels=9).plan(asked, None)
    control = controlled(asked, decision, UNIFORM)
    widths = problem.graph.widths(control.plan)
    assert set(widths) <= {16, 24, 32, 40, 48, 56, 64}
    assert problem.cost.macs(control.plan) <= problem.cost.macs(decision.plan)
    assert widths != [group.width for group in problem.graph]


@pytest.mark.parametrize("problem", ["resnet20"], indirect=True)
def test_uniform_without_scores_takes_what_weights_say(problem: Problem) -> None:
    plan = Plan({"layer1.0.conv1": [0, 1], "layer2.0.conv1": range(10)})
    control = controlled(problem, Decision(plan), UNIFORM)
    macs = problem.cost.macs(plan)
    assert 0.99 * macs <= problem.cost.macs(control.plan) <= macs
    assert control.evidence.percent is None


@pytest.mark.parametrize("problem", ["resnet20_cs"], indirect=True)
def test_controls_of_a_decision_that_drops_a_block(problem: Problem) -> None:
    plan = Plan({**SLIMMING.plan(problem, None).plan.kept, "layer2.1.conv1": []})
    decision = replace(SLIMMING.plan(problem, None), plan=plan)
    random = controlled(problem, decision, Control("random", 1))
    assert random.plan.kept["layer2.1.conv1"] == ()
    assert problem.graph.widths(random.plan) == problem.graph.widths(plan)
    uniform = controlled(problem, decision, UNIFORM)
    assert min(problem.graph.widths(uniform.plan)) >= 1
    assert problem.cost.macs(uniform.plan) <= problem.cost.macs(plan)


@pytest.mark.parametrize("problem", ["vgg11_bn"], indirect=True)
def test_controls_are_refitted_as_the_decision_was(problem: Problem) -> None:
    seen: list[Plan] = []

    def refit(plan: Plan) -> dict[str, torch.Tensor]:
        seen.append(plan)
        return {"classifier.weight": torch.zeros(1)}

    decision = SLIMMING.plan(problem, None)
    decision = replace(decision, evidence=replace(decision.evidence, refit=refit))
    for control in (Control("random", 1), UNIFORM):
        found = controlled(problem, decision, control)
        assert seen[-1] == found.plan
        assert list(found.weights) == ["classifier.weight"]
    assert len(seen) == 2


# -- masks of weights ------------------------------------------------------------------------------------------


def masked(problem: Problem, objects: Any, percent: float = 0.7) -> tuple[Problem, Decision]:
    found = weight_masks(
        problem.model, percent, objects=objects, scope="global", criterion="percentile", on_empty="keep_max",
        min_weights=1,
    )  # fmt: skip
    return replace(problem, budget=Budget("percent", percent)), Decision(
        Plan(), masks=found.masks, evidence=Evidence(percent=percent)
    )


@pytest.mark.parametrize("objects", [["conv"], ["fc"], ["conv", "fc"]])
@pytest.mark.parametrize("problem", ["resnet20"], indirect=True)
def test_random_masks_keep_as_many_of_every_layer(problem: Problem, objects: Any) -> None:
    asked, decision = masked(problem, objects)
    draws = [controlled(asked, decision, Control("random", draw)) for draw in (1, 2)]
    for draw in draws:
        assert draw.plan == decision.plan
        assert list(draw.masks) == list(decision.masks)
        for name, mask in decision.masks.items():
            assert draw.masks[name].shape == mask.shape
            assert draw.masks[name].dtype == torch.bool
            assert int(draw.masks[name].sum()) == int(mask.sum())
            assert not torch.equal(draw.masks[name], mask)
        kept, total = (sum(f(mask) for mask in draw.masks.values()) for f in (lambda m: int(m.sum()), torch.numel))
        assert draw.evidence.percent == pytest.approx(1 - kept / total)
        assert draw.evidence.percent == pytest.approx(0.7, abs=2 / total + 1e-9)
    assert any(not torch.equal(draws[0].masks[name], draws[1].masks[name]) for name in decision.masks)
    again = controlled(asked, decision, Control("random", 1))
    assert all(torch.equal(again.masks[name], draws[0].masks[name]) for name in again.masks)


@pytest.mark.parametrize("objects", [["conv"], ["fc"], ["conv", "fc"]])
@pytest.mark.parametrize("problem", ["resnet20"], indirect=True)
def test_uniform_masks_take_the_same_share_of_every_layer_and_keep_the_largest(
    problem: Problem, objects: Any
) -> None:
    asked, decision = masked(problem, objects)
    control = controlled(asked, decision, UNIFORM)
    assert set(control.masks) == set(decision.masks)
    layers = {name: weight for found in pools(problem.model, objects).values() for name, weight in found.items()}
    assert set(layers) == set(control.masks)
    for name, mask in control.masks.items():
        weight = layers[name].detach().abs()
        assert int((~mask).sum()) == int(mask.numel() * 0.7) + 1
        assert float(weight[mask].min()) > float(weight[~mask].max())
    kept, total = (sum(f(mask) for mask in control.masks.values()) for f in (lambda m: int(m.sum()), torch.numel))
    assert control.evidence.percent == pytest.approx(1 - kept / total)
    if objects != ["fc"]:
        before = {name: int(mask.sum()) for name, mask in decision.masks.items()}
        assert any(int(control.masks[name].sum()) != count for name, count in before.items())


def test_a_network_of_one_layer_kind_is_no_exception() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 4))
    graph = channel_graph(model, (3, 2, 2))
    data: Any = SimpleNamespace(shape=(3, 2, 2))
    cost = cost_model(model, graph, (3, 2, 2))
    problem = Problem(model, graph, cost, data, Budget("percent", 0.5), CPU, 0)
    asked, decision = masked(problem, ["conv", "fc"], 0.5)
    assert set(controlled(asked, decision, UNIFORM).masks) == set(decision.masks) == {"1", "3"}
