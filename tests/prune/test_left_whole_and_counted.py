"""Layers besides convolutions and linear ones cost: recurrent ones, attention; and bilinear and deformable ones, and
products with a vector, which surgery leaves whole."""

from collections.abc import Callable

import pytest
import torch
from conftest import random_plan
from torch import Tensor, nn
from torchvision.ops import DeformConv2d

from compress.graph.build import channel_graph
from compress.measure.macs import count_macs, count_params
from compress.prune.cost import cost_model
from compress.prune.surgery import cut, difference

SHAPE = (3, 8, 8)
AROUND = 64 * 9 * (3 * 8 + 8 * 6) + 10 * 12 + 12 * 4  # the convolutions before and the linear layers behind


class Between(nn.Module):
    """`layer` of 64 tokens of 6 numbers to 10, between convolutions and linear layers that can be cut."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.stem, self.last, self.layer = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 6, 3, padding=1), layer
        self.hidden, self.head = nn.Linear(10, 12), nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.last(torch.relu(self.stem(x))).flatten(2).transpose(1, 2)
        return self.head(torch.relu(self.hidden(self.layer(x).mean(1))))


class First(nn.Module):
    """Of the results of a recurrent layer, the one of every step."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        steps, _ = self.layer(x)
        return steps


class Of(nn.Module):
    def __init__(self, run: Callable[..., Tensor], *layers: nn.Module) -> None:
        super().__init__()
        self.run, self.layers, self.query = run, nn.ModuleList(layers), nn.Parameter(torch.randn(6))

    def forward(self, x: Tensor) -> Tensor:
        return self.run(x, self.query, *self.layers)


def deformable() -> nn.Module:
    def run(x: Tensor, query: Tensor, offsets: nn.Module, layer: nn.Module) -> Tensor:
        x = x.transpose(1, 2).reshape(-1, 6, 8, 8)
        return layer(x, offsets(x)).flatten(2).transpose(1, 2)

    return Of(run, nn.Conv2d(6, 18, 3, padding=1), DeformConv2d(6, 10, 3, padding=1))


def steps_of_a_cell() -> nn.Module:
    def run(x: Tensor, query: Tensor, cell: nn.Module) -> Tensor:
        return torch.stack([cell(x[:, 0]), cell(x[:, 1])], 1)

    return Of(run, nn.GRUCell(6, 10))


LAYERS: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "LSTM": (lambda: First(nn.LSTM(6, 10, batch_first=True)), 64 * 4 * 10 * (6 + 10)),
    "LSTM, projected": (
        lambda: First(nn.LSTM(6, 20, proj_size=10, batch_first=True)),
        64 * (4 * 20 * (6 + 10) + 20 * 10),
    ),
    "GRU, two ways": (
        lambda: First(nn.GRU(6, 5, 2, bidirectional=True, batch_first=True)),
        64 * 2 * 3 * 5 * (6 + 5 + 10 + 5),
    ),
    "RNN": (lambda: First(nn.RNN(6, 10, batch_first=True, bias=False)), 64 * 10 * (6 + 10)),
    "GRU cell": (steps_of_a_cell, 2 * 3 * 10 * (6 + 10)),
    "bilinear": (lambda: Of(lambda x, query, layer: layer(x, x), nn.Bilinear(6, 6, 10)), 64 * 6 * 6 * 10),
    "deformable": (deformable, 64 * 9 * 6 * (18 + 10)),
    "by a vector": (
        lambda: Of(lambda x, query, layer: layer(x * torch.matmul(x, query)[..., None]), nn.Linear(6, 10)),
        64 * 6 + 64 * 6 * 10,
    ),
    "attention": (
        lambda: Of(
            lambda x, query, attend, layer: layer(attend(x, x, x)[0]),
            nn.MultiheadAttention(6, 2, batch_first=True), nn.Linear(6, 10),
        ),
        64 * 6 * 6 * 4 + 2 * 64 * 64 * 6 + 64 * 6 * 10,
    ),
    "einsum": (
        lambda: Of(lambda x, query, layer: layer(torch.einsum("bnc,bmc,bmd->bnd", x, x, x)), nn.Linear(6, 10)),
        2 * 64 * 64 * 6 + 64 * 6 * 10,
    ),
}  # fmt: skip


WHOLE = ("bilinear", "deformable", "by a vector", "einsum")


@pytest.mark.parametrize("name", LAYERS)
def test_the_price_holds_it_and_the_laws_hold_around_it(name: str) -> None:
    torch.manual_seed(0)
    make, macs = LAYERS[name]
    model = Between(make()).eval()
    graph = channel_graph(model, SHAPE)
    assert {"stem", "hidden"} <= {group.name for group in graph}
    assert ("last" in graph.frozen) == (name in WHOLE)  # what a layer that is not known reads stays whole
    cost = cost_model(model, graph, SHAPE)
    assert cost.full_macs == AROUND + macs
    assert cost.uncounted == {}
    for share in (0.5, 0.1):
        plan = random_plan(graph, share)
        small = cut(model, graph, plan)
        assert cost.macs(plan) == count_macs(small, SHAPE) < cost.full_macs
        assert cost.params(plan) == count_params(small)
        assert difference(model, small, graph, plan, torch.randn(2, *SHAPE)) < 1e-10


def test_what_is_not_a_layer_of_the_graph_is_fixed() -> None:
    model = Between(Of(lambda x, query, layer: layer(x, x), nn.Bilinear(6, 6, 10)))
    cost = cost_model(model, channel_graph(model, SHAPE), SHAPE)
    assert cost.fixed_macs == 64 * 6 * 6 * 10
    assert cost.macs([[1] * len(cost.names)])[0] > cost.fixed_macs


def test_prices_name_what_they_leave_out() -> None:
    model = Between(Of(lambda x, query: torch.cdist(x, x[:, :10])))
    cost = cost_model(model, channel_graph(model, SHAPE), SHAPE)
    assert cost.uncounted == {"layer": ("cdist",)}
    assert cost.full_macs == AROUND
