"""Channels in the order in which they go: budgets are met, nested, in multiples, and follow the scores."""

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from conftest import CPU, compose_config, livened, zoo
from torch import Tensor, nn
from torch.nn import functional as F

from compress.config.build import make
from compress.data.memory import MemoryData
from compress.errors import InputError
from compress.graph.build import channel_graph
from compress.methods.filter_magnitude import FilterMagnitude, filter_scores
from compress.methods.slimming.slimming import Slimming
from compress.models.resnet_cifar import resnet
from compress.prune.cost import cost_model
from compress.prune.method import Decision, Problem
from compress.prune.scales import norms_of
from compress.prune.scores import producers
from compress.prune.selection import Selection, check_reach
from compress.prune.surgery import cut
from compress.run.job import make_problem
from compress.schema.settings import Budget

SHAPE = (3, 32, 32)
SLIMMING: Slimming = make(compose_config("method=slimming")["method"])
FILTERS: FilterMagnitude = make(compose_config("method=filter_magnitude")["method"])
Method = Slimming | FilterMagnitude
METHODS: dict[str, Method] = {"slimming": SLIMMING, "filters": FILTERS}
NETWORKS = ["resnet20", "mobilenetv2", "vgg11_bn"]
SHARES = (0.3, 0.5, 0.7)
PROBLEMS: dict[str, Problem] = {}


def problem_of(model: nn.Module, budget: Budget, shape: tuple[int, int, int] = SHAPE) -> Problem:
    graph = channel_graph(model, shape)
    data: Any = SimpleNamespace(shape=shape)
    return Problem(model, graph, cost_model(model, graph, shape), data, budget, CPU, 0)


@pytest.fixture
def problem(request: pytest.FixtureRequest) -> Problem:
    if request.param not in PROBLEMS:
        torch.manual_seed(0)
        PROBLEMS[request.param] = problem_of(livened(zoo(request.param)), Budget("preserve_ratio", 0.5))
    return PROBLEMS[request.param]


def at(problem: Problem, method: Method, kind: Any, value: float) -> Decision:
    asked = replace(problem, budget=Budget(kind, value))
    assert method.check(asked) == asked.budget
    return method.plan(asked, None)


def share(problem: Problem, decision: Decision) -> float:
    return problem.cost.macs(decision.plan) / problem.cost.full_macs


# -- budgets ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scope", ["global", "layer"])
@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("problem", NETWORKS, indirect=True)
def test_a_share_of_macs_is_met_from_below_within_one_channel(problem: Problem, name: str, scope: Any) -> None:
    method, before = replace(METHODS[name], scope=scope), None
    for asked in SHARES:
        decision = at(problem, method, "preserve_ratio", asked)
        got = share(problem, decision)
        assert asked - decision.evidence.rounding_step <= got <= asked
        if asked == 0.5:
            limit = asked * problem.cost.full_macs / 1e6
            assert at(problem, method, "flops_limit", limit).plan == decision.plan
        widths = problem.graph.widths(decision.plan)
        assert min(widths) >= 1
        if before is not None:
            assert all(a <= b for a, b in zip(before, widths, strict=True))
        before = widths


@pytest.mark.parametrize("scope", ["global", "layer"])
@pytest.mark.parametrize("problem", ["resnet20"], indirect=True)
def test_a_larger_budget_never_keeps_less_of_any_group(problem: Problem, scope: Any) -> None:
    for method in METHODS.values():
        kept: dict[str, set[int]] | None = None
        for asked in np.linspace(0.12, 1.0, 9):
            plan = at(problem, replace(method, scope=scope), "preserve_ratio", float(asked)).plan
            if kept is not None:
                assert all(channels <= set(plan.kept[name]) for name, channels in kept.items())
            kept = {name: set(channels) for name, channels in plan.kept.items()}
        assert kept == {group.name: set(range(group.width)) for group in problem.graph}


@pytest.mark.parametrize("problem", ["resnet20"], indirect=True)
def test_global_takes_the_smallest_scores_of_all(problem: Problem) -> None:
    decision = at(problem, SLIMMING, "preserve_ratio", 0.5)
    assert decision.evidence.scores is not None
    kept, gone = [], []
    for group in problem.graph:
        stays = torch.zeros(group.width, dtype=torch.bool)
        stays[list(decision.plan.kept[group.name])] = True
        kept.append(decision.evidence.scores[group.name][stays])
        gone.append(decision.evidence.scores[group.name][~stays])
    assert float(torch.cat(gone).max()) == decision.own["thresholds"]["all"]
    assert float(torch.cat(gone).max()) <= float(torch.cat(kept).min())


@pytest.mark.parametrize("problem", ["resnet20"], indirect=True)
def test_by_layer_there_is_a_threshold_of_each_group_that_loses(problem: Problem) -> None:
    decision = at(problem, replace(SLIMMING, scope="layer"), "preserve_ratio", 0.97)
    assert decision.evidence.scores is not None
    expected = {}
    for group in problem.graph:
        gone = sorted(set(range(group.width)) - set(decision.plan.kept[group.name]))
        if gone:
            expected[group.name] = float(decision.evidence.scores[group.name][gone].max())
    assert decision.own["thresholds"] == expected
    assert 0 < len(expected) < len(problem.graph)


@pytest.mark.parametrize("problem", ["vgg11_bn"], indirect=True)
def test_layer_takes_the_same_share_of_each(problem: Problem) -> None:
    decision = at(problem, replace(FILTERS, scope="layer"), "preserve_ratio", 0.5)
    shares = [w / g.width for w, g in zip(problem.graph.widths(decision.plan), problem.graph, strict=True)]
    assert max(shares) - min(shares) <= 1 / 64 + 1e-9  # one channel of the narrowest
    percent = at(problem, FILTERS, "percent", 0.3)
    assert problem.graph.widths(percent.plan) == [g.width - int(g.width * 0.3) for g in problem.graph]


@pytest.mark.parametrize("problem", ["resnet20"], indirect=True)
def test_budgets_out_of_reach_say_what_is_in_reach(problem: Problem) -> None:
    for method in (SLIMMING, FILTERS, replace(SLIMMING, min_channels=3), replace(SLIMMING, scope="layer")):
        with pytest.raises(InputError, match=r"^preserve_ratio=0.0001: out of reach; with min_channels=") as error:
            at(problem, method, "preserve_ratio", 0.0001)
        low = float(str(error.value).split("at least ")[1].split()[0])
        assert 0 < low < 0.5
        decision = at(problem, method, "preserve_ratio", low + 1e-4)
        assert share(problem, decision) <= low + 1e-4
        with pytest.raises(InputError, match="out of reach"):
            at(problem, method, "preserve_ratio", low - 1e-4)
    with pytest.raises(InputError, match=r"^flops_limit=0.001 MMACs: out of reach"):
        at(problem, SLIMMING, "flops_limit", 0.001)
    assert not problem.graph.dropped(at(problem, SLIMMING, "flops_limit", 1000).plan)  # met by the dense network


@pytest.mark.parametrize(
    ("changes", "most"),
    [
        ({}, 14 / 16),  # one of each stays
        ({"min_channels": 4}, 8 / 16),
        ({"round_to": 4}, 8 / 16),  # 4 8 10 and 4 6
        ({"round_to": 4, "min_channels": 5}, 2 / 16),  # 8 10 and 6
        ({"on_empty": "error"}, 14 / 16),  # none is no width
        ({"on_empty": "drop_block"}, 14 / 16),  # nothing here goes with its block
    ],
)
@pytest.mark.parametrize("scope", ["global", "layer"])
def test_a_percent_out_of_reach_says_what_can_go(changes: dict[str, Any], most: float, scope: Any) -> None:
    method, problem = replace(FILTERS, scope=scope, **changes), chain(10, 6)
    assert method.check(replace(problem, budget=Budget("percent", most))) == Budget("percent", most)
    with pytest.raises(InputError) as error:
        method.check(replace(problem, budget=Budget("percent", most + 1 / 16)))
    assert str(error.value) == (
        f"percent={most + 1 / 16:g}: out of reach; with min_channels={method.min_channels} and "
        f"round_to={method.round_to} at most {most:.4f} of the 16 channels can go"
    )
    if method.round_to == 1:  # a threshold takes what it takes
        assert replace(method, select="threshold").check(replace(problem, budget=Budget("percent", 0.99)))


@pytest.mark.parametrize("problem", ["resnet20"], indirect=True)
def test_only_channels_that_are_scored_can_go(problem: Problem) -> None:
    """Between the convolutions of a block, three of 16, 32 and 64 each; a block may go only if that is asked."""
    method = replace(FILTERS, min_channels=8)
    with pytest.raises(InputError, match=r"at most 0.7857 of the 336 channels can go$"):  # 336 - 9 * 8
        at(problem, method, "percent", 0.79)
    assert at(problem, replace(method, on_empty="drop_block"), "percent", 0.79).plan
    with pytest.raises(InputError, match=r"at most 0.7857 of the 336 channels can go$"):
        at(problem, replace(method, on_empty="error"), "percent", 0.79)


class Sum(nn.Module):
    """All of its channels are coupled."""

    def __init__(self, normed: bool) -> None:
        super().__init__()
        self.a, self.b, self.head = nn.Conv2d(3, 8, 3), nn.Conv2d(3, 8, 3), nn.Linear(8, 10)
        self.norm: nn.Module = nn.BatchNorm2d(8) if normed else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.head((self.norm(self.a(x)) + self.b(x)).relu().mean((2, 3)))  # type: ignore[no-any-return]


@pytest.mark.parametrize("budget", [Budget("percent", 0.5), Budget("preserve_ratio", 0.5)])
@pytest.mark.parametrize("scope", ["global", "layer"])
@pytest.mark.parametrize("name", METHODS)
def test_no_scores_at_all_are_told_before_anything_runs(name: str, scope: Any, budget: Budget) -> None:
    problem = problem_of(Sum(normed=True), budget)
    keep = replace(METHODS[name], coupled="keep", scope=scope)
    with pytest.raises(InputError):
        keep.check(problem)
    with pytest.raises(InputError, match="^coupled=keep: leaves no group of channels to choose from"):
        check_reach(keep, problem.graph, problem.ceilings(), set())
    with pytest.raises(InputError, match="no batch norm scales channels of this network; try filter_magnitude"):
        SLIMMING.check(problem_of(Sum(normed=False), budget))
    FILTERS_SUM = replace(FILTERS, coupled="sum")  # noqa: N806
    assert FILTERS_SUM.check(problem_of(Sum(normed=False), budget)) == budget


# -- widths ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scope", ["global", "layer"])
@pytest.mark.parametrize("problem", ["resnet20", "mobilenetv2"], indirect=True)
def test_widths_are_multiples_where_that_is_asked(problem: Problem, scope: Any) -> None:
    for method in (replace(SLIMMING, select="rank"), FILTERS):
        eights = replace(method, scope=scope, round_to=8)
        for kind, value in (("preserve_ratio", 0.5), ("preserve_ratio", 0.7), ("percent", 0.4)):
            decision = at(problem, eights, kind, value)
            for group, width in zip(problem.graph, problem.graph.widths(decision.plan), strict=True):
                assert width % 8 == 0 or width == group.width
            if kind == "preserve_ratio":
                assert value - decision.evidence.rounding_step <= share(problem, decision) <= value
            else:  # a layer takes the nearest multiple, on either side
                assert decision.evidence.percent is not None
                assert abs(decision.evidence.percent - value) <= decision.evidence.rounding_step
                assert scope == "layer" or decision.evidence.percent <= value


def test_a_threshold_knows_no_multiples() -> None:
    with pytest.raises(InputError, match="round_to=8: a threshold knows no multiples; use select=rank"):
        replace(SLIMMING, round_to=8)


@pytest.mark.parametrize("problem", ["mobilenetv2"], indirect=True)
def test_the_step_is_the_costliest_by_hand(problem: Problem) -> None:
    for round_to in (1, 8):
        for coupled in ("sum", "keep"):
            costs = []
            for at_group, group in enumerate(problem.graph):
                if coupled == "keep" and producers(problem.graph, group) > 1:
                    continue  # has no choice
                widths = [other.width for other in problem.graph]
                widths[at_group] = (group.width - 1) // round_to * round_to or group.width
                costs.append(problem.cost.full_macs - int(problem.cost.macs(widths)[0]))
            method = replace(SLIMMING, select="rank", round_to=round_to, coupled=coupled)
            step = at(problem, method, "preserve_ratio", 0.7).evidence.rounding_step
            assert step == pytest.approx(max(costs) / problem.cost.full_macs)


def chain(*widths: int) -> Problem:
    """1x1 convolutions on images of 3x2x2, the last of two filters: a group of each of these widths."""
    layers = [nn.Conv2d(a, b, 1, bias=False) for a, b in pairwise((3, *widths, 2))]
    problem = problem_of(nn.Sequential(*layers), Budget("percent", 0.1), (3, 2, 2))
    assert [group.width for group in problem.graph] == list(widths)
    return problem


@pytest.mark.parametrize(
    ("scope", "changes", "expected"),
    [
        ("global", {}, 1 / 16),
        ("layer", {}, 2 / 16),
        ("global", {"round_to": 4}, 4 / 16),  # 4 8 10 and 4 6
        ("layer", {"round_to": 4}, (4 + 2) / 16),
        ("global", {"round_to": 4, "min_channels": 5}, 2 / 16),  # 8 10 and 6, which is no choice
        ("layer", {"round_to": 4, "min_channels": 5}, 2 / 16),
    ],
)
def test_the_step_of_a_percent_by_hand(scope: Any, changes: dict[str, int], expected: float) -> None:
    method = replace(FILTERS, scope=scope, **changes)  # type: ignore[arg-type]
    assert at(chain(10, 6), method, "percent", 0.1).evidence.rounding_step == pytest.approx(expected)


def test_the_step_of_macs_by_hand() -> None:
    """Per pixel 3*10 + 10*6 + 6*2 = 102; the first from 8 to 4 saves 4*9, its first step, 10 to 8, only 2*9."""
    problem = chain(10, 6)
    assert problem.cost.full_macs == 4 * 102
    for scope in ("global", "layer"):
        method = replace(FILTERS, scope=scope, round_to=4)
        assert at(problem, method, "preserve_ratio", 0.8).evidence.rounding_step == pytest.approx(4 * 9 / 102)
        # of 8 10 and 6 the only step
        method = replace(method, min_channels=5)
        assert at(problem, method, "preserve_ratio", 0.9).evidence.rounding_step == pytest.approx(2 * 9 / 102)


@pytest.mark.parametrize("select", ["rank", "threshold"])
@pytest.mark.parametrize("problem", ["resnet20"], indirect=True)
def test_a_percent_of_each_layer_is_met_within_its_step(problem: Problem, select: Any) -> None:
    for coupled in ("sum", "keep"):
        for round_to in (1, 4, 8) if select == "rank" else (1,):
            method = replace(SLIMMING, scope="layer", select=select, coupled=coupled, round_to=round_to)
            for asked in np.linspace(0.02, 0.72 if round_to == 1 else 0.5, 9):
                decision = at(problem, method, "percent", float(asked))
                assert decision.evidence.percent is not None
                assert abs(decision.evidence.percent - asked) <= decision.evidence.rounding_step + 1e-9


@pytest.mark.parametrize(
    ("percent", "expected"),
    [
        (0.30, [48, 88, 184, 360]),  # 45, 90, 180, as near to 176, and 359 are wanted
        (0.32, [48, 88, 176, 352]),  # 44 is as near to 40; 88, 175, 349
        (0.35, [40, 88, 168, 336]),  # 42; 84 is as near to 80; 167, 333
        (0.95, [8, 8, 16, 24]),  # 4, 7, 13 and 26
    ],
)
@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("problem", ["vgg11_bn"], indirect=True)
def test_a_layer_takes_the_nearest_width_the_wider_of_two(
    problem: Problem, name: str, percent: float, expected: list[int]
) -> None:
    method = replace(METHODS[name], scope="layer", select="rank", round_to=8)
    widths = problem.graph.widths(at(problem, method, "percent", percent).plan)
    assert dict(zip([group.width for group in problem.graph], widths, strict=True)) == dict(
        zip([64, 128, 256, 512], expected, strict=True)
    )


def test_no_step_is_coarser_than_the_step_that_is_told() -> None:
    """Widths that are no multiples: the first step, to the next multiple, is the smallest one."""
    cfg = [33, "M", 65, "M", 129, 129, "M", 257, 257, "M", 257, 257]
    problem = problem_of(livened(zoo("vgg11_bn", cfg=cfg)), Budget("preserve_ratio", 0.5))
    method = replace(SLIMMING, select="rank", round_to=32)
    for asked in np.linspace(0.2, 0.9, 8):
        decision = at(problem, method, "preserve_ratio", float(asked))
        assert asked - decision.evidence.rounding_step <= share(problem, decision) <= asked


@pytest.mark.parametrize("name", METHODS)
def test_kept_channels_follow_their_filters(name: str) -> None:
    """To permute a layer's filters (with their norm and readers) permutes what is kept, and nothing else."""
    torch.manual_seed(0)
    model = livened(zoo("vgg11_bn"))
    order = torch.randperm(128)
    first = at(problem_of(model, Budget("percent", 0.5)), METHODS[name], "percent", 0.5)
    for layer in ("features.4", "features.5"):
        for part in ("weight", "bias", "running_mean", "running_var"):
            tensor = getattr(model.get_submodule(layer), part, None)
            if tensor is not None:
                tensor.data = tensor.data[order]
    reader = model.get_parameter("features.8.weight")
    reader.data = reader.data[:, order]
    second = at(problem_of(model, Budget("percent", 0.5)), METHODS[name], "percent", 0.5)
    kept = {group: set(channels) for group, channels in first.plan.kept.items()}
    kept["features.4"] = {i for i in range(128) if int(order[i]) in kept["features.4"]}
    assert {group: set(channels) for group, channels in second.plan.kept.items()} == kept
    assert kept["features.4"] != set(first.plan.kept["features.4"])


@pytest.mark.parametrize("scope", ["global", "layer"])
@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("problem", ["resnet20", "mobilenetv2"], indirect=True)
def test_keep_leaves_residual_streams_whole(problem: Problem, name: str, scope: Any) -> None:
    method = replace(METHODS[name], coupled="keep", scope=scope)
    for kind, value in (("percent", 0.6), ("preserve_ratio", 0.5)):
        decision = at(problem, method, kind, value)
        coupled = [group for group in problem.graph if producers(problem.graph, group) > 1]
        assert len(coupled) == {12: 3, 25: 5}[len(problem.graph)]
        assert set(decision.own["unscored"]) == {group.name for group in coupled}
        assert all(len(decision.plan.kept[group.name]) == group.width for group in coupled)
        assert decision.own["channels"] == sum(g.width for g in problem.graph) - sum(g.width for g in coupled)
    for coupled_as in ("sum", "mean", "max"):
        decision = at(problem, replace(method, coupled=coupled_as), "percent", 0.6)
        assert decision.own["unscored"] == []
        if coupled_as == "mean":  # the sum of many is seldom among the smallest
            assert any(len(decision.plan.kept[group.name]) < group.width for group in coupled)


# -- norms of weights ------------------------------------------------------------------------------------------


def by_hand() -> nn.Sequential:
    model = nn.Sequential(nn.Conv2d(1, 2, (1, 2), bias=False), nn.ReLU(), nn.Conv2d(2, 2, 1, bias=False))
    model[0].weight.data = torch.tensor([[3.0, -4.0], [0.0, 5.0]]).view(2, 1, 1, 2)
    model[2].weight.data = torch.tensor([[1.0, -2.0], [2.0, 0.0]]).view(2, 2, 1, 1)
    return model


@pytest.mark.parametrize(
    ("norm", "sides", "normalise", "expected"),
    [
        ("l1", "filters", "none", [7, 5]),
        ("l2", "filters", "none", [5, 5]),
        ("l1", "readers", "none", [3, 2]),
        ("l2", "readers", "none", [5**0.5, 2]),
        ("l1", "both", "none", [10 / 2, 7 / 2]),
        ("l1", "filters", "mean", [7 / 6, 5 / 6]),
        ("l1", "readers", "mean", [3 / 2.5, 2 / 2.5]),
        ("l1", "both", "mean", [(7 / 6 + 3 / 2.5) / 2, (5 / 6 + 2 / 2.5) / 2]),
        ("l2", "both", "mean", [(1 + 5**0.5 / (5**0.5 / 2 + 1)) / 2, (1 + 2 / (5**0.5 / 2 + 1)) / 2]),
    ],
)
def test_norms_of_weights_by_hand(norm: Any, sides: Any, normalise: Any, expected: list[float]) -> None:
    model = by_hand()
    graph = channel_graph(model, (1, 4, 4))
    assert [group.name for group in graph] == ["0"]
    found = filter_scores(model, graph, norm, sides, normalise, "keep")
    assert found["0"].tolist() == pytest.approx(expected)


def test_several_layers_of_one_group_by_hand() -> None:
    model = Sum(normed=True)
    graph = channel_graph(model, (3, 8, 8))
    (group,) = graph
    filters = [getattr(model, name).weight.detach().abs().sum((1, 2, 3)) for name in "ab"]
    reader = model.head.weight.detach().abs().sum(0)
    for sides, parts in (("filters", filters), ("readers", [reader]), ("both", [*filters, reader])):
        stacked = torch.stack(parts)
        for coupled, expected in (
            ("sum", min(2, len(parts)) * stacked.mean(0)),  # two layers make the channels
            ("mean", stacked.mean(0)),
            ("max", stacked.amax(0)),
        ):
            score = filter_scores(model, graph, "l1", sides, "none", coupled)[group.name]
            assert torch.allclose(score, expected, rtol=1e-6), (sides, coupled)
        assert filter_scores(model, graph, "l1", sides, "none", "keep") == {}


def test_a_flattened_map_is_read_by_many_weights() -> None:
    """Each of 3 channels is 2x2 inputs of the linear layer; their weights count alike."""
    model = nn.Sequential(nn.Conv2d(1, 3, 1), nn.ReLU(), nn.Flatten(), nn.Linear(12, 2))
    graph = channel_graph(model, (1, 2, 2))
    found = filter_scores(model, graph, "l1", "readers", "none", "sum")["0"]
    assert torch.allclose(found, model[3].weight.detach().abs().sum(0).view(3, 4).mean(1))


@pytest.mark.parametrize("problem", ["mobilenetv2"], indirect=True)
def test_depthwise_filters_count_for_their_channel(problem: Problem) -> None:
    found = filter_scores(problem.model, problem.graph, "l1", "filters", "none", "sum")["features.2.conv.0.0"]
    expand, depthwise = (problem.model.get_parameter(f"features.2.conv.{i}.0.weight").detach() for i in (0, 1))
    both = expand.abs().sum((1, 2, 3)) + depthwise.abs().sum((1, 2, 3))
    assert torch.allclose(found, both / 2, rtol=1e-5)  # one layer makes the channels, the other passes them on


def test_with_the_mean_layers_of_different_scale_weigh_alike() -> None:
    torch.manual_seed(0)
    model = zoo("vgg11_bn")
    method = replace(FILTERS, scope="global")
    before = at(problem_of(model, Budget("percent", 0.5)), method, "percent", 0.5)
    model.get_parameter("features.8.weight").data *= 100
    assert at(problem_of(model, Budget("percent", 0.5)), method, "percent", 0.5).plan == before.plan
    raw = at(problem_of(model, Budget("percent", 0.5)), replace(method, normalise="none"), "percent", 0.5)
    assert len(raw.plan.kept["features.8"]) == 256


# -- refit -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def on_digits(digit_data: MemoryData) -> Problem:
    torch.manual_seed(0)
    model = livened(resnet(depth=8, width=16, shortcut="conv", in_channels=1, num_classes=10))
    return make_problem(model.eval(), digit_data, Budget("preserve_ratio", 0.5), CPU, 0, nn.Module)


def held_out_inputs(problem: Problem) -> dict[str, Tensor]:
    seen: dict[str, Tensor] = {}
    handles = [
        problem.model.get_submodule(layer.name).register_forward_pre_hook(
            lambda _, inputs, name=layer.name: seen.__setitem__(name, inputs[0].detach())
        )
        for layer in problem.graph.layers
    ]
    images, _ = next(iter(problem.data.ordered("held_out", 256, CPU)))
    with torch.no_grad():
        problem.model(images)
    for handle in handles:
        handle.remove()
    return seen


def applied(layer: nn.Module, weight: Tensor, x: Tensor) -> Tensor:
    if isinstance(layer, nn.Linear):
        return F.linear(x, weight)
    assert isinstance(layer, nn.Conv2d)
    return F.conv2d(x, weight, None, layer.stride, layer.padding)


@pytest.mark.parametrize("name", METHODS)
def test_refitted_layers_give_more_of_what_they_gave(name: str, on_digits: Problem) -> None:
    method: Selection = replace(METHODS[name], refit_images=600, coupled="sum")
    plain = replace(method, refit_images=0)
    assert isinstance(method, Slimming | FilterMagnitude)
    assert isinstance(plain, Slimming | FilterMagnitude)
    before = {key: value.clone() for key, value in on_digits.model.state_dict().items()}
    decision = at(on_digits, method, "preserve_ratio", 0.5)
    assert all(torch.equal(value, before[key]) for key, value in on_digits.model.state_dict().items())
    without = at(on_digits, plain, "preserve_ratio", 0.5)
    assert decision.plan == without.plan
    assert without.weights == {}
    assert without.evidence.refit is None
    assert decision.evidence.refit is not None
    assert len(decision.weights) >= 6
    inputs, dropped = held_out_inputs(on_digits), on_digits.graph.dropped(decision.plan)
    for layer in on_digits.graph.layers:
        key = f"{layer.name}.weight"
        if key not in decision.weights or layer.in_axis not in dropped:
            continue
        module, weight = on_digits.model.get_submodule(layer.name), on_digits.model.get_parameter(key).detach()
        dense = applied(module, weight, inputs[layer.name])
        gone = dropped[layer.in_axis]
        assert decision.weights[key][:, gone].abs().max() == 0  # reads what stays, and that alone
        cut_off = weight.clone()
        cut_off[:, gone] = 0
        plain_error, refitted_error = (
            float((applied(module, used, inputs[layer.name]) - dense).square().mean())
            for used in (cut_off, decision.weights[key])
        )
        assert refitted_error < 0.8 * plain_error, layer.name


def test_a_refit_is_the_same_twice_and_takes_any_plan(on_digits: Problem) -> None:
    method = replace(SLIMMING, refit_images=300)
    first, again = (at(on_digits, method, "preserve_ratio", 0.5) for _ in range(2))
    assert all(torch.equal(first.weights[name], again.weights[name]) for name in first.weights)
    other = at(on_digits, replace(FILTERS, refit_images=0), "preserve_ratio", 0.6).plan
    assert first.evidence.refit is not None
    for plan in (other, first.plan):
        small = cut(on_digits.model, on_digits.graph, plan, first.evidence.refit(plan))
        assert bool(small.eval()(torch.zeros(1, *on_digits.data.shape)).isfinite().all())
    mine = first.evidence.refit(first.plan)
    assert all(torch.equal(first.weights[name], mine[name]) for name in first.weights)


def test_layers_that_read_nothing_are_not_refitted(digit_data: MemoryData) -> None:
    torch.manual_seed(0)
    model = livened(resnet(depth=8, width=8, shortcut="conv", in_channels=1, num_classes=10))
    model.get_parameter("layer2.0.bn1.weight").data *= 1e-4
    problem = make_problem(model.eval(), digit_data, Budget("percent", 0.3), CPU, 0, nn.Module)
    method = replace(SLIMMING, refit_images=100, on_empty="drop_block", select="rank")
    decision = method.plan(problem, None)
    assert decision.plan.kept["layer2.0.conv1"] == ()
    assert "layer2.0.conv2.weight" not in decision.weights
    small = cut(model, problem.graph, decision.plan, decision.weights)
    assert bool(small.eval()(torch.zeros(1, *digit_data.shape)).isfinite().all())


# -- what the plan is made of ----------------------------------------------------------------------------------


@pytest.mark.parametrize("make_model", [lambda: zoo("vgg11_bn"), lambda: zoo("resnet20")], ids=["vgg11", "resnet20"])
def test_nothing_about_the_network_changes(make_model: Callable[[], nn.Module]) -> None:
    problem = problem_of(livened(make_model()), Budget("preserve_ratio", 0.5))
    before = {name: value.clone() for name, value in problem.model.state_dict().items()}
    for method in METHODS.values():
        first, second = (method.plan(problem, None) for _ in range(2))
        assert first.plan == second.plan
    assert all(torch.equal(value, before[name]) for name, value in problem.model.state_dict().items())


@pytest.mark.parametrize("problem", ["vgg11_bn"], indirect=True)
def test_no_gamma_is_as_good_as_another(problem: Problem) -> None:
    """Slimming reads scales, filter magnitude weights, and neither the other's."""
    torch.manual_seed(3)
    model = livened(zoo("vgg11_bn"))
    twin = problem_of(model, Budget("percent", 0.5))
    slimmed, filtered = (method.plan(twin, None).plan for method in METHODS.values())
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.normal_(module.weight)
    assert SLIMMING.plan(twin, None).plan == slimmed
    assert FILTERS.plan(twin, None).plan != filtered
    filtered = FILTERS.plan(twin, None).plan
    for norm in norms_of(model).values():
        nn.init.uniform_(norm.weight, 0.5, 1.5)  # type: ignore[arg-type]
    assert FILTERS.plan(twin, None).plan == filtered
    assert SLIMMING.plan(twin, None).plan != slimmed
