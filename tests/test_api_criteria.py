"""`compress.scores` and `compress.select`, used as the documentation shows it."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from conftest import CPU, livened
from torch import Tensor, nn

import compress
from compress.data.memory import MemoryData
from compress.errors import InputError
from compress.models.resnet_cifar import resnet

SHAPE = (1, 8, 8)


@pytest.fixture
def net() -> nn.Module:
    torch.manual_seed(0)
    return livened(resnet(depth=8, width=8, shortcut="conv", in_channels=1, num_classes=10)).eval()


def training(data: MemoryData) -> list[tuple[Tensor, Tensor]]:
    return list(data.drawn("train", 64, 32, 0, CPU))


@pytest.mark.parametrize("name", ["l1", "l2", "fpgm", "taylor", "bn_scale", "osscar", "random"])
def test_scores_become_a_plan_of_the_budget(net: nn.Module, name: str, digit_data: MemoryData) -> None:
    batches = training(digit_data)
    groups = compress.channel_groups(net, SHAPE)
    scores = compress.scores(net, name, batches)
    assert {group.name: group.width for group in groups} == {key: len(score) for key, score in scores.items()}
    prices = compress.cost(net, SHAPE)
    before = None
    for share in (0.3, 0.5, 0.8):
        plan = compress.select(groups, scores, preserve_ratio=share, prices=prices)
        assert 0.9 * share < prices.macs(plan) / prices.full_macs <= share
        assert all(len(plan.kept[group.name]) >= 0.1 * group.width for group in groups)
        if before is not None:
            assert all(set(channels) <= set(plan.kept[key]) for key, channels in before.items())
        before = plan.kept
    small = compress.cut(net, plan)
    assert small(batches[0][0]).shape == (32, 10)


def test_budgets_are_those_of_the_command(net: nn.Module) -> None:
    groups, scores = compress.channel_groups(net, SHAPE), compress.scores(net, example=SHAPE)
    prices = compress.cost(net, SHAPE)
    channels = sum(group.width for group in groups)
    third = compress.select(groups, scores, percent=0.25)
    assert sum(map(len, third.kept.values())) == channels - int(0.25 * channels)
    limit = 0.5 * prices.full_macs / 1e6
    by_macs = partial(compress.select, groups, prices=prices)
    assert by_macs(scores, flops_limit=limit) == by_macs(scores, preserve_ratio=0.5)
    coarse = by_macs(scores, preserve_ratio=0.6, round_to=4, min_channels=4, scope="isomorphic")
    assert all(len(kept) % 4 == 0 and len(kept) >= 4 for kept in coarse.kept.values())
    one = {groups[0].name: scores[groups[0].name]}
    narrow = by_macs(one, preserve_ratio=0.8)
    assert [g.name for g in groups if len(narrow.kept[g.name]) < g.width] == [groups[0].name]


def test_a_group_is_scaled_by_its_mean_unless_that_is_not_wanted(net: nn.Module) -> None:
    groups, scores = compress.channel_groups(net, SHAPE), compress.scores(net, example=SHAPE)
    louder = {name: score * (1000 if name == groups[1].name else 1) for name, score in scores.items()}
    plan = compress.select(groups, scores, percent=0.3)
    assert compress.select(groups, louder, percent=0.3) == plan
    raw = compress.select(groups, louder, percent=0.3, normalise="none")
    assert len(raw.kept[groups[1].name]) == groups[1].width > len(plan.kept[groups[1].name])


def test_settings_and_criteria_of_ones_own(net: nn.Module, digit_data: MemoryData) -> None:
    batches = training(digit_data)
    compress.channel_groups(net, SHAPE)
    published = compress.scores(net, "taylor", iter(batches), of="norms", measure="abs")
    assert published.keys() == compress.scores(net).keys()
    assert not torch.equal(published["conv1"], compress.scores(net, "taylor", batches)["conv1"])

    def last_first(model: nn.Module, graph: Any, sample: Any) -> Any:
        return {group.name: [torch.arange(group.width, 0, -1.0)[:, None]] for group in graph}

    scores = compress.scores(net, last_first)
    kept = compress.select(compress.channel_groups(net, SHAPE), compress.scores(net, last_first), percent=0.5).kept
    assert all(kept[name] == tuple(range(len(kept[name]))) for name in scores)


def test_mistakes_are_told_with_the_choices(net: nn.Module, digit_data: MemoryData) -> None:
    with pytest.raises(InputError, match="its channels are not known yet"):
        compress.scores(net)
    groups, scores = compress.channel_groups(net, SHAPE), compress.scores(net)
    one, select = {"conv1": scores["conv1"]}, partial(compress.select, groups)
    wide = compress.cost(resnet(depth=8, width=16, shortcut="conv", in_channels=1, num_classes=10), SHAPE)
    fits = compress.cost(net, SHAPE)
    calls: list[tuple[Callable[[], Any], str]] = [
        (lambda: compress.scores(net, "fgpm"), r"^fgpm: not a criterion; there are bn_scale, fpgm, l1"),
        (lambda: compress.scores(net, "l1", side="left"), r"^side=left: must be one of readers, makers, both$"),
        (lambda: compress.scores(net, lambda *_: {}, side="left"), r"^side: is no setting here"),
        (lambda: compress.scores(net, "taylor"), r"^batches: taylor looks at images; give \(images, labels\)"),
        (lambda: compress.scores(net, "osscar", []), r"^batches: holds none"),
        (lambda: compress.scores(net, "taylor", [torch.zeros(2, *SHAPE)]), r"^batches: must be pairs"),  # type: ignore[list-item]
        (lambda: compress.scores(net, seed=-1), r"^seed=-1: must be >= 0"),
        (lambda: select(scores), r"^a budget: must be one or several of preserve_ratio, .*; got none$"),
        (lambda: select(scores, percent=0.5, params_limit=1), r"^params_limit=1 M parameters: counts parameters"),
        (lambda: select(scores, percent=1.5), r"^percent=1.5: must be in \[0, 1\)$"),
        (lambda: select(scores, percent=0.5, protect=0), r"^protect=0: must be in \(0, 1\]$"),
        (lambda: select(scores, percent=0.5, scope="all"), r"^scope=all: must be one of global, layer"),
        (lambda: select({}, percent=0.5), r"^scores: holds none"),
        (lambda: select({"conv": one["conv1"]}, percent=0.5), r"names group 'conv'; did you mean conv1\?"),
        (lambda: select({"conv1": torch.ones(7)}, percent=0.5), r"must be a tensor \(8,\); got \(7,\)"),
        (lambda: select({"conv1": torch.full((8,), torch.nan)}, percent=0.5), r"is not finite$"),
        (lambda: select(scores, preserve_ratio=0.5), r"counts MACs; give prices=compress.cost\(model, example\)$"),
        (lambda: select(scores, preserve_ratio=0.5, prices=wide), r"^prices: are not of these groups"),
        (lambda: select(scores, preserve_ratio=0.001, prices=fits), r"^preserve_ratio=0.001: out of reach; with min"),
    ]
    for call, told in calls:
        with pytest.raises(InputError, match=told):
            call()
