"""Groups by hand on small networks, and what must freeze."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from compress.graph.build import channel_graph
from compress.graph.plan import Plan
from compress.graph.types import Axis, ChannelGraph
from compress.measure.macs import count_macs, count_params
from compress.models.layers import ChannelSelection
from compress.models.resnet_cifar import resnet
from compress.prune.cost import cost_model
from compress.prune.surgery import cut, difference


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
        self.norm, self.group_norm = nn.LayerNorm(8), nn.GroupNorm(4, 8)
        self.selection = ChannelSelection(8)
        self.squeeze, self.excite = nn.Conv2d(8, 2, 1), nn.Conv2d(2, 8, 1)
        self.head8, self.head16, self.head4 = nn.Linear(8, 5), nn.Linear(16, 5), nn.Linear(4, 5)
        self.other4 = nn.Linear(4, 5)

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
        if self.kind == "chunk apart":
            left, right = a.chunk(2, 1)
            return self.head4(left.mean((2, 3))) + self.other4(right.mean((2, 3)))
        if self.kind == "slice":
            return self.head4(a[:, :4].mean((2, 3)))
        if self.kind == "pad":
            return self.head16(F.pad(a, (0, 0, 0, 0, 4, 4)).mean((2, 3)))
        if self.kind == "shuffle":
            n, c, h, w = b.shape
            return self.head8(b.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w).mean((2, 3)))
        if self.kind == "layer norm":
            return self.head8(self.norm(a.permute(0, 2, 3, 1)).mean((1, 2)))
        if self.kind == "group norm":
            return self.head8(self.group_norm(a).mean((2, 3)))
        if self.kind == "selection":
            return self.head8(self.selection(a).mean((2, 3)))
        if self.kind == "split":
            left, right = torch.split(a, a.shape[1] // 2, 1)
            return self.head4((left * right).mean((2, 3)))
        if self.kind == "split in fours":
            left, right = a.split(4, 1)
            return self.head4((left * right).mean((2, 3)))
        if self.kind == "space":
            return self.head8(F.pad(a, (1, 1, 1, 1))[:, :, 1:, ::2].mean((2, 3)))
        if self.kind == "expand_as":
            n, c, _, _ = a.size()
            scale = self.squeeze(F.adaptive_avg_pool2d(a, 1))
            scale = torch.sigmoid(self.excite(scale)).view(n, c).view(n, c, 1, 1)
            return self.head8((a * scale.expand_as(a)).mean((2, 3)))
        if self.kind == "training head":
            main = self.head8(a.mean((2, 3)))
            return (main, self.head16(torch.cat([a, b], 1).mean((2, 3)))) if self.training else main
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
    assert widths(graph_of("chunk")) == widths(graph_of("chunk apart")) == {"a": 4}


def test_a_shuffle_by_a_computed_size_ties_a_channel_to_its_partner_in_every_part() -> None:
    assert widths(graph_of("shuffle")) == {"b": 4}


def test_squeeze_excite_scales_are_coupled_with_what_they_scale() -> None:
    graph = graph_of("squeeze-excite")
    assert widths(graph) == {"a": 8, "squeeze": 2}
    assert {axis.tensor for axis in graph.groups[0].positions} >= {"a.weight", "excite.weight", "squeeze.weight"}


def test_what_a_cut_would_make_wrong_is_frozen_and_named() -> None:
    for kind, layer, word in (
        ("slice", "a", "getitem"),
        ("pad", "a", "pad"),
        ("literal", "a", "view"),
        ("expand", "a", "expand"),
        ("size", "a", "their number is computed with"),
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
    assert "head16" not in graph.frozen
    assert set(graph.frozen.values()) == {"is never run"}  # the layers of the other kinds


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

    from compress.errors import InputError

    class Dynamic(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x if x.sum() > 0 else -x  # the line

    with pytest.raises(InputError, match=r"Dynamic cannot be traced at .*test_groups.py:\d+: .*# the line"):
        channel_graph(Dynamic(), (3, 4, 4))


def test_norms_over_all_channels_can_be_cut() -> None:
    graph = graph_of("layer norm")
    assert widths(graph) == {"a": 8}
    assert graph.norms == {"norm": (-1, Axis("norm.weight", 0))}
    assert widths(graph_of("group norm")) == {"a": 2}  # four norm groups keep as many channels each


def test_a_selection_is_a_choice_of_its_own_and_leaves_the_stream_wide() -> None:
    graph = graph_of("selection")
    assert widths(graph) == {"selection": 8}
    assert graph.groups[0].consumers == ("head8",)
    assert graph.frozen["a"] == "is selected from by selection"


def test_parts_of_a_computed_size_stay_equal_and_written_sizes_freeze() -> None:
    assert widths(graph_of("split")) == {"a": 4}
    assert "split" in graph_of("split in fours").frozen["a"]


def test_padding_and_slicing_in_space_leave_channels_alone() -> None:
    assert widths(graph_of("space")) == {"a": 8}


def test_squeeze_excite_as_most_people_write_it() -> None:
    assert widths(graph_of("expand_as")) == {"a": 8, "squeeze": 2}


def test_layers_that_only_run_in_training_read_channels_too_and_cost_nothing() -> None:
    graph = graph_of("training head")
    assert widths(graph) == {"a": 8, "b": 8}
    assert graph.groups[0].consumers == ("head8", "head16")
    uses = {layer.name: layer.macs_per_weight for layer in graph.layers}
    assert uses == {"a": 16, "b": 16, "head8": 1, "head16": 0}


def test_a_training_head_that_cannot_run_is_named() -> None:
    class Tall(Net):
        def forward(self, x: Tensor, unused: bool = False) -> Tensor:
            main = self.head8(self.a(x).mean((2, 3)))
            return (main, F.avg_pool2d(self.b(x), 9)) if self.training else main  # type: ignore[return-value]

    graph = channel_graph(Tall("training head"), (3, 4, 4))
    assert widths(graph) == {"a": 8}
    assert graph.frozen["depthwise"].startswith("does not run in evaluation, and training cannot run")


def test_weights_that_two_layers_share_are_cut_once() -> None:
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 8, 1, bias=False), nn.Conv2d(3, 8, 1, bias=False)
            self.b.weight = self.a.weight
            self.head = nn.Linear(16, 5)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(torch.cat([self.a(x), self.b(x * 2)], 1).mean((2, 3)))

    model = Shared()
    graph = channel_graph(model, (3, 4, 4))
    assert widths(graph) == {"a": 8}
    plan = Plan({"a": [1, 5]})
    small = cut(model, graph, plan)
    assert small.get_parameter("b.weight") is small.get_parameter("a.weight")
    assert difference(model, small, graph, plan, torch.randn(2, 3, 4, 4)) < 1e-12
    cost = cost_model(model, graph, (3, 4, 4))
    assert cost.macs(plan) == count_macs(small, (3, 4, 4))
    assert cost.params(plan) == count_params(small)


def test_computed_weights_are_frozen() -> None:
    net = nn.Sequential(
        nn.Conv2d(3, 8, 1), nn.utils.parametrizations.weight_norm(nn.Conv2d(8, 8, 1)), nn.Conv2d(8, 5, 1),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(),
    )  # fmt: skip
    graph = channel_graph(net, (3, 4, 4))
    assert len(graph) == 0
    assert "parametrizations" in graph.frozen["0"] or "'1'" in graph.frozen["0"]
