"""Groups by hand on small networks, and what must freeze."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from compress.models.resnet_cifar import resnet
from compress.prune.graph import ChannelGraph
from compress.prune.groups import channel_graph


def widths(graph: ChannelGraph) -> dict[str, int]:
    return {group.name: group.width for group in graph.groups}


def test_a_chain_has_one_group_per_hidden_layer() -> None:
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 6, 3), nn.Flatten(), nn.Linear(6 * 16, 5)
    )
    graph = channel_graph(net, (3, 8, 8))
    assert widths(graph) == {"0": 4, "3": 6}
    assert [group.consumers for group in graph.groups] == [("3",), ("5",)]
    flat = next(places for axis, places in graph.groups[1].positions.items() if axis.tensor == "5.weight")
    assert flat.tolist() == [list(range(16 * c, 16 * c + 16)) for c in range(6)]  # 4 x 4 places per channel


def test_residual_streams_are_one_group() -> None:
    graph = channel_graph(resnet(depth=20, width=16, shortcut="conv", in_channels=3, num_classes=10), (3, 32, 32))
    stream = graph.groups[0]
    assert stream.name == "conv1"
    assert stream.consumers == (
        "layer1.0.conv1",
        "layer1.1.conv1",
        "layer1.2.conv1",
        "layer2.0.conv1",
        "layer2.0.shortcut",
    )
    assert sorted(widths(graph).values()) == [16] * 4 + [32] * 4 + [64] * 4


def test_padded_shortcuts_tie_a_stream_into_the_next_and_leave_the_rest_free() -> None:
    graph = channel_graph(resnet(depth=8, width=8, shortcut="pad", in_channels=3, num_classes=10), (3, 16, 16))
    # stage 2's 16 channels: 8 are stage 1's, 4 + 4 its own; stage 3's 32: 16 are stage 2's, 8 + 8 its own
    assert widths(graph) == {
        "conv1": 8, "layer1.0.conv1": 8, "layer2.0.conv1": 16, "layer2.0.conv2": 4, "layer2.0.conv2#2": 4,
        "layer3.0.conv1": 32, "layer3.0.conv2": 8, "layer3.0.conv2#2": 8,
    }  # fmt: skip


class Net(nn.Module):
    """Small networks for one idea each."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.a, self.b = nn.Conv2d(3, 8, 1), nn.Conv2d(3, 8, 1)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.grouped = nn.Conv2d(8, 8, 1, groups=2)
        self.norm = nn.LayerNorm(8)
        self.squeeze, self.excite = nn.Conv2d(8, 2, 1), nn.Conv2d(2, 8, 1)
        self.head8, self.head16, self.head4 = nn.Linear(8, 5), nn.Linear(16, 5), nn.Linear(4, 5)

    def forward(self, x: Tensor, unused: bool = False) -> Tensor:
        a, b = self.a(x), self.b(x)
        if self.kind == "cat":
            return self.head16(torch.cat([a, b], 1).mean((2, 3)))
        if self.kind == "depthwise":
            return self.head8(self.depthwise(a).mean((2, 3)))
        if self.kind == "grouped":
            return self.head8(self.grouped(a).mean((2, 3)))
        if self.kind == "chunk":
            left, right = a.chunk(2, 1)
            return self.head4((left * right).mean((2, 3)))
        if self.kind == "slice":
            return self.head4(a[:, :4].mean((2, 3)))
        if self.kind == "pad":
            return self.head16(F.pad(a, (0, 0, 0, 0, 4, 4)).mean((2, 3)))
        if self.kind == "shuffle":
            n, c, h, w = b.shape
            return self.head8(b.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w).mean((2, 3)))
        if self.kind == "layer norm":
            return self.head8(self.norm(a.permute(0, 2, 3, 1)).mean((1, 2)))
        if self.kind == "expand":
            return self.head8((a.mean((2, 3), keepdim=True).expand(-1, 8, 4, 4) * a).mean((2, 3)))
        if self.kind == "size":
            return self.head8((a / a.shape[1]).mean((2, 3)))
        if self.kind == "named":
            return self.head8(torch.mean(input=torch.add(a, other=b), dim=(2, 3)))
        if self.kind == "literal":
            return self.head8(a.mean((2, 3)).view(-1, 8))
        if self.kind == "squeeze-excite":
            scale = torch.sigmoid(self.excite(F.relu(self.squeeze(F.adaptive_avg_pool2d(a, 1)))))
            return self.head8((a * scale).mean((2, 3)))
        raise ValueError(self.kind)


def graph_of(kind: str) -> ChannelGraph:
    return channel_graph(Net(kind), (3, 4, 4))


def test_concatenated_layers_stay_apart() -> None:
    assert widths(graph_of("cat")) == {"a": 8, "b": 8}


def test_depthwise_layers_follow_their_input() -> None:
    graph = graph_of("depthwise")
    assert widths(graph) == {"a": 8}
    assert graph.groups[0].consumers == ("head8",)


def test_grouped_layers_tie_the_same_place_of_every_group() -> None:
    assert widths(graph_of("grouped")) == {"a": 4, "grouped": 4}


def test_chunks_are_tied_so_that_they_stay_equal() -> None:
    assert widths(graph_of("chunk")) == {"a": 4}


def test_squeeze_excite_scales_are_coupled_with_what_they_scale() -> None:
    graph = graph_of("squeeze-excite")
    assert widths(graph) == {"a": 8, "squeeze": 2}
    assert {axis.tensor for axis in graph.groups[0].positions} >= {"a.weight", "excite.weight", "squeeze.weight"}


def test_what_a_cut_would_make_wrong_is_frozen_and_named() -> None:
    for kind, layer, word in (
        ("slice", "a", "getitem"),
        ("pad", "a", "pad"),
        ("shuffle", "b", "view"),
        ("layer norm", "a", "norm"),
        ("literal", "a", "view"),
        ("expand", "a", "expand"),
        ("size", "a", "a computed number"),
    ):
        graph = graph_of(kind)
        assert layer not in widths(graph), kind
        assert word in graph.frozen[layer], kind


def test_arguments_by_name_are_the_same_ops() -> None:
    graph = graph_of("named")
    assert widths(graph) == {"a": 8}
    assert {axis.tensor for axis in graph.groups[0].positions} >= {"a.weight", "b.weight"}


def test_the_logits_are_never_cut_and_not_reported() -> None:
    graph = graph_of("cat")
    assert "head16" not in widths(graph)
    assert graph.frozen == {}


def test_the_model_is_left_as_it_was() -> None:
    net = Net("cat").train()
    net.b.eval().requires_grad_(False)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    channel_graph(net, (3, 4, 4))
    assert net.training
    assert not net.b.training
    assert [p.requires_grad for p in net.b.parameters()] == [False, False]
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_value_dependent_control_flow_is_told_with_its_line() -> None:
    import pytest

    from compress.settings import InputError

    class Dynamic(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x if x.sum() > 0 else -x  # the line

    with pytest.raises(InputError, match=r"Dynamic cannot be traced at .*test_groups.py:\d+: .*# the line"):
        channel_graph(Dynamic(), (3, 4, 4))
