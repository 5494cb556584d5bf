"""Limits by layer: what they name, that they hold in every room that chooses widths, and what is refused."""

import math
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch
from conftest import CPU, compose_config, livened, make_recipe, zoo
from torch import nn

import compress
from compress.config.build import build, make
from compress.config.built_jobs import problems_of
from compress.data.memory import MemoryData
from compress.errors import InputError
from compress.graph.build import channel_graph
from compress.graph.types import ChannelGraph
from compress.methods.filter_magnitude import FilterMagnitude, filter_scores
from compress.methods.magnitude.magnitude import Magnitude
from compress.prune.controls import Control, controlled
from compress.prune.cost import cost_model
from compress.prune.limits import NO_LIMITS, Limits, limited, makers, matches
from compress.prune.selection import ceilings_for, select
from compress.prune.widths import uniform_widths
from compress.run.job import make_problem
from compress.schema.settings import Budget
from compress.search.space import multiples_space, shares_space

SHAPE = (1, 8, 8)


@pytest.fixture(scope="module")
def model() -> nn.Module:
    torch.manual_seed(0)
    return livened(zoo("resnet20", SHAPE)).eval()


@pytest.fixture(scope="module")
def graph(model: nn.Module) -> ChannelGraph:
    return channel_graph(model, SHAPE)


def least(graph: ChannelGraph, **limits: Any) -> dict[str, int]:
    return {group.name: group.least for group in limited(graph, Limits(**limits)) if group.least > 1}


@pytest.mark.parametrize(
    ("pattern", "name", "is_named"),
    [
        ("conv1", "conv1", True),
        ("layer4", "layer4.0.conv1", True),
        ("layer4.*", "layer4.0.conv1", True),
        ("*.conv1", "layer4.0.conv1", True),
        ("layer4", "layer40.conv1", False),
        ("layer4.?.conv1", "layer4.0.conv1", True),
        ("conv1", "layer4.0.conv1", False),
    ],
)
def test_a_pattern_names_a_module_all_in_it_or_what_its_wild_cards_say(
    pattern: str, name: str, is_named: bool
) -> None:
    assert matches(pattern, name) is is_named


def test_a_layers_channels_are_those_that_it_makes(graph: ChannelGraph) -> None:
    inner = next(group for group in graph if "layer1.0.conv1" in makers(graph, group))
    assert "layer1.0.conv2" in inner.consumers
    assert "layer1.0.conv2" not in makers(graph, inner)


def test_layers_of_other_shapes_are_named_too() -> None:
    """An embedding makes its columns, a transposed convolution those of its second dimension."""

    class Words(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words, self.head = nn.Embedding(9, 6), nn.Linear(6, 3)

        def forward(self, tokens: torch.Tensor) -> torch.Tensor:
            return self.head(self.words(tokens).mean(1))  # type: ignore[no-any-return]

    (group,) = compress.channel_groups(Words(), (torch.tensor([[1, 2]]),))
    assert least(compress.channel_groups(Words(), (torch.tensor([[1, 2]]),)), keep={"words": 0.5}) == {group.name: 3}
    up = nn.Sequential(nn.Conv2d(3, 5, 1), nn.ConvTranspose2d(5, 7, 2), nn.Conv2d(7, 2, 1))
    assert least(compress.channel_groups(up, (3, 4, 4)), skip=["1"]) == {"1": 7}


def test_skip_only_and_keep_by_hand(graph: ChannelGraph) -> None:
    widths = {group.name: group.width for group in graph}
    made = {group.name: makers(graph, group) for group in graph}
    first = [name for name, by in made.items() if any(one.startswith("layer1.") for one in by)]
    assert 3 < len(first) < len(widths)
    assert least(graph, skip=["layer1"]) == {name: widths[name] for name in first}
    assert least(graph, only=["layer1"]) == {name: w for name, w in widths.items() if name not in first}
    assert least(graph, keep={"layer1.*": 0.55}) == {name: math.ceil(0.55 * widths[name]) for name in first}
    both = least(graph, keep={"layer1": 0.3, "layer1.1": 0.75}, skip=["layer1.2.conv1"])
    assert sorted({round(both[name] / widths[name], 2) for name in first}) == [0.31, 0.75, 1.0]
    assert limited(graph, NO_LIMITS) is graph


def limits_on(graph: ChannelGraph) -> ChannelGraph:
    return limited(graph, Limits(skip=["layer1.0.conv1"], keep={"layer2": 0.6}))


def test_every_room_that_chooses_widths_keeps_to_them(model: nn.Module, graph: ChannelGraph) -> None:
    """By choices: those of uniform widths, agents and searches; by shares; by scores, in the narrowest network."""
    there = limits_on(graph)
    fewest = [group.least for group in there]
    assert max(fewest) > 1
    spaces = [multiples_space(there, 4, 0.1), multiples_space(there, 4, 0.1, 0.5), shares_space(model, there)]
    for space in spaces:
        assert [int(widths[0]) >= low for widths, low in zip(space.options, fewest, strict=True)] == [True] * len(
            there
        )
    assert [len(widths) for widths in spaces[2].options] == [31] * len(there)
    cost = cost_model(model, there, SHAPE)
    found = [uniform_widths(cost, spaces[0].options, share) for share in (0.0, 0.6, 0.8, 1.0)]
    assert all(width >= low for widths in found for width, low in zip(widths, fewest, strict=True))
    assert all(a <= b for narrow, wide in pairwise(found) for a, b in zip(narrow, wide, strict=True))
    scores = filter_scores(model, there, "l1", "both", "mean", "sum")
    for scope in ("global", "layer"):
        how = FilterMagnitude(**SETTINGS | {"scope": scope, "coupled": "sum"})
        for budget in (Budget("percent", 0.9), Budget("preserve_ratio", 0.01), Budget("percent", 0.1)):
            plan = select(how, there, ceilings_for(there, cost, budget, scores), scores).plan
            assert all(width >= low for width, low in zip(there.widths(plan), fewest, strict=True))


SETTINGS: dict[str, Any] = {
    "norm": "l1", "sides": "both", "normalise": "mean", "scope": "layer", "select": "rank", "on_empty": "keep_max",
    "min_channels": 1, "round_to": 1, "coupled": "keep", "refit_images": 0, "schedule": "one-shot", "steps": 1,
    "retraining": make_recipe(),
}  # fmt: skip


@pytest.mark.parametrize("kind", ["uniform", "random"])
def test_controls_keep_to_them_too(kind: Any, model: nn.Module, digit_data: MemoryData) -> None:
    method = FilterMagnitude(**SETTINGS | {"coupled": "sum"}, skip=["layer1.0.conv1"], keep={"layer2": 0.6})
    problem = make_problem(model, digit_data, Budget("preserve_ratio", 0.7), CPU, 0, nn.Module, method)
    decision = method.plan(problem, None)
    for plan in (decision.plan, controlled(problem, decision, Control(kind)).plan):
        widths = zip(problem.graph, problem.graph.widths(plan), strict=True)
        assert all(width >= group.least for group, width in widths)
    assert min(problem.graph.widths(decision.plan)) < max(group.width for group in problem.graph)


def test_masks_of_weights_keep_to_them_too(model: nn.Module, digit_data: MemoryData) -> None:
    whole = make(compose_config("method=magnitude")["method"])
    method = replace(whole, skip=["conv1", "linear"], keep={"layer2": 0.7})
    assert isinstance(method, Magnitude)
    problem = make_problem(model, digit_data, Budget("percent", 0.5), CPU, 0, nn.Module)
    assert method.check(problem) is problem.budget
    decision = method.plan(problem, None)
    for masks in (decision.masks, controlled(problem, decision, Control("uniform")).masks):
        assert not {"conv1", "linear"} & masks.keys()
    shares = {name: float(mask.float().mean()) for name, mask in decision.masks.items()}
    assert all(share >= 0.7 for name, share in shares.items() if name.startswith("layer2"))
    assert min(shares.values()) < 0.6
    with pytest.raises(InputError, match=r"only=\[nothing\]|only=nothing: no layer of this network"):
        replace(whole, only=["nothing"]).check(problem)
    with pytest.raises(InputError, match="leave no weight of these layers that may go"):
        replace(whole, skip=["*"]).check(problem)


def test_from_python() -> None:
    torch.manual_seed(0)
    model = zoo("resnet20", SHAPE)
    plan = compress.uniform_plan(model, SHAPE, preserve_ratio=0.8, skip=["layer1"], keep={"layer2.*": 0.9})
    widths = [
        *zip(compress.channel_groups(model, SHAPE), compress.channel_groups(model, SHAPE).widths(plan), strict=True)
    ]
    assert sum(width == group.width for group, width in widths) >= 4
    assert any(width < 0.9 * group.width for group, width in widths)
    with pytest.raises(InputError, match=r"^keep.layer1=2: must be in"):
        compress.uniform_plan(model, SHAPE, preserve_ratio=0.5, keep={"layer1": 2})
    with pytest.raises(InputError, match=r"^skip=layer.1: no layer of this network; did you mean layer"):
        compress.uniform_plan(model, SHAPE, preserve_ratio=0.5, skip=["layer.1"])


SMALL = ("device=cpu", "model.depth=8", "model.width=4", "preserve_ratio=0.6")


@pytest.mark.parametrize(
    "method", ["amc", "camc", "sample", "sensitivity", "slimming", "filter_magnitude", "metaprune", "supernet"]
)
def test_every_method_takes_them_and_refuses_what_is_no_layer(method: str) -> None:
    names = [f"method={method}", *SMALL, *(["method.targets=[0.7]"] if method == "camc" else [])]
    problem = build(compose_config(*names, "method.skip=[conv1]", "method.keep={layer3.*:0.2}")).method
    assert isinstance(problem, Limits)
    assert (problem.skip, problem.keep) == (["conv1"], {"layer3.*": 0.2})
    found = problems_of(compose_config(*names, "method.only=[layer.3]"))
    assert found == ["method.only=layer.3: no layer of this network; did you mean layer3?"]
    assert problems_of(compose_config(*names, "method.skip=['*']")) == [
        "method.skip=[*]: leave no channel of this network that may go"
    ]


def test_what_is_out_of_reach_by_limits_says_so() -> None:
    (found,) = problems_of(
        compose_config("method=sample", *SMALL[:3], "preserve_ratio=0.3", "method.keep={layer2:0.9}")
    )
    assert found.startswith("preserve_ratio=0.3: out of reach (method.keep={layer2:0.9}); "), found


def test_a_limit_that_is_not_set_is_no_part_of_a_key() -> None:
    asked = build(compose_config("method=sample", *SMALL)).asked["method"]
    assert not {"skip", "only", "keep"} & asked.keys()
    assert build(compose_config("method=sample", *SMALL, "method.skip=[conv1]")).asked["method"]["skip"] == ["conv1"]


def test_published_walls_know_no_limits() -> None:
    found = problems_of(compose_config("method=amc", "method.compat=upstream", *SMALL, "method.skip=[conv1]"))
    assert found == [
        "method.skip=[conv1]: method.rounding=up and method.state=original know no limits; leave them out"
    ]
