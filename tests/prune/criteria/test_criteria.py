"""Scores by hand on networks of a few weights, and the laws that hold for every criterion."""

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from conftest import CPU, livened, zoo
from torch import Tensor, nn
from torch.nn import functional as F

from compress.config.criteria import GivenBatches, criterion_names, criterion_of
from compress.data.memory import MemoryData
from compress.errors import InputError
from compress.graph.build import channel_graph
from compress.graph.types import ChannelGraph
from compress.models.resnet_cifar import resnet
from compress.prune.criteria.criterion import Drawn, normalised, scored_groups, totals
from compress.prune.criteria.taylor import effects
from compress.prune.order import channel_orders
from compress.prune.scores import Scores

NAMES = ["bn_scale", "fpgm", "l1", "l2", "osscar", "random", "taylor"]
SHAPE = (3, 16, 16)


def batches(count: int = 2, shape: tuple[int, int, int] = SHAPE, classes: int = 10) -> list[tuple[Tensor, Tensor]]:
    random = torch.Generator().manual_seed(0)
    return [
        (torch.randn(8, *shape, generator=random), torch.randint(classes, (8,), generator=random))
        for _ in range(count)
    ]


def scores_of(name: str, model: nn.Module, graph: ChannelGraph, images: Any = None, **settings: Any) -> Scores:
    given = GivenBatches(batches() if images is None else images, CPU, 0, name)
    return totals(criterion_of(name, **settings)(model, graph, given))


class Small(nn.Module):
    """Two channels, made by one layer, scaled by a batch norm, read by two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.make, self.norm = nn.Conv2d(1, 2, (1, 2), bias=False), nn.BatchNorm2d(2)
        self.one, self.two = nn.Conv2d(2, 1, 1), nn.Conv2d(2, 1, 1)
        with torch.no_grad():
            self.make.weight.copy_(torch.tensor([[3.0, 4.0], [-1.0, 1.0]])[:, None, None])
            self.norm.weight.copy_(torch.tensor([-0.5, 2.0]))
            self.one.weight.copy_(torch.tensor([1.0, -2.0])[None, :, None, None])
            self.two.weight.copy_(torch.tensor([-4.0, 2.0])[None, :, None, None])

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.make(x)))
        return torch.cat([self.one(x), self.two(x)], 1).mean((2, 3))


@pytest.mark.parametrize(
    ("name", "settings", "expected"),
    [
        ("l1", {}, [1 + 4, 2 + 2]),
        ("l1", {"side": "makers"}, [7, 2]),
        ("l1", {"side": "both"}, [12, 6]),
        ("l1", {"normalise": "mean"}, [1 / 1.5 + 4 / 3, 2 / 1.5 + 2 / 3]),
        ("l2", {}, [5, 4]),
        ("l2", {"side": "makers"}, [5, 2**0.5]),
        ("fpgm", {"normalise": "none"}, [5, 5]),  # |(3, 4) - (-1, 1)|
        ("fpgm", {}, [1, 1]),
        ("bn_scale", {}, [0.5, 2]),
    ],
)
def test_scores_by_hand(name: str, settings: dict[str, Any], expected: list[float]) -> None:
    net = Small().eval()
    scores = scores_of(name, net, channel_graph(net, (1, 4, 4)), **settings)
    assert scores["make"].tolist() == pytest.approx(expected)


def test_fpgm_takes_the_filter_in_the_middle_first_though_it_is_no_small_one() -> None:
    net = nn.Sequential(nn.Conv2d(2, 4, 1, bias=False), nn.Conv2d(4, 1, 1), nn.Flatten())
    filters = torch.tensor([[10.0, 0.0], [10.0, 3.0], [10.0, -4.0], [0.0, 0.0]])
    net.get_parameter("0.weight").data.copy_(filters[:, :, None, None])
    scores = scores_of("fpgm", net, channel_graph(net, (2, 1, 1)), normalise="none")["0"]
    expected = [3 + 4 + 10, 3 + 7 + 109**0.5, 4 + 7 + 116**0.5, 10 + 109**0.5 + 116**0.5]
    assert scores.tolist() == pytest.approx(expected)
    assert int(scores.argmin()) == 0


def test_fpgm_adds_all_layers_that_make_a_channel_each_by_its_mean() -> None:
    torch.manual_seed(0)
    net = resnet(depth=8, width=4, shortcut="conv", in_channels=3, num_classes=10)
    graph = channel_graph(net, SHAPE)
    expected = torch.zeros(4, dtype=torch.float64)
    for name in ("conv1", "layer1.0.conv2"):
        rows = net.get_parameter(f"{name}.weight").detach().double().flatten(1)
        apart = torch.stack([torch.stack([(a - b).norm() for b in rows]).sum() for a in rows])
        expected += apart / apart.mean()
    torch.testing.assert_close(scores_of("fpgm", net, graph)["conv1"], expected)


# -- taylor ------------------------------------------------------------------------------------------------------


class Gate(nn.Module):
    """Logits (a, 0) with a = sum of r_c * relu(m_c * x): the derivative of the loss by the gate of c is
    (p - 1) * r_c * relu(m_c * x) for an image of the first class, where p is its probability."""

    def __init__(self) -> None:
        super().__init__()
        self.make, self.read = nn.Conv2d(1, 3, 1, bias=False), nn.Conv2d(3, 1, 1, bias=False)
        with torch.no_grad():
            self.make.weight.copy_(torch.tensor([1.0, 2.0, -1.0])[:, None, None, None])
            self.read.weight.copy_(torch.tensor([0.5, -1.5, 9.0])[None, :, None, None])

    def forward(self, x: Tensor) -> Tensor:
        logit = self.read(F.relu(self.make(x))).flatten(1)
        return torch.cat([logit, torch.zeros_like(logit)], 1)


@pytest.mark.parametrize("of", ["readers", "filters"])  # without a batch norm they are the same gate
def test_taylor_by_hand(of: str) -> None:
    net = Gate().eval()
    graph = channel_graph(net, (1, 1, 1))
    images = [(torch.tensor([value]).view(1, 1, 1, 1), torch.tensor([0])) for value in (1.0, 3.0)]
    changes = []
    for x in (1.0, 3.0):
        p = torch.tensor([0.5 * x - 3.0 * x, 0.0], dtype=torch.float64).softmax(0)[0]
        changes.append((p - 1) * torch.tensor([0.5 * x, -3.0 * x, 0.0], dtype=torch.float64))
    square = torch.stack(changes).square().mean(0)
    torch.testing.assert_close(scores_of("taylor", net, graph, images, of=of)["make"], square, rtol=1e-5, atol=1e-7)
    found = scores_of("taylor", net, graph, images, of=of, measure="abs")["make"]
    torch.testing.assert_close(found, torch.stack(changes).abs().mean(0), rtol=1e-5, atol=1e-7)


def test_taylors_effect_has_the_sign_of_what_the_loss_does_when_a_gate_closes_a_little() -> None:
    torch.manual_seed(0)
    net = livened(resnet(depth=8, width=4, shortcut="conv", in_channels=3, num_classes=10)).double().eval()
    graph = channel_graph(net, SHAPE)
    images = [(x.double(), y) for x, y in batches(1)]
    gates = criterion_of("taylor")._gates(net, graph)  # type: ignore[attr-defined]
    (found,) = effects(net, gates, images)
    (group,) = [group for group in graph if group.name == "conv1"]
    small = 1e-5

    def loss(channel: int, gate: float) -> float:
        closed = copy.deepcopy(net)
        with torch.no_grad():
            for name in group.consumers:
                closed.get_parameter(f"{name}.weight")[:, channel] *= gate
            return float(F.cross_entropy(closed(images[0][0]), images[0][1]))

    for channel in range(4):
        slope = (loss(channel, 1 + small) - loss(channel, 1 - small)) / (2 * small)
        assert float(found["conv1"][channel]) == pytest.approx(slope, rel=1e-4)
    assert {float(change) > 0 for change in found["conv1"]} == {True, False}


def test_taylors_gate_at_the_readers_is_the_published_one_behind_the_batch_norms() -> None:
    """Through ReLUs, sums and poolings, where every layer that makes a channel has a batch norm."""
    torch.manual_seed(0)
    net = livened(resnet(depth=14, width=4, shortcut="conv", in_channels=3, num_classes=10)).eval()
    graph = channel_graph(net, SHAPE)
    read, published = (scores_of("taylor", net, graph, of=of) for of in ("readers", "norms"))
    without = [name for name in read if name in ("layer2.0.conv2", "layer3.0.conv2")]  # their shortcuts have none
    alike = read.keys() - set(without)
    assert len(alike) == len(graph) - 2 >= 5
    for name in alike:
        torch.testing.assert_close(read[name], published[name], rtol=1e-3, atol=1e-9)


def test_taylor_leaves_no_gradient_and_takes_frozen_networks() -> None:
    net = Gate().train()
    expected = scores_of("taylor", net, channel_graph(net, (1, 1, 1)), batches(2, (1, 1, 1), 2))["make"]
    for parameter in net.parameters():
        parameter.requires_grad_(False)
    with torch.no_grad():
        frozen = scores_of("taylor", net, channel_graph(net, (1, 1, 1)), batches(2, (1, 1, 1), 2))["make"]
    assert torch.equal(expected, frozen)
    assert all(parameter.grad is None for parameter in net.parameters())
    assert net.training


# -- of all ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def network() -> tuple[nn.Module, ChannelGraph]:
    torch.manual_seed(0)
    net = livened(resnet(depth=8, width=4, shortcut="conv", in_channels=3, num_classes=10))
    return net, channel_graph(net, SHAPE)


def test_every_criterion_is_tested_here() -> None:
    assert criterion_names() == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_the_network_is_left_as_it_was(name: str, network: tuple[nn.Module, ChannelGraph]) -> None:
    net, graph = network
    modes = {"layer1": True, "layer2": False}
    for part, mode in modes.items():
        net.get_submodule(part).train(mode)
    before = {key: tensor.clone() for key, tensor in net.state_dict().items()}
    scores_of(name, net, graph)
    assert all(torch.equal(tensor, before[key]) for key, tensor in net.state_dict().items())
    assert all(parameter.grad is None and parameter.requires_grad for parameter in net.parameters())
    assert {part: net.get_submodule(part).training for part in modes} == modes
    assert not any(module._forward_pre_hooks or module._forward_hooks for module in net.modules())


@pytest.mark.parametrize("name", NAMES)
def test_there_is_a_finite_score_for_every_channel_of_the_groups_it_names(
    name: str, network: tuple[nn.Module, ChannelGraph]
) -> None:
    net, graph = network
    found = scores_of(name, net, graph)
    assert found.keys() == scored_groups(criterion_of(name), net, graph) == {group.name for group in graph}
    for group in graph:
        score = found[group.name]
        assert score.shape == (group.width,)
        assert score.dtype == torch.float64
        assert bool(score.isfinite().all())
        assert float(score.min()) >= 0


@pytest.mark.parametrize("name", [name for name in NAMES if name != "random"])
def test_channels_in_another_order_have_their_scores_in_that_order(
    name: str, network: tuple[nn.Module, ChannelGraph]
) -> None:
    """The network with all channels permuted computes the same; so every channel is worth the same."""
    net, graph = network
    other = copy.deepcopy(net)
    random = torch.Generator().manual_seed(1)
    orders = {group.name: torch.randperm(group.width, generator=random) for group in graph}
    tensors = {**dict(other.named_parameters()), **dict(other.named_buffers())}
    with torch.no_grad():
        for group in graph:
            for axis, places in group.positions.items():
                tensor = tensors[axis.tensor]
                moved = tensor.clone().transpose(0, axis.dim)
                target = moved.clone()
                target[places.flatten()] = moved[places[orders[group.name]].flatten()]
                tensor.copy_(target.transpose(0, axis.dim))
    images = batches(1)
    assert torch.allclose(net.eval()(images[0][0]), other.eval()(images[0][0]), atol=1e-4)
    one, two = scores_of(name, net, graph, images), scores_of(name, other, channel_graph(other, SHAPE), images)
    for group, order in orders.items():
        torch.testing.assert_close(two[group], one[group][order], rtol=5e-3, atol=1e-6 if name == "osscar" else 1e-7)


@pytest.mark.parametrize(
    "name", ["resnet20", *(pytest.param(n, marks=pytest.mark.slow) for n in ("mobilenetv2", "vgg11_bn"))]
)
def test_l1_is_the_order_that_searches_had_before_there_were_criteria(name: str) -> None:
    """To the bit: float64 sums over each layer, added in the order of execution."""
    torch.manual_seed(0)
    net = zoo(name)
    graph = channel_graph(net, (3, 32, 32))
    layers = {layer.name: layer for layer in graph.layers}
    by_criterion = channel_orders(net, graph, scores_of("l1", net, graph))
    for group in graph:
        score = torch.zeros(group.width, dtype=torch.float64)
        for reader in group.consumers:
            axis = layers[reader].in_axis
            assert axis is not None
            weight = net.get_parameter(layers[reader].weight).detach().double()
            score += weight.abs().transpose(0, 1).flatten(1).sum(1)[group.positions[axis]].sum(1)
        expected = score.sort(descending=True, stable=True).indices
        assert torch.equal(by_criterion[group.name], expected)
        assert torch.equal(channel_orders(net, graph)[group.name], expected)


def test_random_follows_its_seed_and_says_nothing_of_the_network(network: tuple[nn.Module, ChannelGraph]) -> None:
    net, graph = network
    draw = criterion_of("random")
    one, again, two = (totals(draw(net, graph, GivenBatches(None, CPU, seed, ""))) for seed in (0, 0, 1))
    assert all(torch.equal(one[name], again[name]) and not torch.equal(one[name], two[name]) for name in one)
    other = resnet(depth=8, width=4, shortcut="conv", in_channels=3, num_classes=10)
    assert torch.equal(totals(draw(other, graph, GivenBatches(None, CPU, 0, "")))["conv1"], one["conv1"])


@pytest.mark.parametrize("name", ["taylor", "osscar"])
def test_images_are_of_the_training_part_as_many_as_asked_and_follow_the_seed(
    name: str, digit_data: MemoryData, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[str, int]] = []
    drawn = MemoryData.drawn

    def watched(self: MemoryData, part: Any, *rest: Any) -> Iterator[tuple[Tensor, Tensor]]:
        for images, labels in drawn(self, part, *rest):
            seen.append((part, len(images)))
            yield images, labels

    monkeypatch.setattr(MemoryData, "drawn", watched)
    torch.manual_seed(0)
    net = livened(resnet(depth=8, width=4, shortcut="conv", in_channels=1, num_classes=10))
    graph = channel_graph(net, digit_data.shape)
    criterion = criterion_of(name, images=50, batch_size=20)
    one, again, two = (totals(criterion(net, graph, Drawn(digit_data, CPU, seed)))["conv1"] for seed in (0, 0, 1))
    assert seen == 3 * [("train", 20), ("train", 20), ("train", 10)]
    assert torch.equal(one, again)
    assert not torch.equal(one, two)


def test_groups_that_cannot_be_scored_are_left_out_by_name() -> None:
    net = nn.Sequential(
        nn.Conv2d(1, 4, 1), nn.Conv2d(4, 6, 3, dilation=2), nn.BatchNorm2d(6), nn.Conv2d(6, 2, 1), nn.Flatten()
    ).eval()
    graph = channel_graph(net, (1, 5, 5))
    images = batches(1, (1, 5, 5), 2)
    for name, expected in (("bn_scale", {"1"}), ("osscar", {"1"}), ("taylor", {"0", "1"}), ("fpgm", {"0", "1"})):
        assert scored_groups(criterion_of(name), net, graph) == expected
        assert scores_of(name, net, graph, images).keys() == expected
    orders = channel_orders(net, graph, scores_of("bn_scale", net, graph))
    assert torch.equal(orders["0"], channel_orders(net, graph)["0"])  # by the weights that read it


def test_each_layer_is_divided_by_its_mean() -> None:
    parts = {"a": [torch.tensor([[1.0], [3.0]]), torch.tensor([[10.0, 0.0], [20.0, 10.0]])]}
    assert [part.tolist() for part in normalised(parts, "mean")["a"]] == [[[0.5], [1.5]], [[1.0, 0.0], [2.0, 1.0]]]
    assert normalised(parts, "none") is parts
    assert totals(parts)["a"].tolist() == [11.0, 33.0]


def test_names_and_settings_are_checked() -> None:
    with pytest.raises(
        InputError, match=r"^tailor: not a criterion; there are bn_scale, fpgm, l1, l2, osscar, random"
    ):
        criterion_of("tailor")
    with pytest.raises(InputError, match=r"^of=inputs: must be one of readers, norms, filters$"):
        criterion_of("taylor", of="inputs")
    with pytest.raises(InputError, match=r"^unknown key imags; did you mean images\?$"):
        criterion_of("taylor", imags=3)


@pytest.mark.parametrize("name", ["resnet20", "vgg11_bn", pytest.param("mobilenetv2", marks=pytest.mark.slow)])
def test_scores_of_whole_networks_differ_from_channel_to_channel(name: str) -> None:
    torch.manual_seed(0)
    net = livened(zoo(name)).eval()
    graph = channel_graph(net, (3, 32, 32))
    for criterion in ("fpgm", "bn_scale", "l2"):
        found = scores_of(criterion, net, graph)
        assert len(found) == len(graph)
        assert all(len(score.unique()) > 0.9 * len(score) for score in found.values())
