"""Rounding is decided with the budget: multiples, never zero, nested, and within one step of what was asked."""

from functools import cache

import numpy as np
import pytest
from torchvision import models

from compress.graph.build import channel_graph
from compress.graph.types import ChannelGraph, ChannelGroup
from compress.models.resnet_cifar import resnet
from compress.prune.cost import CostModel, cost_model
from compress.prune.widths import all_choices, choices, reachable, uniform_widths


@pytest.mark.parametrize(
    ("width", "round_to", "lowest", "highest", "expected"),
    [
        (16, 4, 0.2, 1.0, [4, 8, 12, 16]),
        (64, 16, 0.5, 1.0, [32, 48, 64]),
        (10, 8, 0.2, 1.0, [8, 10]),
        (3, 8, 0.2, 1.0, [3]),
        (8, 1, 0.0, 0.5, [1, 2, 3, 4]),
        (32, 8, 0.9, 0.95, [32]),
    ],
)
def test_widths_are_multiples_between_the_bounds_and_never_zero(
    width: int, round_to: int, lowest: float, highest: float, expected: list[int]
) -> None:
    assert choices(ChannelGroup("g", width, {}, ()), round_to, lowest, highest).tolist() == expected


@pytest.mark.parametrize(
    ("copies", "round_to", "expected"),
    [(32, 8, [1, 2, 3, 4]), (2, 8, [4]), (3, 8, [4]), (4, 8, [2, 4]), (1, 1, [1, 2, 3, 4])],
)
def test_rounding_counts_channels_of_the_layer_not_of_one_conv_group(
    copies: int, round_to: int, expected: list[int]
) -> None:
    assert choices(ChannelGroup("g", 4, {}, (), copies), round_to, 0.0, 1.0).tolist() == expected


NETWORKS = {
    "resnet20": lambda: resnet(depth=20, width=16, shortcut="conv", in_channels=3, num_classes=10),
    "option A": lambda: resnet(depth=20, width=16, shortcut="pad", in_channels=3, num_classes=10),
    "resnext": lambda: models.resnext50_32x4d(weights=None),
    "regnet": lambda: models.regnet_y_400mf(weights=None),
}


@cache
def looked_at(name: str) -> tuple[ChannelGraph, CostModel]:
    model = NETWORKS[name]()
    graph = channel_graph(model, (3, 64, 64))
    return graph, cost_model(model, graph, (3, 64, 64))


@pytest.mark.parametrize("round_to", [1, 4, 8, 16])
@pytest.mark.parametrize("name", NETWORKS)
def test_a_larger_budget_never_gives_a_narrower_group(name: str, round_to: int) -> None:
    graph, cost = looked_at(name)
    options = all_choices(graph, round_to)
    low, high = reachable(cost, options)
    assert high == 1
    assert 0 < low < 0.7
    before = np.zeros(len(graph), dtype=int)
    for target in np.linspace(low, 1, 23):
        widths = np.array(uniform_widths(cost, options, target))
        assert (widths >= np.maximum(before, 1)).all()
        before = widths
        got = cost.macs(widths)[0] / cost.full_macs
        assert got <= target + 1e-12
        # one group's next width would be too much
        nexts = [options[at][options[at] > width][:1] for at, width in enumerate(widths)]
        larger = [np.where(np.arange(len(widths)) == at, wider, widths) for at, [*wider] in enumerate(nexts) if wider]
        assert not larger or (cost.macs(np.array(larger)) / cost.full_macs).max() > target
    assert (before == cost.full_widths).all()


@pytest.mark.parametrize("name", ["resnext", "regnet"])
def test_layers_of_grouped_networks_get_multiples_of_eight(name: str) -> None:
    graph, _ = looked_at(name)
    for group, options in zip(graph, all_choices(graph, 8), strict=True):
        assert all(width * group.outputs_per_channel % 8 == 0 for width in options[:-1])
        assert options[-1] == group.width
