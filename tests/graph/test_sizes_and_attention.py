"""Sizes, attributes, joins, attention, norms of somebody's own: groups by hand, and the law for uneven plans."""

import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from compress.errors import InputError
from compress.graph.build import channel_graph
from compress.graph.plan import Plan
from compress.graph.types import ChannelGraph
from compress.measure.macs import count_macs, count_params
from compress.models.layers import Attention
from compress.prune.cost import cost_model
from compress.prune.surgery import CutCopy, cut, difference, masked

SHAPE = (3, 8, 8)


class Net(nn.Module):
    """Two convolutions of 16 channels, what a test does with them, and a head for what comes out."""

    def __init__(self, body: Callable[[Any, Tensor, Tensor], Tensor], out: int = 16, **parts: Any) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 16, 1), nn.Conv2d(3, 16, 1)
        self.body, self.head, self.tail = body, nn.Linear(out, 5), nn.Linear(16, 5)
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.a(x), self.b(x)
        y = self.body(self, a, b)
        return self.head(y if y.dim() == 2 else y.mean((2, 3))) + self.tail(b.mean((2, 3)))  # type: ignore[no-any-return]


def widths(graph: ChannelGraph) -> dict[str, int]:
    return {group.name: group.width for group in graph}


def uneven(graph: ChannelGraph, seed: int) -> Plan:
    draw = random.Random(seed)
    return Plan({g.name: sorted(draw.sample(range(g.width), draw.randint(1, g.width))) for g in graph})


def check_law(model: nn.Module, shape: tuple[int, int, int] = SHAPE) -> ChannelGraph:
    """Masked equals cut for uneven plans, prices are counts, and nothing of the model is changed."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.rand_like(parameter))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    drawn, attributes = torch.get_rng_state(), {m: dict(vars(m)) for m in model.modules()}
    graph = channel_graph(model, shape)
    assert torch.equal(drawn, torch.get_rng_state())
    assert all(vars(module) == attributes[module] for module in model.modules())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    prices = cost_model(model, graph, shape)
    for seed in range(3):
        plan = uneven(graph, seed)
        small = cut(model, graph, plan)
        assert difference(model, small, graph, plan, torch.randn(2, *shape)) < 1e-10
        assert prices.macs(plan) == count_macs(small, shape)
        assert prices.params(plan) == count_params(small)
        small.train()(torch.randn(2, *shape)).sum().backward()
    return graph


def test_an_outer_product_costs_what_is_counted() -> None:
    graph = check_law(Net(lambda s, a, b: torch.einsum("bch,bcw->bchw", a.mean(3), b.mean(2))))
    assert graph.product_macs == {"a": 64}  # 8 x 8 places of a channel


SIZES_OF_LAYERS: dict[
    str, tuple[Callable[[Any], Any], int]
] = {  # what forward reads off a layer; free channels of it
    "a layer's width": (lambda layer: layer.out_channels**-0.5, 0),
    "a weight's size": (lambda layer: layer.weight.shape[0] / 8, 0),
    "a weight's other size": (lambda layer: layer.weight.size(1) / 8, 16),
    "a number of elements": (lambda layer: layer.weight.numel() / 64, 0),
    "a bias' length": (lambda layer: len(layer.bias) / 16, 0),
    "a type": (lambda layer: 2 if layer.weight.dtype.is_floating_point else 1, 16),
    "a kernel": (lambda layer: layer.weight.shape[-1] + layer.kernel_size[0], 16),
}


@pytest.mark.parametrize("what", SIZES_OF_LAYERS)
def test_a_size_read_off_a_layer_changes_with_a_cut(what: str) -> None:
    read, free = SIZES_OF_LAYERS[what]
    graph = check_law(Net(lambda s, a, b: torch.cat([s.c(b) * read(s.c), a], 1), 32, c=nn.Conv2d(16, 16, 1)))
    assert widths(graph).get("c", 0) == free
    assert "c" not in graph.emptiable  # something else than a layer would be read


def test_a_view_by_the_width_of_a_layer_follows_it() -> None:
    for size in (lambda s: s.a.out_channels, lambda s: s.a.weight.shape[0], lambda s: s.b.bias.shape[0]):
        graph = check_law(Net(lambda s, a, b, size=size: a.reshape(a.shape[0], size(s), -1).mean(2)))  # type: ignore[misc]
        assert widths(graph)["a"] == 16


def test_numbers_of_depthwise_and_grouped_layers_and_of_norms_change_with_a_cut() -> None:
    for layer in (nn.Conv2d(16, 32, 1, groups=16), nn.Conv2d(16, 32, 1, groups=4), nn.BatchNorm2d(16),
                  nn.GroupNorm(4, 16), nn.GroupNorm(16, 16, affine=False)):  # fmt: skip
        for name in ("in_channels", "num_features", "num_channels", "num_groups", "groups"):
            if hasattr(layer, name):
                out = getattr(layer, "out_channels", 16)
                check_law(Net(lambda s, a, b, name=name: s.c(a) / getattr(s.c, name), out=out, c=layer))  # type: ignore[misc]


def test_a_parameter_may_be_measured_and_used_by_itself() -> None:
    def body(s: Any, a: Tensor, b: Tensor) -> Tensor:
        tokens = a.flatten(2).transpose(1, 2)
        if s.place.shape[1] != tokens.shape[1]:
            raise ValueError("another number of tokens")
        return (tokens + s.place[:, : s.place.size(1)]).mean(1)

    graph = check_law(Net(body, place=nn.Parameter(torch.rand(1, 64, 16))))
    assert widths(graph)["a"] == 16


def test_layers_take_their_input_by_keyword() -> None:
    graph = check_law(Net(lambda s, a, b: s.n(input=s.c(input=a)), c=nn.Conv2d(16, 16, 1), n=nn.BatchNorm2d(16)))
    assert widths(graph)["c"] == 16


class GroupsByHand(nn.Module):
    """A group norm of somebody's own, by a view: a cut must leave the same number of channels in every group."""

    def __init__(self, groups: int) -> None:
        super().__init__()
        self.groups, self.weight = groups, nn.Parameter(torch.ones(16))

    def forward(self, x: Tensor) -> Tensor:
        groups = x.view(x.shape[0], self.groups, -1)
        groups = groups / (1 + groups.var(-1, keepdim=True)) - groups.mean(1, keepdim=True)
        return groups.view(x.shape) * self.weight[:, None, None]


def test_a_norm_of_groups_by_hand_keeps_its_groups_alike() -> None:
    graph = check_law(Net(lambda s, a, b: s.n(a), n=GroupsByHand(4)))
    assert widths(graph)["a"] == 4


def test_a_copy_for_many_plans_is_the_cut_network_where_only_the_stream_is_cut() -> None:
    def body(s: Any, a: Tensor, b: Tensor) -> Tensor:
        tokens = a.flatten(2).transpose(1, 2)
        out, weights = s.attention(tokens, tokens, tokens)
        return (out + weights @ tokens).mean(1)

    model = Net(body, attention=nn.MultiheadAttention(16, 4, batch_first=True)).eval()
    graph = channel_graph(model, SHAPE)
    assert widths(graph)["a"] == 16  # its heads are whole, as their average is read
    plan, images = Plan({"a": range(6)}), torch.randn(2, *SHAPE)
    assert torch.equal(CutCopy(model, graph)(plan)(images), cut(model, graph, plan)(images))


def by_heads(s: Any, a: Tensor, b: Tensor) -> Tensor:
    tokens = a.flatten(2).transpose(1, 2)
    n, t, _ = tokens.shape
    q, k, v = s.qkv(tokens).reshape(n, t, 3, s.heads, s.dim).permute(2, 0, 3, 1, 4).unbind(0)
    scores = (q * s.dim**-0.5) @ k.transpose(-2, -1) + s.table[:, None, None]
    out = scores.softmax(-1) @ v
    return s.proj(out.transpose(1, 2).reshape(n, t, -1)).mean(1) + b.mean((2, 3))  # type: ignore[no-any-return]


def fused(s: Any, a: Tensor, b: Tensor) -> Tensor:
    tokens = a.flatten(2).transpose(1, 2)
    n, t, _ = tokens.shape
    q, k, v = (part.view(n, t, s.heads, -1).transpose(1, 2) for part in s.qkv(tokens).chunk(3, -1))
    return s.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)).mean(1)  # type: ignore[no-any-return]


def with_class_token(s: Any, a: Tensor, b: Tensor) -> Tensor:
    tokens = torch.cat([s.token.expand(a.shape[0], -1, -1), a.flatten(2).transpose(1, 2)], 1) + s.places
    return s.norm(tokens)[:, 0]  # type: ignore[no-any-return]


def written_into(s: Any, a: Tensor, b: Tensor) -> Tensor:
    out = torch.zeros(a.shape[0], 16, *a.shape[2:], dtype=a.dtype)
    out[:, :8], out[:, 8:] = a[:, :8], b[:, 8:]
    return out


def grows(s: Any, a: Tensor, b: Tensor) -> Tensor:
    parts = list(a.chunk(2, 1))
    parts.extend(layer(parts[-1]) for layer in s.inner)
    return torch.cat(parts, 1)


def if_odd(s: Any, a: Tensor, b: Tensor) -> Tensor:
    assert a.shape[2] > 1
    return F.pad(a, (0, 1)) if a.shape[-1] % 2 else a + b


def shuffled(s: Any, a: Tensor, b: Tensor) -> Tensor:
    n, c, h, w = a.shape
    return a.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)


def raises_if_other(s: Any, a: Tensor, b: Tensor) -> Tensor:
    if a.shape[1] != s.expected:
        raise ValueError
    return a + b


KINDS: dict[str, tuple[dict[str, int], Net]] = {
    # groups of the two convolutions; the network
    "stacked and flattened": ({"a": 16}, Net(lambda s, a, b: torch.stack([a, b], 2).flatten(1, 2), 32)),
    "side by side in space": ({"a": 16}, Net(lambda s, a, b: torch.cat([a, b], 2).flatten(1), 16 * 128)),
    "a list of chunks that grows": (
        {"a": 8, "inner.0": 8},
        Net(grows, 24, inner=nn.ModuleList([nn.Conv2d(8, 8, 1)])),
    ),
    "control flow on sizes": ({"a": 16}, Net(if_odd)),
    "stars of a shape": ({"a": 16}, Net(lambda s, a, b: a.view(*a.shape[:2], -1).mean(2) + b.mean((2, 3)))),
    "an assertion on a size": ({"a": 16}, Net(raises_if_other, expected=16)),
    "a shuffle": ({"a": 8}, Net(shuffled)),
    "parts of an attribute": (
        {"a": 4, "a#2": 12},
        Net(lambda s, a, b: torch.cat(a.split(s.parts, 1)[::-1], 1), parts=[4, 12]),
    ),
    "slices by an attribute": (
        {"a": 6, "a#2": 10},
        Net(lambda s, a, b: torch.cat([a[:, s.at :], a[:, : s.at]], 1), at=6),
    ),
    "written parts": ({"b": 16}, Net(lambda s, a, b: torch.cat(a.split([4, 12], 1), 1))),
    "a half": ({"a": 8}, Net(lambda s, a, b: a[:, a.shape[1] // 2 :], 8)),
    "written into slices": ({}, Net(written_into)),
    "decides by the number of channels": ({}, Net(lambda s, a, b: a + b if a.shape[1] > 8 else a)),
    "heads": (
        {"a": 16, "qkv": 4},
        Net(by_heads, qkv=nn.Linear(16, 24), proj=nn.Linear(8, 16), heads=4, dim=2,
            table=nn.Parameter(torch.rand(4))),
    ),
    "heads, fused": ({"a": 16, "qkv": 4}, Net(fused, qkv=nn.Linear(16, 24), proj=nn.Linear(8, 16), heads=4)),
    "tokens and places": (
        {"a": 16},
        Net(with_class_token, token=nn.Parameter(torch.rand(1, 1, 16)), places=nn.Parameter(torch.rand(1, 65, 16)),
            norm=nn.LayerNorm(16)),
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_groups_by_hand_and_the_law(kind: str) -> None:
    expected, model = KINDS[kind]
    found = widths(check_law(model))
    assert {name: width for name, width in found.items() if name in expected} == expected
    assert ("a" in found) == ("a" in expected)


def test_an_attribute_is_lowered_with_the_channels_that_it_counts() -> None:
    model = Net(lambda s, a, b: torch.cat(a.split(s.parts, 1), 1), parts=[4, 12])
    graph = channel_graph(model, SHAPE)
    small: Any = cut(model, graph, Plan({"a": [0, 3], "a#2": range(5)}))
    assert small.parts == [2, 5]
    assert model.parts == [4, 12]


def test_a_plan_of_heads_leaves_whole_heads() -> None:
    _, model = KINDS["heads"]
    graph = channel_graph(model, SHAPE)
    small: Any = cut(model, graph, Plan({"qkv": [1, 2, 3]}))
    assert (small.heads, small.dim) == (3, 2)
    assert small.qkv.weight.shape == (18, 16)
    assert torch.equal(small.qkv.weight[:6], model.get_parameter("qkv.weight")[2:8])
    assert torch.equal(small.table, model.get_parameter("table")[1:])


class Tokens(nn.Module):
    """Images of 8 px in patches, torch's encoder, and a head."""

    def __init__(self, norm_first: bool = False, batch_first: bool = True, reads_weights: bool = False) -> None:
        super().__init__()
        self.patch, self.head = nn.Conv2d(3, 16, 2, 2), nn.Linear(16, 5)
        self.layer = nn.TransformerEncoderLayer(16, 4, 24, 0.0, norm_first=norm_first, batch_first=batch_first)
        self.last, self.reads_weights = nn.MultiheadAttention(16, 4, batch_first=batch_first), reads_weights
        self.batch_first = batch_first

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = self.layer(x if self.batch_first else x.transpose(0, 1))
        y, weights = self.last(x, x, x, need_weights=self.reads_weights)
        x = x + y * (1 + weights.mean()) if self.reads_weights else x + y
        return self.head(x.mean(1 if self.batch_first else 0))  # type: ignore[no-any-return]


@pytest.mark.parametrize("norm_first", [True, False])
@pytest.mark.parametrize("batch_first", [True, False])
def test_torchs_attention_is_cut_by_heads_and_by_its_stream(norm_first: bool, batch_first: bool) -> None:
    model = Tokens(norm_first, batch_first)
    graph = check_law(model)
    assert widths(graph) == {"patch": 16, "layer.self_attn": 4, "layer.linear1": 24, "last": 4}
    model.eval()
    images = torch.randn(2, *SHAPE)
    for plan in (Plan({"patch": range(0, 16, 2)}), Plan({"last": [3]}), Plan({"layer.self_attn": [0, 2]})):
        small = cut(model, graph, plan)
        with torch.no_grad(), masked(model, graph, plan):  # torch's fused encoder would not see the mask
            assert torch.allclose(model(images), small(images), atol=1e-5)
        assert torch.backends.mha.get_fastpath_enabled()
        assert small.state_dict().keys() == model.state_dict().keys()
        fresh = Tokens(norm_first, batch_first).eval()
        again = cut(fresh, channel_graph(fresh, SHAPE), plan)
        again.load_state_dict(small.state_dict())
        assert torch.equal(again(images), small(images))
        assert torch.allclose(CutCopy(model, graph)(plan).eval()(images), small(images), atol=1e-5)
        check_law(small)


def test_heads_whose_average_is_read_stay() -> None:
    graph = check_law(Tokens(reads_weights=True))
    assert widths(graph) == {"patch": 16, "layer.self_attn": 4, "layer.linear1": 24}
    assert "averages over all heads" in graph.frozen["last.in_proj"]


@pytest.mark.parametrize("batch_first", [True, False])
def test_attention_that_lost_nothing_is_torchs(batch_first: bool) -> None:
    torch.manual_seed(0)
    whole = nn.MultiheadAttention(16, 4, batch_first=batch_first).eval()
    x, padding = torch.randn(5, 5, 16), torch.rand(5, 5) > 0.7
    padding[:, 0] = False
    causal = torch.ones(5, 5, dtype=torch.bool).triu(1)
    for options in ({}, {"need_weights": False}, {"average_attn_weights": False}, {"attn_mask": causal},
                    {"key_padding_mask": padding, "attn_mask": causal}):  # fmt: skip
        expected, got = whole(x, x, x, **options), Attention(whole)(x, x, x, **options)
        assert torch.allclose(expected[0], got[0], atol=1e-6)
        assert (got[1] is None) == (expected[1] is None)
        assert got[1] is None or torch.allclose(expected[1], got[1], atol=1e-6)
    other = torch.randn(5, 5, 16)
    assert torch.allclose(whole(x, other, other)[0], Attention(whole)(x, other, other)[0], atol=1e-6)
    with pytest.raises(ValueError, match="no mask for each head"):
        Attention(whole)(x, x, x, attn_mask=torch.zeros(20, 5, 5))


class RootMeanSquare(nn.Module):
    """A norm over channels as people write it."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.rand(16))

    def forward(self, x: Tensor) -> Tensor:
        return x * (x.pow(2).mean(1, keepdim=True) + 0.1).rsqrt() * self.scale[:, None, None]


class ChannelsFirst(nn.LayerNorm):
    def forward(self, x: Tensor) -> Tensor:
        x = x.permute(0, 2, 3, 1)
        return F.layer_norm(x, self.normalized_shape, self.weight, self.bias, self.eps).permute(0, 3, 1, 2)


class OwnBatchNorm(nn.BatchNorm2d):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).relu()


class Projects(nn.GroupNorm):
    """A norm with a layer inside is no norm: the layer is cut, or nothing is."""

    def __init__(self) -> None:
        super().__init__(1, 16)
        self.mix = nn.Conv2d(16, 16, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.mix(super().forward(x))  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("norm", "free"),
    [(RootMeanSquare(), True), (ChannelsFirst(16), True), (OwnBatchNorm(16), True), (Projects(), False)],
)
def test_norms_of_somebodys_own(norm: nn.Module, free: bool) -> None:
    graph = check_law(Net(lambda s, a, b: s.norm(a) + b, norm=norm))
    assert ("a" in widths(graph)) == free
    assert ("norm" in graph.norms) == isinstance(norm, RootMeanSquare | ChannelsFirst)


def test_every_module_with_weights_that_stays_whole_is_named() -> None:
    model = Net(
        lambda s, a, b: s.down(*[s.up(*[a.mean((2, 3))] * 2)] * 2) + s.free(b).mean((2, 3)),
        up=nn.Bilinear(16, 16, 8), down=nn.Bilinear(8, 8, 16), free=nn.Conv2d(16, 16, 1),
    )  # fmt: skip
    graph = check_law(model)
    assert {"a", "up", "down"} <= graph.frozen.keys()
    assert "a Bilinear" in graph.frozen["up"]
    assert widths(graph) == {"b": 16}


@pytest.mark.parametrize("layer", [nn.Conv1d, nn.Conv3d])
def test_convolutions_of_other_dimensions_are_cut(layer: Any) -> None:
    class Other(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second, self.head = layer(3, 8, 1), layer(8, 6, 1, groups=2), nn.Linear(6, 5)

        def forward(self, x: Tensor) -> Tensor:
            x = x.flatten(2) if layer is nn.Conv1d else x[:, :, None]
            return self.head(self.second(self.first(x).relu()).flatten(2).mean(2))  # type: ignore[no-any-return]

    assert widths(check_law(Other())) == {"first": 4, "second": 3}


class Counts(nn.Module):
    """Changes its buffers whenever it runs, and reads one of them."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 8, 1), nn.Linear(8, 5)
        self.register_buffer("ready", torch.tensor(True))
        self.register_buffer("calls", torch.tensor(0))
        self.register_buffer("scale", torch.ones(1, 8, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        self.calls.add_(1)
        self.scale.mul_(0.5)
        x = F.dropout2d(self.conv(x), 0.5, self.training) + torch.rand(1)
        return self.head((x * self.scale if self.ready else x).mean((2, 3)))  # type: ignore[no-any-return]


@pytest.mark.parametrize("training", [True, False])
def test_looking_changes_nothing(training: bool) -> None:
    model = Counts().train(training)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    modes, drawn, python = [m.training for m in model.modules()], torch.get_rng_state(), random.getstate()
    graph = channel_graph(model, SHAPE)
    assert widths(graph) == {"conv": 8}
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert [m.training for m in model.modules()] == modes
    assert torch.equal(torch.get_rng_state(), drawn)
    assert random.getstate() == python
    assert model(torch.randn(2, *SHAPE)).shape == (2, 5)


def squashed(x: Tensor) -> Tensor:
    return x * torch.sigmoid(x)


class Doubles(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.relu() * 2


@pytest.mark.filterwarnings("ignore:.*torch.jit.script.* is deprecated")
@pytest.mark.parametrize("what", [squashed, Doubles()])
def test_what_is_scripted_leaves_its_inputs_whole(what: Any) -> None:
    scripted = torch.jit.script(what)
    model = Net(lambda s, a, b: scripted(a)) if what is squashed else Net(lambda s, a, b: s.act(a), act=scripted)
    graph = channel_graph(model, SHAPE)
    assert widths(graph) == {"b": 16}
    assert "passes through" in graph.frozen["a"]


def test_a_tensor_made_of_a_number_of_channels_leaves_them_whole() -> None:
    assert widths(check_law(Net(lambda s, a, b: a / torch.tensor(a.shape[1])))) == {"b": 16}


def test_a_decision_by_values_is_told_with_its_line_however_deep() -> None:
    def body(s: Any, a: Tensor, b: Tensor) -> Tensor:
        return a if (a * b).abs().amax() < 1 else b  # this line

    with pytest.raises(InputError, match=r"test_sizes_and_attention.py:\d+: .*# this line \('bool' decides by"):
        channel_graph(Net(body), SHAPE)


def test_tile_names_the_last_dimensions() -> None:
    class Tiled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.head = nn.Conv2d(3, 8, 1), nn.Linear(8, 5)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.stem(x).relu().tile((2, 3)).mean((2, 3)))  # type: ignore[no-any-return]

    torch.manual_seed(0)
    model, images = Tiled().eval(), torch.randn(2, 3, 4, 4)
    graph = channel_graph(model, (3, 4, 4))
    assert {group.name: group.width for group in graph} == {"stem": 8}
    plan = Plan({"stem": [1, 2, 6]})
    with masked(model, graph, plan):
        expected = model(images)
    assert torch.allclose(cut(model, graph, plan)(images), expected, atol=1e-6)
