"""Layers that compute their weight of their own: groups by hand, and the law for uneven plans."""

from typing import Any

import pytest
import torch
from lawful import SHAPE, Around, check_law, widths
from peoples_layers import StandardisedConv
from torch import Tensor, nn
from torch.nn import functional as F

from compress.graph.build import channel_graph
from compress.prune.refit import sampled_rows


class Standardised(nn.Conv2d):
    """Scaled weight standardisation by a batch norm of the rows, with a gain for each output."""

    def __init__(self, *given: Any, **options: Any) -> None:
        super().__init__(*given, **options)
        self.gain = nn.Parameter(torch.ones(self.out_channels, 1, 1, 1))
        self.scale = self.weight[0].numel() ** -0.5

    def standardised(self) -> Tensor:
        rows = self.weight.reshape(1, self.out_channels, -1)
        gain = (self.gain * self.scale).view(-1)
        return F.batch_norm(rows, None, None, weight=gain, training=True, momentum=0.0, eps=1e-6).reshape_as(
            self.weight
        )

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.standardised(), self.bias, self.stride, self.padding, self.dilation, self.groups)


class PaddedStandardised(Standardised):
    """Pads as much as its kernel and the images ask for."""

    def forward(self, x: Tensor) -> Tensor:
        by = [
            max((-(-n // s) - 1) * s + k - n, 0)
            for n, k, s in zip(x.shape[2:], self.kernel_size, self.stride, strict=True)
        ]
        return super().forward(F.pad(x, (by[1] // 2, by[1] - by[1] // 2, by[0] // 2, by[0] - by[0] // 2)))


class CosineLinear(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, F.normalize(self.weight, dim=-1), self.bias)


class Written(Standardised):
    """Has the size of a row as a number."""

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self.fan_in = 144.0

    def forward(self, x: Tensor) -> Tensor:
        rows = self.weight.view(-1, int(self.fan_in))
        return F.conv2d(x, (rows - rows.mean(1, keepdim=True)).view(-1, 16, 3, 3))


class Residual(StandardisedConv):
    def forward(self, x: Tensor) -> Tensor:
        return x + super().forward(x)


class Across(nn.Conv2d):
    """The rows of all outputs are centred together."""

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight - self.weight.mean(0), self.bias)


def then(s: Any, x: Tensor) -> Tensor:
    return s.next(s.own(x).relu())  # type: ignore[no-any-return]


def around(own: nn.Module, outputs: int) -> Around:
    return Around(then, own=own, next=nn.Conv2d(outputs, 16, 1))


FREE = {"stem": 16, "own": 10, "next": 16}
KINDS: dict[str, tuple[dict[str, int], Around]] = {
    "standardised": (FREE, around(Standardised(16, 10, 3, padding=1), 10)),
    "standardised by hand": (FREE, around(StandardisedConv(16, 10, 3), 10)),
    "standardised, padded": (FREE, around(PaddedStandardised(16, 10, 3, stride=2, bias=False), 10)),
    "in groups": ({"stem": 8, "own": 6, "next": 16}, around(Standardised(16, 12, 3, groups=2), 12)),
    "depthwise": ({"stem": 16, "next": 16}, around(Standardised(16, 16, 3, groups=16), 16)),
    "one after the other": (
        {"stem": 16, "a": 12},
        Around(lambda s, x: x + s.b(s.a(x).relu()), a=Standardised(16, 12, 1), b=Standardised(12, 16, 3, padding=1)),
    ),
    "called twice": (
        {"stem": 16}, Around(lambda s, x: s.own(s.own(x).relu()), own=Standardised(16, 16, 3, padding=1)),
    ),
    "cosines": (
        {"stem": 16, "own": 10}, Around(lambda s, x: s.own(x.mean((2, 3))), 10, own=CosineLinear(16, 10)),
    ),
    "a written size": ({"own": 10, "next": 16}, around(Written(16, 10, 3), 10)),
    "a residual inside": ({"next": 16}, around(Residual(16, 16, 3, padding=1), 16)),
    "computed across outputs": ({"next": 16}, around(Across(16, 10, 3), 10)),
    "weight norm": ({"next": 16}, around(nn.utils.parametrizations.weight_norm(nn.Conv2d(16, 10, 3)), 10)),
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_groups_by_hand_and_the_law(kind: str) -> None:
    expected, model = KINDS[kind]
    assert widths(check_law(model)) == expected


def test_what_cannot_be_cut_is_named_with_the_layer_that_computes() -> None:
    for kind in ("a written size", "a residual inside"):
        graph = channel_graph(KINDS[kind][1], SHAPE)
        assert graph.frozen["stem"] == "is read by own, which computes its weight of a fixed number of inputs"


def test_a_layer_that_computes_its_weight_is_not_refitted() -> None:
    generator = torch.Generator().manual_seed(0)
    for layer, x in ((Standardised(4, 3, 1), torch.ones(2, 4, 5, 5)), (CosineLinear(4, 3), torch.ones(2, 4))):
        assert sampled_rows(layer, x, 2, generator) is None
