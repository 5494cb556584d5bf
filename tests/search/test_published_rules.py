"""The published code's rules, by hand numbers of MobileNetV1 at 224 px and the strategies that its authors printed.

Sources of the numbers: mit-han-lab/amc and the conditional variant's reference notes (tests/oracles/amc_seed.json).
"""

import json
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from conftest import ORACLES, zoo

from compress.graph.build import channel_graph
from compress.graph.types import ChannelGraph
from compress.measure.accuracy import Accuracy
from compress.prune.cost import CostModel, cost_model
from compress.prune.widths import all_choices
from compress.search.agent.action_bounds import BudgetMode, PublishedBounds, bias_macs, rounded_up
from compress.search.agent.environment import ChannelEnv
from compress.search.agent.observations import PublishedObserver
from compress.search.agent.rewards import acc

SEED = json.loads((ORACLES / "amc_seed.json").read_text())
FLOPS = {row["id"]: row for row in json.loads((ORACLES / "amc_flops.json").read_text())["rows"]}
FULL = 568_741_352  # with the classifier's 1000 additions of a bias


@cache
def network() -> tuple[torch.nn.Module, ChannelGraph, CostModel]:
    model = zoo("mobilenetv1", (3, 224, 224), 1000)
    graph = channel_graph(model, (3, 224, 224))
    return model, graph, cost_model(model, graph, (3, 224, 224))


def published_bounds(mode: BudgetMode = "upper", rbound: float = 1.0) -> PublishedBounds:
    model, graph, cost = network()
    return PublishedBounds(cost, bias_macs(model, graph), lbound=0.2, rbound=rbound, round_to=8, mode=mode)


def make_env(mode: BudgetMode = "upper", encoding: Any = "none", rbound: float = 1.0) -> ChannelEnv:
    model, graph, cost = network()
    bounds, targets = published_bounds(mode, rbound), [0.3, 0.5, 0.7]
    state = PublishedObserver(model, graph, bounds, encoding, targets, lbound=0.2)
    choices = all_choices(graph, 8, 0.2, rbound)
    return ChannelEnv(cost, choices, state, bounds, lambda widths: Accuracy(50.0, 90.0), acc)


def first_state(env: ChannelEnv, target: float) -> Any:
    states: list[Any] = []
    env.walk(target, lambda step, seen: states.append(seen) or 1.0)  # type: ignore[func-returns-value]
    return states[0]


def test_fifteen_decisions_of_which_the_first_is_about_the_image() -> None:
    env = make_env()
    assert env.steps == 15
    assert env.observation_size == 10
    assert len(env.walk(0.5, lambda step, seen: 0.5)) == 14
    assert published_bounds().full_macs == FULL


def test_static_rows_of_the_state() -> None:
    seen: dict[int, Any] = {}
    make_env().walk(1.0, lambda step, observation: float(seen.setdefault(step, observation)[0] * 0 + 1))
    assert seen[0][:7].tolist() == pytest.approx([0, 0, 0, 0, 1, 1, 0], abs=5e-6)
    assert seen[1][:7].tolist() == pytest.approx([0.07143, 0, 0.0284, 0.03226, 0.5, 0, 0.00113], abs=5e-6)
    assert seen[14][:7].tolist() == pytest.approx([1, 1, 1, 0.97581, 0, 0, 0.97654], abs=5e-6)


def test_what_changes_in_the_state_and_its_quirks() -> None:
    seen: dict[int, Any] = {}
    env = make_env()
    widths = env.walk(1.0, lambda step, observation: float(seen.setdefault(step, observation)[0] * 0 + 1))
    assert widths == tuple(network()[2].full_widths)
    assert seen[0][7:].tolist() == pytest.approx([0, 0.999795, 1], abs=5e-7)  # rest by weights, not MACs
    assert seen[1][7] == pytest.approx(0.9518, abs=5e-5)  # later layers are taken to be at lbound
    reduced = [seen[step][7] for step in range(1, 15)]
    assert reduced == sorted(reduced, reverse=True)  # so it falls while nothing is removed
    assert seen[14][8] == pytest.approx(0.0306, abs=5e-5)  # all depthwise layers count as still to come
    assert all(seen[step][9] == 1 for step in range(15))
    env.walk(1.0, lambda step, observation: float(seen.update({step: observation}) or 0.75))
    assert seen[2][9] == pytest.approx(24 / 32)  # the executed share of the step before


@pytest.mark.parametrize(
    ("share", "full", "kept"),
    [
        (1.0, 32, 32), (0.2, 32, 8), (0.2, 64, 16), (0.2, 128, 32), (0.2, 256, 56), (0.2, 512, 104), (0.2, 1024, 208),
        (0.5, 33, 16),  # 16.5 -> 16, half to even
        (0.53, 33, 24),  # 17.49 -> 17, up to 24
        (0.99, 33, 32),  # 33 -> 40 is too many: down
        (0.001, 64, 8), (0.5, 4, 4),
    ],
)  # fmt: skip
def test_widths_are_rounded_up(share: float, full: int, kept: int) -> None:
    assert rounded_up(share, full, 8) == kept


def test_the_least_strategy_and_its_ratio() -> None:
    env = make_env()
    widths = env.walk(0.3, lambda step, seen: 0.0)
    assert widths == (8, 16, 32, 32, 56, 56, *[104] * 6, 208, 208)
    assert round(float(network()[2].macs(widths)[0]) / network()[2].full_macs, 4) == 0.0565


@pytest.mark.parametrize(("target", "ratio"), [(0.3, 0.3033), (0.5, 0.5011), (0.7, 0.7009)])
def test_always_asking_for_all_overshoots_by_rounding(target: float, ratio: float) -> None:
    env = make_env()
    widths = env.walk(target, lambda step, seen: 1.0)
    shares = np.array([env.executed(widths)[1:]])
    assert round(float(published_bounds().macs(shares)[0]) / FULL, 4) == ratio


@pytest.mark.parametrize("row", SEED["strategies"], ids=lambda row: row["id"])
def test_published_strategies_replay_through_the_walls(row: dict[str, Any]) -> None:
    """Layer by layer: each entry is what the bounds and the rounding make of it, with those before as published."""
    cost = network()[2]
    widths = tuple(round(share * full) for share, full in zip(row["strategy"][1:], cost.full_widths, strict=True))
    env, bounds = make_env(), published_bounds()
    wrong = [
        layer
        for layer, share in enumerate(row["strategy"][1:], start=1)
        if bounds.width(widths[: layer - 1], share, row["target"]) != widths[layer - 1]
    ]
    assert (wrong == []) == row["wall_ok"]
    if row["wall_ok"]:
        assert env.walk(row["target"], env.replay(widths)) == widths
    else:
        assert wrong == [14]
        assert bounds.width(widths[:13], row["strategy"][14], row["target"]) == 344
        assert widths[13] == 552
    last = bounds.share(widths[:13], 1.0, row["target"])
    assert last == pytest.approx(min(max(row["last_amax"], 0.2), 1.0), abs=5e-5)


def test_all_eleven_are_there_and_one_was_played_without_a_budget() -> None:
    assert len(SEED["strategies"]) == 11
    assert [row["id"] for row in SEED["strategies"] if not row["wall_ok"]] == ["reuse_0.3"]
    row = next(row for row in SEED["strategies"] if row["id"] == "reuse_0.3")
    env = make_env()
    widths = tuple(round(s * f) for s, f in zip(row["strategy"][1:], network()[2].full_widths, strict=True))
    assert env.walk(0.3, env.replay(widths), budget=1.0) == widths


@pytest.mark.parametrize("name", list(FLOPS))
def test_ratios_as_the_original_counts_them(name: str) -> None:
    """Its classifier's bias is pruned along with the inputs: `ratio_env`, and to 4 digits what its log printed."""
    shares = np.array([FLOPS[name]["channels"][1:]]) / network()[2].full_widths
    ratio = float(published_bounds().macs(shares)[0]) / FULL
    assert ratio == pytest.approx(FLOPS[name]["ratio_env"], abs=1e-12)
    if FLOPS[name]["done_ratio_seed"] is not None:
        assert round(ratio, 4) == float(FLOPS[name]["done_ratio_seed"])


def test_random_actions_stay_below_the_target_and_far_below_large_ones() -> None:
    """U(0, 1) gives mean ratios of about .27/.30/.30 for .3/.5/.7, never above the target by more than rounding."""
    random = np.random.default_rng(0)
    env, cost = make_env(), network()[2]
    for target, mean, most in ((0.3, 0.27, 0.3035), (0.5, 0.299, 0.5012), (0.7, 0.3, 0.7012)):
        played = [env.walk(target, lambda step, seen: random.random()) for _ in range(150)]
        ratios = cost.macs(played) / cost.full_macs
        assert ratios.max() <= most + 5e-4
        assert ratios.mean() == pytest.approx(mean, abs=0.025)


@pytest.mark.parametrize("target", [0.3, 0.5, 0.7])
def test_a_lower_wall_lands_even_random_actions_on_the_target(target: float) -> None:
    random = np.random.default_rng(0)
    env, cost = make_env("exact"), network()[2]
    ratios = cost.macs([env.walk(target, lambda step, seen: random.random()) for _ in range(40)]) / cost.full_macs
    assert ratios.mean() == pytest.approx(target, abs=0.004)
    assert abs(ratios - target).max() < 0.02


def test_the_seeds_target_is_one_hot_between_static_and_changing_columns() -> None:
    env = make_env(encoding="onehot")
    assert env.observation_size == 13
    for target, place in ((0.3, 7), (0.5, 8), (0.7, 9)):
        seen = first_state(env, target)
        assert seen[7:10].tolist() == [float(place == at) for at in (7, 8, 9)]
        assert seen[10] == 0
    scalar = first_state(make_env(encoding="scalar"), 0.7)
    assert scalar.shape == (11,)
    assert scalar[7] == pytest.approx(0.7)


@pytest.mark.parametrize("mode", ["upper", "exact"])
@pytest.mark.parametrize("rbound", [0.6, 0.8])
def test_the_largest_share_holds_after_rounding_too(mode: BudgetMode, rbound: float) -> None:
    random = np.random.default_rng(0)
    env = make_env(mode, rbound=rbound)
    shares = [env.executed(env.walk(0.3, lambda step, seen: random.random()))[1:] for _ in range(40)]
    assert np.max(shares) <= rbound
    assert np.max(shares) > rbound - 0.05
    if mode == "exact":
        ratios = [float(published_bounds().macs(np.array([share]))[0]) / FULL for share in shares]
        assert np.mean(ratios) == pytest.approx(0.3, abs=0.005)
