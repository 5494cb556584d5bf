"""Layers over what is no channel, reshapes across channels and pixels, and tables that a forward keeps: groups by
hand, and the law for uneven plans."""

from typing import Any

import pytest
import torch
from lawful import SHAPE, Around, check_law, widths
from torch import Tensor, nn

from compress.graph.build import channel_graph
from compress.graph.plan import Plan
from compress.prune.surgery import CutCopy, cut

EIGHT = nn.AdaptiveAvgPool2d(4)  # of images of any size the same number of tokens


def tokens(s: Any, x: Tensor) -> Tensor:
    return s.pool(x).flatten(2).transpose(1, 2)  # type: ignore[no-any-return]


def mixer(s: Any, x: Tensor) -> Tensor:
    x = tokens(s, x)
    x = x + s.down(s.up(s.norm(x).transpose(1, 2)).relu()).transpose(1, 2)
    return s.mlp(x).mean(1)  # type: ignore[no-any-return]


def mixer_by_a_convolution(s: Any, x: Tensor) -> Tensor:
    x = tokens(s, x)
    return (x + s.mix(x)).mean(1)  # type: ignore[no-any-return]


def one_layer_both_ways(s: Any, x: Tensor) -> Tensor:
    x = tokens(s, x)  # 16 tokens of 16 channels
    return (s.both(x.transpose(1, 2)).transpose(1, 2) + s.both(x)).mean(1)  # type: ignore[no-any-return]


def unfolded(s: Any, x: Tensor) -> Tensor:
    """Pixels of a place in patches of 2, as MobileViT does: channels lie on the batch in between."""
    b, c, h, w = x.shape
    high, wide = h // 2, w // 2
    x = x.reshape(b * c * high, 2, wide, 2).transpose(1, 2)
    x = x.reshape(b, c, high * wide, 4).transpose(1, 3).reshape(b * 4, high * wide, -1)
    x = s.mlp(x).contiguous().view(b, 4, high * wide, -1)
    x = x.transpose(1, 3).reshape(b * c * high, wide, 2, 2).transpose(1, 2)
    return x.reshape(b, c, h, w)


def unfolded_by_a_written_number(s: Any, x: Tensor) -> Tensor:
    b, _, h, w = x.shape
    return x.reshape(b * 16 * h // 2, 2, w).reshape(b, 16, h, w)


def mlp(channels: int = 16) -> nn.Sequential:
    return nn.Sequential(nn.Linear(channels, 12), nn.GELU(), nn.Linear(12, channels))


KINDS: dict[str, tuple[dict[str, int], Around]] = {
    "mixer of tokens": (
        {"stem": 16, "mlp.0": 12, "mlp.2": 16},
        Around(mixer, pool=EIGHT, norm=nn.LayerNorm(16), up=nn.Linear(16, 9), down=nn.Linear(9, 16), mlp=mlp()),
    ),
    "mixer of tokens by a convolution": (
        {"stem": 16}, Around(mixer_by_a_convolution, pool=EIGHT, mix=nn.Conv1d(16, 16, 1)),
    ),
    "one layer over channels and over tokens": (
        {}, Around(one_layer_both_ways, pool=EIGHT, both=nn.Linear(16, 16, bias=False)),
    ),
    "unfolded across channels and pixels": ({"stem": 16, "mlp.0": 12}, Around(unfolded, mlp=mlp())),
    "unfolded by a written number": ({}, Around(unfolded_by_a_written_number)),
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_groups_by_hand_and_the_law(kind: str) -> None:
    expected, model = KINDS[kind]
    assert widths(check_law(model)) == expected


def test_layers_over_what_is_no_channel_are_named() -> None:
    _, model = KINDS["mixer of tokens"]
    frozen = channel_graph(model, SHAPE).frozen
    assert frozen.keys() == {"up", "down"}
    assert "mixes what is no channel" in frozen["up"]


class Kept(nn.Module):
    """Scales every channel by a table that its forward makes once of a weight, or that somebody gave it."""

    def __init__(self, where: str, made: bool = True) -> None:
        super().__init__()
        self.stem, self.head, self.where, self.made = nn.Conv2d(3, 16, 1), nn.Linear(16, 5), where, made
        self.scale = nn.Parameter(torch.rand(16))
        self.by_size: dict[Any, Tensor] = {}
        self.table: Tensor | None = None
        self.listed: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        y = self.stem(x).mean((2, 3))
        if self.where == "late":
            if not hasattr(self, "late"):
                self.late = self.scale * 2
            return self.head(y * self.late)  # type: ignore[no-any-return]
        if self.where == "dict":
            if x.shape[2] not in self.by_size:
                self.by_size[x.shape[2]] = self.scale * 2
            return self.head(y * self.by_size[x.shape[2]])  # type: ignore[no-any-return]
        if self.where == "list":
            if not self.listed:
                self.listed.append(self.scale * 2)
            return self.head(y * self.listed[0])  # type: ignore[no-any-return]
        if self.made and self.table is None:
            self.table = self.scale * 2
        return self.head(y * self.table)  # type: ignore[no-any-return]


@pytest.mark.parametrize("where", ["dict", "attribute", "list", "late"])
@pytest.mark.parametrize("when", ["before", "between", "never"])
def test_a_table_that_a_forward_keeps_is_made_anew_by_a_cut_network(where: str, when: str) -> None:
    torch.manual_seed(0)
    model, images = Kept(where).eval(), torch.randn(2, *SHAPE)
    plan = Plan({"stem": [0, 3, 8]})
    with torch.no_grad():
        expected = cut(Kept(where), channel_graph(model, SHAPE), plan).eval()
        expected.load_state_dict(cut(model, channel_graph(model, SHAPE), plan).state_dict())
        if when == "before" and where != "late":
            model(images)
        graph = channel_graph(model, SHAPE)
        assert widths(graph) == {"stem": 16}
        if when == "between":
            model(images)
        held = {name: value for name, value in vars(model).items() if not name.startswith("_")}
        copy = CutCopy(model, graph)
        for network in (cut(model, graph, plan), copy(plan), copy(Plan({"stem": range(9)})) and copy(plan)):
            assert torch.allclose(network(images), expected(images), atol=1e-6)
        assert all(vars(model)[name] is value for name, value in held.items())


def test_a_tensor_that_no_forward_makes_is_a_constant() -> None:
    model = Kept("attribute", made=False).eval()
    model.table = torch.rand(16)
    graph = channel_graph(model, SHAPE)
    assert widths(graph) == {}
    assert "fixed number of channels" in graph.frozen["stem"]
    assert graph.caches == {}


def test_a_tensor_that_a_forward_would_make_otherwise_is_a_constant() -> None:
    class Once(Kept):
        def forward(self, x: Tensor) -> Tensor:
            if self.table is None:
                self.table = torch.ones(3, 1, 1)
            return self.head(self.stem(x * self.table).mean((2, 3)))  # type: ignore[no-any-return]

    model, images = Once("attribute").eval(), torch.randn(2, *SHAPE)
    model.table = torch.full((3, 1, 1), 2.0)  # somebody's own
    graph = channel_graph(model, SHAPE)
    assert graph.caches == {}
    small = cut(model, graph, Plan())
    assert torch.allclose(small(images), model(images))


class Anchored(nn.Module):
    """As detectors do: a grid that is made anew for images of another size, filled by an element of a tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 5, 1)
        self.grid, self.made_for, self.stride = torch.empty(0), None, torch.tensor([8.0])

    def forward(self, x: Tensor) -> Tensor:
        x = self.head(self.stem(x).relu())
        if self.made_for != x.shape[2:]:
            self.grid, self.made_for = x.new_full((1, 1, *x.shape[2:]), self.stride[0]), x.shape[2:]
        return x + self.grid


def test_a_cache_of_no_channels_stays_with_what_tells_that_it_is_filled() -> None:
    model, images = Anchored().eval(), torch.randn(2, *SHAPE)
    graph = channel_graph(model, SHAPE)
    assert widths(graph) == {"stem": 8}
    assert graph.caches == {}
    plan = Plan({"stem": [1, 4, 5]})
    expected = cut(model, graph, plan)(images)
    model(images)
    assert torch.equal(cut(model, graph, plan)(images), expected)
