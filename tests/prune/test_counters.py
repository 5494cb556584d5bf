"""Prices by every counter are the counts of the cut network, to the unit; what cannot be priced is told."""

from typing import Any

import numpy as np
import pytest
import torch
from conftest import random_plan, zoo
from torch import Tensor, nn
from torchvision import models

from compress.errors import SettingError
from compress.graph.build import channel_graph
from compress.graph.elements import elements
from compress.graph.plan import Plan
from compress.graph.types import ChannelGraph
from compress.measure.counts import counts
from compress.prune.cost import cost_model
from compress.prune.counters import CountedPrice, Counter, counted_price
from compress.prune.surgery import cut

COLUMNS: dict[Counter, str] = {"macs": "macs", "fvcore": "fvcore", "search": "metapruning", "ptflops": "ptflops"}
SMALL, LARGE = (3, 32, 32), (3, 64, 64)
NETWORKS: dict[str, tuple[Any, tuple[int, int, int]]] = {
    "resnet20": (lambda: zoo("resnet20"), SMALL),
    "vgg11_bn": (lambda: zoo("vgg11_bn"), SMALL),
    "mobilenetv1": (lambda: zoo("mobilenetv1"), SMALL),
    "mobilenetv2 paper": (lambda: zoo("mobilenetv2", LARGE, variant="paper"), LARGE),
    "mobilenetv2 seed": (lambda: zoo("mobilenetv2", LARGE, variant="seed"), LARGE),
    "resnet50": (lambda: zoo("resnet50", LARGE), LARGE),
    "mobilenet_v3_small": (lambda: models.mobilenet_v3_small(weights=None), LARGE),
    "shufflenet_v2_x0_5": (lambda: models.shufflenet_v2_x0_5(weights=None), LARGE),
    "squeezenet1_1": (lambda: models.squeezenet1_1(weights=None), LARGE),
    "resnext50_32x4d": (lambda: models.resnext50_32x4d(weights=None), LARGE),
    "convnext_tiny": (lambda: models.convnext_tiny(weights=None), LARGE),
    "densenet121": (lambda: models.densenet121(weights=None), LARGE),
}
HEAVY = (
    "convnext_tiny", "densenet121", "mobilenet_v3_small", "mobilenetv2 paper", "mobilenetv2 seed", "resnet50",
    "resnext50_32x4d", "shufflenet_v2_x0_5",
)  # fmt: skip


def prices_of(model: nn.Module, shape: tuple[int, int, int]) -> tuple[ChannelGraph, dict[Counter, CountedPrice]]:
    graph = channel_graph(model, shape)
    cost = cost_model(model, graph, shape)
    return graph, {counter: counted_price(counter, model, graph, cost, shape) for counter in COLUMNS}


def assert_exact(model: nn.Module, shape: tuple[int, int, int], plans: int = 2) -> None:
    graph, prices = prices_of(model, shape)
    for plan in (Plan(), *(random_plan(graph, share, seed) for seed, share in enumerate((0.6, 0.15)[:plans]))):
        found = counts(cut(model, graph, plan), shape)
        widths = graph.widths(plan)
        got = {counter: price(widths).tolist() for counter, price in prices.items()}
        assert got == {counter: [getattr(found, column)] for counter, column in COLUMNS.items()}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name in HEAVY else name for name in NETWORKS]
)
def test_the_price_is_the_count_of_the_cut_network(name: str) -> None:
    make, shape = NETWORKS[name]
    assert_exact(make(), shape)


class Pooled(nn.Module):
    """Every kind of thing that a counter counts: norms with and without weights, biases, resizing, both poolings."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.bare = nn.Conv2d(3, 12, 3, padding=1), nn.BatchNorm2d(12, affine=False)
        self.b, self.norm = nn.Conv2d(12, 8, 1, bias=False), nn.GroupNorm(2, 8)
        self.act, self.pool, self.up = nn.LeakyReLU(), nn.MaxPool2d(2), nn.Upsample(scale_factor=2)
        self.inner, self.last = nn.Linear(8, 10), nn.Linear(10, 4)
        self.layer_norm = nn.LayerNorm(10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.bare(self.a(x)))
        x = torch.relu(self.norm(self.b(self.act(self.pool(self.up(x))))))
        x = nn.functional.interpolate(x, scale_factor=2.0, mode="bilinear")
        x = nn.functional.adaptive_avg_pool2d(x, 2).mean((2, 3))
        return self.last(self.layer_norm(self.inner(x)))  # type: ignore[no-any-return]


def test_every_kind_of_what_counters_count() -> None:
    assert_exact(Pooled(), (3, 8, 8))


def test_prices_by_hand() -> None:
    model = nn.Sequential(nn.Conv2d(1, 6, 1), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 2, 1, bias=False))
    graph, prices = prices_of(model, (1, 4, 4))
    assert graph.widths(Plan()) == [6]
    batch = np.arange(1, 7)[:, None]
    pixels = 16
    macs = [pixels * (width + 2 * width) for width in range(1, 7)]
    assert prices["macs"](batch).tolist() == macs
    assert prices["search"](batch).tolist() == [m + pixels * w for w, m in enumerate(macs, 1)]
    assert prices["fvcore"](batch).tolist() == [m + 2 * pixels * w for w, m in enumerate(macs, 1)]
    assert prices["ptflops"](batch).tolist() == [m + 4 * pixels * w for w, m in enumerate(macs, 1)]


class OwnReLU(nn.ReLU):
    """No module of torch: what is traced are the calls inside of it."""


def test_what_cannot_be_priced_is_told() -> None:
    model = nn.Sequential(nn.Conv2d(1, 6, 1), OwnReLU(), nn.Conv2d(6, 2, 1))
    shape = (1, 4, 4)
    graph = channel_graph(model, shape)
    cost = cost_model(model, graph, shape)
    with pytest.raises(SettingError, match="counter=ptflops: of Sequential, cut, it counts .* use counter=macs"):
        counted_price("ptflops", model, graph, cost, shape)
    assert counted_price("fvcore", model, graph, cost, shape)(cost.full_widths)[0] == counts(model, shape).fvcore


def test_looking_leaves_the_network_as_it_was(tiny: nn.Module) -> None:
    before = {name: value.clone() for name, value in tiny.state_dict().items()}
    modes = [module.training for module in tiny.modules()]
    graph = channel_graph(tiny, (1, 8, 8))
    calls = elements(tiny, graph, (1, 8, 8))
    assert calls[0].layer is tiny.get_submodule("conv1")
    assert calls[0].written.tolist() == [64.0, *[0.0] * (len(graph) - 1)]
    assert all(torch.equal(value, before[name]) for name, value in tiny.state_dict().items())
    assert [module.training for module in tiny.modules()] == modes
    assert not any(module._forward_hooks for module in tiny.modules())
