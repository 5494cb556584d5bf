"""Pieces of other people's networks: each is cut exactly, or left whole and named; none crashes or goes wrong."""

import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torchvision
from conftest import livened
from torch import Tensor, nn
from torch.nn import functional as F

from compress.errors import InputError
from compress.graph.build import channel_graph
from compress.graph.plan import Plan
from compress.measure.macs import count_macs, count_params
from compress.prune.cost import cost_model
from compress.prune.surgery import cut, difference, masked

Body = Callable[[Any, Tensor], Tensor]
SHAPE = (3, 8, 8)
HALF = (8, -1, 1)


class Around(nn.Module):
    """A convolution of 16 channels, the piece, and a head for whatever the piece gives."""

    def __init__(self, body: Body, out: int = 16, **parts: Any) -> None:
        super().__init__()
        self.stem, self.bn = nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16)
        self.body, self.head = body, nn.Conv2d(out, 5, 1)
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(self, self.bn(self.stem(x)))).mean((2, 3))  # type: ignore[no-any-return]


def conv(c_in: int = 16, c_out: int = 16, k: int = 1, **more: Any) -> nn.Conv2d:
    return nn.Conv2d(c_in, c_out, k, padding=more.pop("padding", k // 2), **more)


def own_attention(s: Any, x: Tensor) -> Tensor:
    b, c, h, w = x.shape
    q, k, v = (part(x).view(b, 4, c // 4, h * w) for part in (s.q, s.k, s.v))
    a = (q.transpose(-2, -1) @ k).softmax(-1)
    return s.o((v @ a.transpose(-2, -1)).reshape(b, c, h, w))  # type: ignore[no-any-return]


def squeeze_excite(s: Any, x: Tensor) -> Tensor:
    b, c, _, _ = x.size()
    y = torch.sigmoid(s.up(F.relu(s.down(x.mean((2, 3))))))
    return x * y.view(b, c, 1, 1).expand_as(x)


def selective_kernel(s: Any, x: Tensor) -> Tensor:
    branches = torch.stack([s.a(x), s.b(x)], 1)
    weights = torch.stack([s.wa(x.mean((2, 3))), s.wb(x.mean((2, 3)))], 1).softmax(1)
    return (branches * weights[..., None, None]).sum(1)


def drop_path(s: Any, x: Tensor) -> Tensor:
    if s.training:
        kept = x.new_empty((x.shape[0], 1, 1, 1)).bernoulli_(0.9)
        return x + s.a(x) * kept.div_(0.9)
    return x + s.a(x)  # type: ignore[no-any-return]


def first_two(parts: Any) -> Tensor:
    return parts[0] + parts[1]  # type: ignore[no-any-return]


def remembers(s: Any, x: Tensor) -> Tensor:
    s.features = x
    return x


class NormAct(nn.BatchNorm2d):
    """As timm writes it: a norm with a forward of its own."""

    def forward(self, x: Tensor) -> Tensor:
        training = self.training
        x = F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, training, 0.1, self.eps)
        return F.relu(x)


class OwnConv(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(F.pad(x, (1, 0, 1, 0)), self.weight, self.bias, self.stride, 0, self.dilation, self.groups)


class OwnLinear(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, weight=self.weight, bias=self.bias)


class StandardisedConv(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        return F.conv2d(x, weight, self.bias, self.stride, self.padding, self.dilation, self.groups)


def shared_with_unknown() -> Around:
    """A convolution and a layer that the graph does not know have one weight."""

    def piece(s: Any, x: Tensor) -> Tensor:
        y = s.b(x.flatten(2)).transpose(1, 2)
        return s.a(y, y[..., :1]).transpose(1, 2).unflatten(2, (8, 8))

    model = Around(piece, a=nn.Bilinear(16, 1, 16), b=nn.Conv1d(16, 16, 1))
    model.a.weight = model.b.weight
    return model


PIECES: dict[str, tuple[bool, Around]] = {
    # cut, piece
    "attention by hand": (False, Around(own_attention, q=conv(), k=conv(), v=conv(), o=conv())),
    "squeeze-excite": (True, Around(squeeze_excite, down=nn.Linear(16, 4), up=nn.Linear(4, 16))),
    "selective kernel": (
        True,
        Around(selective_kernel, a=conv(k=3), b=conv(k=1), wa=nn.Linear(16, 16), wb=nn.Linear(16, 16)),
    ),
    "spatial gate": (True, Around(lambda s, x: x * torch.sigmoid(s.a(x)), a=conv(16, 1))),
    "expanded gate": (True, Around(lambda s, x: x * torch.sigmoid(s.a(x)).expand_as(x), a=conv(16, 1))),
    "gate of its channels": (True, Around(lambda s, x: x * s.a(x).expand(-1, x.shape[1], -1, -1), a=conv(16, 1))),
    "gate of 16": (False, Around(lambda s, x: x * s.a(x).expand(-1, 16, -1, -1), a=conv(16, 1))),
    "ghost": (True, Around(lambda s, x: torch.cat([x, s.a(x)], 1)[:, :32], 32, a=conv(groups=16))),
    "ghost by size": (
        True,
        Around(lambda s, x: torch.cat([s.a(x), s.b(x)], 1)[:, : x.shape[1]], a=conv(16, 8), b=conv(16, 8)),
    ),
    "half by size": (True, Around(lambda s, x: x[:, : x.shape[1] // 2], 8)),
    "as many images as there are": (True, Around(lambda s, x: x[: len(x)])),
    "slice of space by channels": (False, Around(lambda s, x: x[:, :, : x.shape[1] // 4])),
    "folded into the batch": (
        True,
        Around(lambda s, x: first_two(s.a(torch.cat([x, -x], 0)).chunk(2, 0)), a=conv()),
    ),
    "places from the left": (
        True,
        Around(lambda s, x: s.d(s.a * x.flatten(2)[..., None]) + s.e(x).sum((2, 3), keepdim=True), d=conv(), e=conv(),
               a=nn.Parameter(torch.rand(1, 1, 64, 1))),
    ),
    "a gate in pieces": (
        True,
        Around(
            lambda s, x: s.d(x * torch.cat([s.g(x)[:, :, :4], s.g(x)[:, :, 4:]], 2)) + s.e(x),
            g=conv(16, 1), d=conv(), e=conv(),
        ),
    ),
    "norm by hand": (False, Around(lambda s, x: x / x.norm(2, 1, True))),
    "norm over places": (True, Around(lambda s, x: x / (1 + x.norm(2, (2, 3), True)))),
    "variance": (True, Around(lambda s, x: x / (1 + x.var((2, 3), False, True)))),
    "deviation of all": (False, Around(lambda s, x: x / (1 + x.std(False)))),
    "means by another name": (True, Around(lambda s, x: x * x.mean(axis=(2, 3), keepdims=True))),
    "chunks by another name": (True, Around(lambda s, x: first_two(torch.chunk(x, 2, axis=1)), 8)),
    "as many chunks": (False, Around(lambda s, x: first_two(x.chunk(x.shape[1] // 8, 1)), 8)),
    "rounded view": (True, Around(lambda s, x: x.view(x.shape[0], x.shape[1] // 2 * 2, -1, 1))),
    "tied decoder": (
        False,
        Around(lambda s, x: F.conv2d(s.a(x), s.a.weight.transpose(0, 1)), a=conv(16, 16, bias=False)),
    ),
    "whole numbers": (False, Around(lambda s, x: x * s.a, a=nn.Buffer(torch.ones(16, 1, 1, dtype=torch.int64)))),
    "frozen norm": (True, Around(lambda s, x: s.a(x), a=torchvision.ops.FrozenBatchNorm2d(16))),
    "three dimensions": (False, Around(lambda s, x: F.max_pool2d(x.flatten(2), 3, 1, 1)[..., None])),
    "slice": (False, Around(lambda s, x: x[:, :8], 8)),
    "written view": (False, Around(lambda s, x: x.view(x.size(0), 8 * x.size(2) * 2, -1, 1), 128)),
    "view of a tuple": (False, Around(lambda s, x: x.view(x.shape[:1] + HALF), 8)),
    "view of channels": (True, Around(lambda s, x: x.view(x.shape[0], x.shape[1], -1, 1))),
    "another size that is 16": (False, Around(lambda s, x: x.repeat(1, 1, 2, 2).view(-1, 16, 16, 16))),
    "scaled by their number": (False, Around(lambda s, x: x / x.shape[1] ** 0.5)),
    "alpha": (False, Around(lambda s, x: torch.add(x, x, alpha=x.shape[1]))),
    "clamped by their number": (False, Around(lambda s, x: torch.clamp(9 * x, max=x.shape[1] / 16))),
    "clamped by a parameter": (
        False,
        Around(lambda s, x: torch.clamp(x, max=s.a), a=nn.Parameter(torch.rand(16, 1, 1))),
    ),
    "where": (True, Around(lambda s, x: torch.where(x > 0, x, 0.1 * x))),
    "masked": (True, Around(lambda s, x: x.masked_fill(x < 0, 0.0))),
    "maximum of two": (True, Around(lambda s, x: torch.max(x, s.a(x)), a=conv(k=3, groups=16))),
    "maximum over places": (True, Around(lambda s, x: x * x.max(dim=2, keepdim=True).values.sigmoid())),
    "deviation": (True, Around(lambda s, x: x / (x.std((2, 3), keepdim=True) + 1))),
    "normalised": (False, Around(lambda s, x: F.normalize(x, dim=1))),
    "scale last": (
        True,
        Around(lambda s, x: (x.permute(0, 2, 3, 1) * s.a).permute(0, 3, 1, 2), a=nn.Parameter(torch.rand(16))),
    ),
    "scale last, of four": (
        True,
        Around(lambda s, x: (x.permute(0, 2, 3, 1) * s.a).permute(0, 3, 1, 2), a=nn.Parameter(torch.ones(1, 1, 1, 16))),  # noqa: E501
    ),
    "scale of places": (True, Around(lambda s, x: x * s.a, a=nn.Parameter(torch.rand(1, 1, 8, 1)))),
    "norm and activation": (True, Around(lambda s, x: s.a(x), a=NormAct(16))),
    "own convolution": (True, Around(lambda s, x: s.a(x), a=OwnConv(16, 16, 2))),
    "own depthwise": (True, Around(lambda s, x: s.a(x), a=OwnConv(16, 16, 2, groups=16))),
    "own linear": (True, Around(lambda s, x: s.a(x.mean((2, 3)))[..., None, None], a=OwnLinear(16, 16))),
    "standardised": (True, Around(lambda s, x: s.a(x), a=StandardisedConv(16, 16, 1))),
    "scale of a shape that is an attribute": (
        True,
        Around(lambda s, x: x * s.a.view(s.shape), a=nn.Parameter(torch.rand(16)), shape=(16, 1, 1)),
    ),
    "a slope per channel": (True, Around(lambda s, x: s.a(x), a=nn.PReLU(16))),
    "a weight that is shared with the unknown": (False, shared_with_unknown()),
    "instance norm": (True, Around(lambda s, x: s.a(x), a=nn.InstanceNorm2d(16))),
    "group norm": (True, Around(lambda s, x: s.a(x), a=nn.GroupNorm(4, 16, affine=False))),
    "layer norm": (
        True,
        Around(
            lambda s, x: s.a(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2),
            a=nn.LayerNorm(16, elementwise_affine=False),
        ),
    ),
    "rms norm": (
        True, Around(lambda s, x: s.a(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2), a=nn.RMSNorm(16)),
    ),
    "same padding": (True, Around(lambda s, x: s.a(x), a=conv(k=3, padding="same"))),
    "drop path and an idle layer": (True, Around(drop_path, a=conv(k=3), idle=conv())),
    "remembers": (True, Around(remembers)),
    "computed weights": (False, Around(lambda s, x: s.a(x), a=nn.utils.parametrizations.weight_norm(conv()))),
    "transposed": (True, Around(lambda s, x: s.a(x), a=nn.ConvTranspose2d(16, 16, 2, 2))),
    "shuffle": (True, Around(lambda s, x: F.pixel_shuffle(x, 2), 4)),
    "einsum": (False, Around(lambda s, x: torch.einsum("bchw,bdhw->bchw", x, x))),
}  # fmt: skip


@pytest.mark.parametrize("kind", PIECES)
def test_a_piece_is_cut_exactly_or_left_whole_and_named(kind: str) -> None:
    is_cut, model = PIECES[kind]
    torch.manual_seed(0)
    livened(model)
    before = dict(vars(model))
    graph = channel_graph(model, SHAPE)
    assert vars(model) == before  # nothing is left behind
    assert ("stem" in [group.name for group in graph]) == is_cut
    assert is_cut or "stem" in graph.frozen
    rng = random.Random(0)
    plan = Plan({g.name: sorted(rng.sample(range(g.width), max(1, g.width // 2))) for g in graph})
    small = cut(model, graph, plan)
    assert difference(model, small, graph, plan, torch.randn(2, *SHAPE)) < 1e-10
    cost = cost_model(model, graph, SHAPE)
    assert cost.macs(plan) == count_macs(small, SHAPE)
    assert cost.params(plan) == count_params(small)
    small.train()(torch.randn(2, *SHAPE)).sum().backward()


def test_channels_that_are_all_tied_are_named() -> None:
    model = Around(lambda s, x: s.a(x.flatten(2).sum(1).view(-1, 1, 8, 8)), a=conv(1, 16))
    graph = channel_graph(model, SHAPE)
    assert "stem" not in [group.name for group in graph]
    assert "stem" in graph.frozen


def test_a_squeeze_of_whatever_is_one_long_freezes() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 16, 1), Lambda(lambda x: x.mean((2, 3), keepdim=True).squeeze()), nn.Linear(16, 5)
    )
    assert "'squeeze'" in channel_graph(model, SHAPE).frozen["0"]


class Lambda(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def test_hooks_and_patched_layers_are_not_trusted() -> None:
    def hooked(hook: bool) -> Around:
        model = Around(lambda s, x: s.b(s.a(x)), a=conv(), b=nn.ReLU())
        if hook:
            model.b.register_forward_hook(lambda module, inputs, output: heard.append(output))
        else:
            model.b.forward = lambda x: x.softmax(1)
        return model

    heard: list[Any] = []
    for hook in (True, False):
        assert "'b'" in channel_graph(hooked(hook), SHAPE).frozen["a"]
    assert not heard


def test_layers_that_are_wired_another_way_in_training() -> None:
    model = Around(
        lambda s, x: s.a(x) + s.b(x) if s.training else s.b(s.a(x)), a=conv(), b=conv(), norm=nn.BatchNorm2d(16)
    )
    graph = channel_graph(model, SHAPE)
    plan = Plan({group.name: range(group.width // 2) for group in graph})
    small = cut(model, graph, plan)
    for mode in (True, False):
        assert small.train(mode)(torch.randn(2, *SHAPE)).shape == (2, 5)


def test_norms_that_others_patched_stay_patched() -> None:
    model = Around(lambda s, x: s.a(x), a=nn.GroupNorm(4, 16))
    model.a.forward = patched = lambda x: 2 * x
    graph = channel_graph(model, SHAPE)
    with masked(model, graph, Plan({group.name: range(1) for group in graph})):
        pass
    assert model.a.forward is patched


def test_a_network_that_has_kept_an_activation_can_be_cut() -> None:
    model = Around(remembers)
    graph = channel_graph(model, SHAPE)
    model(torch.randn(2, *SHAPE))
    small = cut(model, graph, Plan({"stem": range(4)}))
    assert small(torch.randn(2, *SHAPE)).shape == (2, 5)


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (lambda s, x: x * x.mean().item(), "cannot be traced at .*: .*x.mean.*'item' decides by the values"),
        (lambda s, x: x[torch.where(x.sum((1, 2, 3)) > 0)[0]], "'where' decides by the values of activations"),
        (lambda s, x: x if x.sum() > 0 else -x, "'bool' decides by the values of activations"),
        (lambda s, x: s.a(x), "cannot run a on such images"),
    ],
)
def test_what_cannot_be_followed_is_told(body: Body, told: str) -> None:
    with pytest.raises(InputError, match=told):
        channel_graph(Around(body, a=conv(5, 16)), SHAPE)


def test_networks_without_convolutions_have_no_groups() -> None:
    graph = channel_graph(nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()), SHAPE)
    assert len(graph) == 0


def test_half_precision_networks_have_the_same_groups() -> None:
    model = Around(lambda s, x: s.a(x), a=nn.utils.parametrizations.weight_norm(conv())).bfloat16()
    assert [group.name for group in channel_graph(model, SHAPE)] == ["a"] or channel_graph(model, SHAPE).frozen
