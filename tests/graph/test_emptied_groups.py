"""Groups that a plan empties: where it is exact, it is a network with the same laws; elsewhere it is refused."""

import re
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from conftest import livened, random_plan, zoo
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision import models

from compress.config.zoo import zoo_spec
from compress.graph.build import channel_graph
from compress.graph.plan import Plan, plan_from_json
from compress.graph.types import Axis, ChannelGraph
from compress.measure.macs import count_macs, count_params
from compress.models.layers import EmptyConv, empty_conv_for
from compress.models.onnx import export_onnx
from compress.models.preresnet import Block, preresnet
from compress.models.resnet_cifar import resnet
from compress.prune.cost import cost_model
from compress.prune.saved_network import load_network, save_network
from compress.prune.surgery import Masks, cut, difference

SHAPE = (3, 16, 16)
NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "resnet20_cs": lambda: zoo("resnet20_cs", SHAPE),
    "resnet8x4_cs": lambda: zoo("resnet8x4_cs", SHAPE),
    "resnet20 conv": lambda: resnet(depth=20, width=8, shortcut="conv", in_channels=3, num_classes=10),
    "resnet20 pad": lambda: resnet(depth=20, width=8, shortcut="pad", in_channels=3, num_classes=10),
    "preresnet": lambda: preresnet(depth=20, selection=True, cfg=None, in_channels=3, num_classes=10),
    "mobilenetv2": lambda: zoo("mobilenetv2", SHAPE),
}
MOST = {
    "resnet20_cs": 9,
    "resnet8x4_cs": 3,
    "resnet20 conv": 9,
    "resnet20 pad": 9,
    "preresnet": 12,
    "mobilenetv2": 10,
}
PICKS: dict[str, Callable[[list[str]], list[str]]] = {
    "one": lambda names: names[len(names) // 2 :][:1],
    "several": lambda names: names[::2],
    "all": lambda names: names,
}


def look(make: Callable[[], nn.Module], shape: tuple[int, int, int] = SHAPE) -> tuple[nn.Module, ChannelGraph]:
    """Weights so large that no layer's part in the output is lost in float noise."""
    torch.manual_seed(0)
    model = livened(make())
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)
    return model, channel_graph(model, shape)


def emptying(graph: ChannelGraph, names: Sequence[str], share: float = 1.0) -> Plan:
    """These groups empty, `share` of the channels of every other."""
    return Plan({**random_plan(graph, share).kept, **dict.fromkeys(names, ())})


@pytest.mark.parametrize("share", [1.0, 0.5])
@pytest.mark.parametrize("pick", PICKS)
@pytest.mark.parametrize("name", NETWORKS)
def test_masked_equals_cut_and_the_prices_hold(name: str, pick: str, share: float) -> None:
    model, graph = look(NETWORKS[name])
    assert len(graph.emptiable) == MOST[name]
    plan = emptying(graph, PICKS[pick](sorted(graph.emptiable)), share)
    cost, small = cost_model(model, graph, SHAPE), cut(model, graph, plan)
    assert difference(model, small, graph, plan, torch.randn(2, *SHAPE)) < 1e-10
    assert cost.macs(plan) == count_macs(small, SHAPE) < cost.full_macs
    assert cost.params(plan) == count_params(small)
    assert 0 in graph.widths(plan)
    first, second = small.eval().double()(torch.randn(2, *SHAPE, dtype=torch.float64))
    assert (first - second).abs().max() > 1e-4 * first.abs().max()  # alive


@pytest.mark.parametrize("name", NETWORKS)
def test_it_trains_and_can_be_cut_again(name: str) -> None:
    model, graph = look(NETWORKS[name])
    small = cut(model, graph, emptying(graph, sorted(graph.emptiable)[::2], 0.5)).train()
    small(torch.randn(4, *SHAPE)).square().sum().backward()
    gradients = [p.grad for p in small.parameters() if p.grad is not None]
    assert len(gradients) > 5
    assert all(bool(g.isfinite().all()) for g in gradients)
    torch.optim.SGD(small.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-4).step()
    again = channel_graph(small, SHAPE)
    cost, plan = cost_model(small, again, SHAPE), random_plan(again, 0.5)
    smaller = cut(small, again, plan)
    assert difference(small, smaller, again, plan, torch.randn(2, *SHAPE)) < 1e-10
    assert (cost.macs(plan), cost.params(plan)) == (count_macs(smaller, SHAPE), count_params(smaller))


@pytest.mark.parametrize("name", ["resnet20_cs", "resnet8x4_cs", "preresnet"])
def test_a_pre_activation_block_without_inner_channels_is_its_shortcut(name: str) -> None:
    model, graph = look(NETWORKS[name])
    small = cut(model, graph, emptying(graph, graph.emptiable))
    blocks = [module for module in small.modules() if isinstance(module, Block)]
    assert len(blocks) == sum(isinstance(module, Block) for module in model.modules()) >= 3
    for block in blocks:
        x = torch.randn(2, block.bn1.num_features, 8, 8)
        assert torch.equal(block(x), block.shortcut(x))


def test_a_bottleneck_whose_first_width_alone_is_empty_still_adds_a_constant() -> None:
    """And keeps what it costs: only a block without any channel is skipped."""
    model, graph = look(NETWORKS["preresnet"])
    for empty, left in (("layer2.1.conv1", "conv3"), ("layer2.1.conv2", "conv1")):
        block = cut(model, graph, emptying(graph, [empty])).get_submodule("layer2.1").eval()
        assert isinstance(block.get_submodule(left), nn.Conv2d)
        added = block(images := torch.randn(2, 128, 8, 8)) - images
        assert torch.allclose(added[0], added[1], atol=1e-5)
        assert bool(added.abs().max() > 0.01) == (left == "conv3")


def test_a_post_activation_block_is_its_shortcut_and_what_its_bn_makes_of_zero() -> None:
    model, graph = look(NETWORKS["resnet20 pad"])
    block = cut(model, graph, Plan({"layer2.0.conv1": []})).get_submodule("layer2.0").eval()
    x, bn = torch.randn(2, 8, 8, 8), block.get_submodule("bn2")
    constant = (bn.bias - bn.running_mean * bn.weight / (bn.running_var + bn.eps).sqrt()).view(-1, 1, 1)
    assert torch.allclose(block(x), F.relu(block.get_submodule("shortcut")(x) + constant), atol=1e-6)


@pytest.mark.parametrize("name", ["resnet20_cs", "resnet20"])
def test_saved_and_loaded_give_the_same_logits(name: str, tmp_path: Path) -> None:
    spec = zoo_spec(name, SHAPE, 10)
    model, graph = look(spec.build)
    plan = emptying(graph, sorted(graph.emptiable)[1:3], 0.5)
    small = cut(model, graph, plan)
    save_network(tmp_path / "model.safetensors", small, spec, plan)
    loaded = load_network(tmp_path / "model.safetensors")
    assert loaded[1] == plan == plan_from_json(plan.to_json())
    images = torch.randn(2, *SHAPE)
    assert torch.equal(loaded[0](images), small.eval()(images))


@pytest.mark.parametrize("name", ["resnet20_cs", pytest.param("resnet20 conv", marks=pytest.mark.slow)])
def test_onnxruntime_gives_the_same_logits(name: str, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    model, graph = look(NETWORKS[name])
    small = cut(model, graph, emptying(graph, graph.emptiable, 0.5))
    assert export_onnx(small, tmp_path / "small.onnx", SHAPE) < 1e-4


def test_new_weights_modes_and_the_wide_network_are_as_with_any_cut() -> None:
    model, graph = look(NETWORKS["resnet20 conv"])
    plan, images = Plan({"layer1.1.conv1": [], "layer2.0.conv1": [0, 3]}), torch.randn(2, *SHAPE)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    given = {name: torch.randn_like(value) for name, value in model.named_parameters() if value.dim() == 4}
    model.eval()
    with torch.no_grad(), Masks(model, graph)(plan, given):
        expected = model(images)
    small = cut(model, graph, plan, given)
    assert torch.allclose(expected, small(images), rtol=1e-4, atol=1e-4 * float(expected.detach().abs().max()))
    assert all(not module.training for module in small.modules())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(value.numel() for value in small.state_dict().values())


def convolutions() -> list[nn.Conv2d]:
    return [
        nn.Conv2d(4, 6, 3, 2, 1),
        nn.Conv2d(4, 6, (1, 3), (2, 1), (0, 2), dilation=(1, 2), bias=False),
        nn.Conv2d(4, 6, 3, padding="same", dilation=2),
        nn.Conv2d(4, 6, 4, padding="same"),
        nn.Conv2d(4, 6, 5, padding="valid", stride=3),
        nn.Conv2d(4, 6, 3, padding=1, padding_mode="reflect"),
    ]


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@pytest.mark.parametrize("at", range(6))
def test_nothing_is_a_convolution_whose_inputs_weigh_nothing(at: int) -> None:
    conv = convolutions()[at]
    nn.init.zeros_(conv.weight)
    nothing, x = empty_conv_for(conv), torch.randn(2, 4, 11, 8)
    assert torch.equal(nothing(x), conv(x))
    assert torch.equal(nothing(x.double()[:, :1]).float(), conv(x))
    assert set(nothing.state_dict()) == ({"bias"} if conv.bias is not None else set())


class Net(nn.Module):
    """Small networks for one idea each, around a branch a -> norm -> ReLU -> b beside a shortcut."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.stem = nn.Conv2d(3, 6, 1)
        self.a, self.norm, self.b = nn.Conv2d(6, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Conv2d(4, 6, 3, padding=1)
        self.group_norm, self.prelu = nn.GroupNorm(4, 4), nn.PReLU(4)
        self.depthwise, self.grouped = nn.Conv2d(4, 4, 3, padding=1, groups=4), nn.Conv2d(4, 6, 1, groups=2)
        self.c, self.wide = nn.Conv2d(6, 4, 1), nn.Conv2d(8, 6, 1)
        self.head, self.aux = nn.Linear(6, 5), nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        x = self.stem(x)
        a = F.relu(self.norm(self.a(x)))
        if self.kind == "depthwise":
            out = self.b(F.max_pool2d(self.depthwise(a), 3, 1, 1))
        elif self.kind == "group norm":
            out = self.b(self.group_norm(a))
        elif self.kind == "prelu":
            out = self.b(self.prelu(a))
        elif self.kind == "grouped":
            out = self.grouped(a)
        elif self.kind == "cat":
            out = self.wide(torch.cat([a, self.c(x)], 1))
        elif self.kind == "added":
            out = self.b(a + self.c(x))
        elif self.kind == "size":
            out = self.b(a) / a.shape[2]
        elif self.kind == "size in training":
            out = self.b(a) * (a.shape[2] if self.training else 1)
        elif self.kind == "gate":
            return self.head((x * torch.sigmoid(self.b(a))).mean((2, 3)))
        elif self.kind == "twice":
            out = self.b(a) + self.b(self.norm(self.a(x)))
        elif self.kind == "functional":
            out = F.conv2d(a, self.b.weight, self.b.bias, padding=1)
        else:
            out = self.b(a)
        main = self.head((x + out).mean((2, 3)))
        return (main, self.aux(a.mean((2, 3)))) if self.kind == "training head" and self.training else main


@pytest.mark.parametrize("kind", ["plain", "depthwise"])
def test_a_branch_with_biases_becomes_its_last_bias(kind: str) -> None:
    model, graph = look(lambda: Net(kind), (3, 8, 8))
    assert graph.emptiable == {"a"}
    plan = Plan({"a": [], "stem": [0, 2, 5]})
    small = cut(model, graph, plan)
    assert difference(model, small, graph, plan, torch.randn(2, 3, 8, 8)) < 1e-12
    assert cost_model(model, graph, (3, 8, 8)).params(plan) == count_params(small)
    assert torch.equal(small.get_parameter("b.bias"), model.get_parameter("b.bias")[[0, 2, 5]])
    assert {name for name, _ in small.named_parameters() if name.startswith(("a.", "norm.", "b."))} == {"b.bias"}
    again = channel_graph(small, (3, 8, 8))
    assert {group.name: group.width for group in again} == {"stem": 3}
    plan = Plan({"stem": [1]})
    smaller = cut(small, again, plan)
    assert (smaller.get_submodule("b").out_channels, len(smaller.get_parameter("b.bias"))) == (1, 1)
    assert difference(small, smaller, again, plan, torch.randn(2, 3, 8, 8)) < 1e-12


@pytest.mark.parametrize(
    ("kind", "why"),
    [
        ("group norm", "runs through group_norm, a GroupNorm"),
        ("prelu", "runs through prelu, a PReLU"),
        ("grouped", "is not all that a holds, each channel once"),
        ("cat", "is not all that wide reads"),
        ("added", "is read by add"),
        ("size", "is read by shape"),
        ("size in training", "is read by shape"),
        ("gate", "without which a constant would meet other channels in another way than a sum"),
        ("twice", "runs through a, which is not called once"),
        ("functional", "runs through b, which is not called once"),
        ("training head", "runs through aux, a Linear"),
    ],
)
def test_where_it_is_not_sure_it_is_refused(kind: str, why: str) -> None:
    model, graph = look(lambda: Net(kind), (3, 8, 8))
    name = next(group.name for group in graph if Axis("a.weight", 0) in group.positions)
    assert name not in graph.emptiable
    with pytest.raises(
        ValueError, match=f"plan empties group '{name}', .*{why}.*; keep at least one channel; groups"
    ):
        cut(model, graph, Plan({name: []}))


def test_shared_weights_are_refused() -> None:
    def make() -> nn.Module:
        net = Net("plain")
        net.c.bias = net.norm.bias
        return net

    _, graph = look(make, (3, 8, 8))
    assert graph.never_empty["a"] == "which shares weights of norm"


def test_branches_that_are_all_there_is_may_not_all_be_emptied() -> None:
    class Both(Net):
        def forward(self, x: Tensor) -> Tensor:
            x = self.stem(x)
            return self.head((self.b(F.relu(self.a(x))) + self.e(F.relu(self.c(x)))).mean((2, 3)))

    def make() -> nn.Module:
        net = Both("plain")
        net.e = nn.Conv2d(4, 6, 1)
        return net

    model, graph = look(make, (3, 8, 8))
    assert graph.emptiable == {"a", "c"}
    for plan in (Plan({"a": []}), Plan({"c": []})):
        assert difference(model, cut(model, graph, plan), graph, plan, torch.randn(2, 3, 8, 8)) < 1e-12
    both = Plan({"a": [], "c": []})
    for refuse in (lambda: graph.kept(both), lambda: cut(model, graph, both), lambda: graph.dropped(both)):
        with pytest.raises(
            ValueError, match="plan empties groups 'a', 'c', without which the output would not depend"
        ):
            refuse()
    with pytest.raises(ValueError, match="not all of these"), Masks(model, graph)(both):
        pass


def test_groups_on_which_all_depends_and_selections_are_refused_in_a_line() -> None:
    for make, name, told in (
        (lambda: zoo("vgg11_bn"), "features.0", "without which the output would not depend on the images; .*: none$"),
        (lambda: zoo("resnet20"), "conv1", "which is read by add.*, which is no convolution; .*: layer1.0.conv1, "),
        (lambda: zoo("resnet20_w"), "conv1", "without which the output would not depend on the images; "),
        (lambda: zoo("resnet20_cs"), "layer1.1.select", "which runs through layer1.1.select, a ChannelSelection; "),
        (lambda: zoo("resnet20_cs"), "select", "which runs through select, a ChannelSelection; "),
        (lambda: zoo("mobilenetv2"), "features.2.conv.2", "which is read by add, "),
    ):
        model, graph = look(make, (3, 32, 32))
        with pytest.raises(ValueError, match=f"^plan empties group {re.escape(repr(name))}, {told}") as error:
            cut(model, graph, Plan({name: []}))
        assert "\n" not in str(error.value)


def test_networks_of_others() -> None:
    """Bottlenecks and inverted residuals; dense and mixed blocks, whose branches end in a concatenation."""
    for name, most, shape in (
        ("resnet18", 8, (3, 32, 32)),
        ("mobilenet_v2", 10, (3, 32, 32)),
        ("densenet121", 58, (3, 32, 32)),
        ("shufflenet_v2_x0_5", 16, (3, 32, 32)),
        ("squeezenet1_1", 0, (3, 64, 64)),
        ("efficientnet_b0", 0, (3, 32, 32)),
    ):
        model, graph = look(lambda name=name: models.get_model(name, weights=None), shape)
        assert len(graph.emptiable) == most, name
        plan = emptying(graph, graph.emptiable)
        small = cut(model, graph, plan)
        assert difference(model, small, graph, plan, torch.randn(2, *shape)) < 1e-10, name
        assert sum(isinstance(module, EmptyConv) for module in small.modules()) >= 2 * most, name
