"""Layers besides convolutions of images and linear ones: groups by hand, and the law for uneven plans."""

from typing import Any

import pytest
import torch
from lawful import Around, check_law, widths
from peoples_layers import GroupNormAct, LayerNormAct, OwnInstanceNorm, RMSNormAct
from torch import Tensor, nn
from torch.nn import functional as F


def transposed(s: Any, x: Tensor) -> Tensor:
    return s.next(s.up(x)).relu()  # type: ignore[no-any-return]


def up(*given: int, **options: Any) -> Around:
    layer = nn.ConvTranspose2d(*given, **options)
    return Around(transposed, up=layer, next=nn.Conv2d(layer.out_channels, 16, 1))


class OwnTransposed(nn.ConvTranspose2d):
    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        return F.conv_transpose2d(x, self.weight, self.bias, self.stride, 1, self.output_padding, self.groups)


def steps(x: Tensor) -> Tensor:
    return F.avg_pool2d(x, 4).flatten(2).transpose(1, 2)


def of_steps(s: Any, x: Tensor) -> Tensor:
    out, _ = s.layer(steps(x))
    return out.mean(1)  # type: ignore[no-any-return]


def of_states(s: Any, x: Tensor) -> Tensor:
    _, (hidden, memory) = s.layer(steps(x).transpose(0, 1))
    return torch.cat([hidden.mean(0), memory[0]], -1)


def from_a_state(s: Any, x: Tensor) -> Tensor:
    begun = s.start(x.mean((2, 3)))[None]
    return s.layer(steps(x), begun)[0][:, -1]  # type: ignore[no-any-return]


def from_zeros(s: Any, x: Tensor) -> Tensor:
    return s.layer(steps(x), torch.zeros(1, x.shape[0], 10, dtype=x.dtype, device=x.device))[0].mean(1)  # type: ignore[no-any-return]


def by_a_cell(s: Any, x: Tensor) -> Tensor:
    hidden = None
    for step in steps(x)[:, :3].unbind(1):
        hidden = s.cell(step, hidden)
    return hidden  # type: ignore[return-value]


def by_a_cell_with_memory(s: Any, x: Tensor) -> Tensor:
    hidden, memory = s.cell(x.mean((2, 3)))
    return torch.cat(s.cell(x.amax((2, 3)), (hidden, memory)), 1)


def lstm(*given: int, **options: Any) -> Around:
    directions = 1 + options.get("bidirectional", False)
    layer = nn.LSTM(*given, batch_first=True, **options)
    return Around(of_steps, (layer.proj_size or layer.hidden_size) * directions, layer=layer)


KINDS: dict[str, tuple[dict[str, int], Around]] = {
    "transposed": ({"stem": 16, "up": 10, "next": 16}, up(16, 10, 3, stride=2, padding=1, output_padding=1)),
    "transposed, in groups": ({"stem": 8, "up": 6, "next": 16}, up(16, 12, 2, stride=2, groups=2)),
    "transposed, depthwise": ({"stem": 16, "next": 16}, up(16, 16, 3, groups=16, bias=False)),
    "transposed, depthwise, two each": ({"stem": 16, "next": 16}, up(16, 32, 3, groups=16)),
    "transposed, 1d": (
        {"stem": 16, "up": 6}, Around(lambda s, x: s.up(x.flatten(2)), 6, up=nn.ConvTranspose1d(16, 6, 3, 2)),
    ),
    "transposed, 3d": (
        {"stem": 16, "up": 6}, Around(lambda s, x: s.up(x[:, :, None]), 6, up=nn.ConvTranspose3d(16, 6, 2, 2)),
    ),
    "transposed, to a size": (
        {"stem": 16, "up": 6},
        Around(lambda s, x: s.up(x[:, :, ::2, ::2], x.shape[2:]), 6, up=nn.ConvTranspose2d(16, 6, 3, 2, 1)),
    ),
    "transposed, by a function": (
        {"stem": 8, "own": 4}, Around(lambda s, x: s.own(x), 8, own=OwnTransposed(16, 8, 4, 2, groups=2)),
    ),
    "a batch norm behind a transposed one": (
        {"stem": 16, "up": 6},
        Around(lambda s, x: s.norm(s.up(x)), 6, up=nn.ConvTranspose2d(16, 6, 2, 2), norm=nn.BatchNorm2d(6)),
    ),
    "pixel shuffle": (
        {"stem": 4, "next": 16},
        Around(lambda s, x: s.next(s.shuffle(x)), shuffle=nn.PixelShuffle(2), next=nn.Conv2d(4, 16, 1)),
    ),
    "pixel shuffle by a function": (
        {"stem": 4, "next": 16}, Around(lambda s, x: s.next(F.pixel_shuffle(x, 2)), next=nn.Conv2d(4, 16, 1)),
    ),
    "pixel unshuffle": (
        {"stem": 16, "next": 16},
        Around(lambda s, x: s.next(s.un(x)), un=nn.PixelUnshuffle(2), next=nn.Conv2d(64, 16, 1)),
    ),
    "there and back": (
        {"stem": 16, "next": 16},
        Around(lambda s, x: s.next(F.pixel_shuffle(F.pixel_unshuffle(x, 2), 2)), next=nn.Conv2d(16, 16, 3)),
    ),
    "channel shuffle": (
        {"stem": 2, "next": 8},
        Around(lambda s, x: s.next(s.shuffle(x)), shuffle=nn.ChannelShuffle(4), next=nn.Conv2d(16, 16, 1, groups=2)),
    ),
    "channel shuffle by a function": (
        {"stem": 8, "next": 16},
        Around(lambda s, x: s.next(torch.channel_shuffle(x, 2)), next=nn.Conv2d(16, 16, 1)),
    ),
    "LSTM": ({"stem": 16, "layer": 10}, lstm(16, 10)),
    "LSTM of two layers, two ways": ({"stem": 16, "layer": 10}, lstm(16, 10, 2, bidirectional=True)),
    "LSTM without biases, projected": (
        {"stem": 16, "layer": 10, "layer#2": 4}, lstm(16, 10, 2, bias=False, proj_size=4, bidirectional=True),
    ),
    "states of an LSTM": ({"stem": 16, "layer": 10}, Around(of_states, 20, layer=nn.LSTM(16, 10, 2))),
    "GRU": ({"stem": 16, "layer": 10}, Around(of_steps, 10, layer=nn.GRU(16, 10, batch_first=True))),
    "GRU of two layers, two ways": (
        {"stem": 16, "layer": 10},
        Around(of_steps, 20, layer=nn.GRU(16, 10, 2, batch_first=True, bidirectional=True)),
    ),
    "RNN": ({"stem": 16, "layer": 10}, Around(of_steps, 10, layer=nn.RNN(16, 10, batch_first=True))),
    "a state that is computed": (
        {"stem": 16, "start": 10},
        Around(from_a_state, 10, layer=nn.GRU(16, 10, batch_first=True), start=nn.Linear(16, 10)),
    ),
    "a state of a written size": (
        {"stem": 16}, Around(from_zeros, 10, layer=nn.GRU(16, 10, batch_first=True)),
    ),
    "GRU cell": ({"stem": 16, "cell": 10}, Around(by_a_cell, 10, cell=nn.GRUCell(16, 10))),
    "LSTM cell": ({"stem": 16, "cell": 10}, Around(by_a_cell_with_memory, 20, cell=nn.LSTMCell(16, 10))),
    "a group norm with an activation": ({"stem": 4}, Around(lambda s, x: s.norm(x), norm=GroupNormAct(4, 16))),
    "as many groups as channels": ({"stem": 16}, Around(lambda s, x: s.norm(x), norm=GroupNormAct(16, 16))),
    "a layer norm with an activation": ({"stem": 16}, Around(lambda s, x: s.norm(x), norm=LayerNormAct(16))),
    "an RMS norm with an activation": ({"stem": 16}, Around(lambda s, x: s.norm(x), norm=RMSNormAct(16))),
    "an instance norm by its function": ({"stem": 16}, Around(lambda s, x: s.norm(x), norm=OwnInstanceNorm(16))),
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_groups_by_hand_and_the_law(kind: str) -> None:
    expected, model = KINDS[kind]
    assert widths(check_law(model, counted="cell" not in kind)) == expected


def test_hooks_of_a_norms_activation_are_not_stepped_over() -> None:
    model = Around(lambda s, x: s.norm(x), norm=GroupNormAct(4, 16))
    model.norm.act.register_forward_hook(lambda module, args, result: result + 1)  # type: ignore[union-attr, operator]
    assert widths(check_law(model)) == {}
