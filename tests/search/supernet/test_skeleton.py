"""A skeleton with cropped weights is the network that a cut makes."""

import copy
from typing import Any

import numpy as np
import pytest
import torch
from conftest import CPU, livened, zoo
from torch import Tensor, nn
from torchvision import models

from compress.graph.build import channel_graph
from compress.graph.plan import Plan
from compress.graph.types import ChannelGraph
from compress.io.paths import CONF
from compress.models.resnet_cifar import resnet
from compress.prune.surgery import cut
from compress.search.supernet.crops import Crops, Widths, check_widths, cropped, kept_places
from compress.search.supernet.skeleton import Skeleton

SMALL = ("resnet20_cs", "mobilenetv1")
TORCHVISION = (
    "shufflenet_v2_x0_5", "mobilenet_v3_small", "densenet121", "resnext50_32x4d", "convnext_tiny", "googlenet",
    "regnet_y_400mf",
)  # fmt: skip
ZOO = tuple(sorted({path.stem for path in (CONF / "model").glob("*.yaml")} - {"custom", "timm", "torchvision"}))


def prefix(graph: ChannelGraph, widths: Widths) -> Plan:
    return Plan({group.name: range(width) for group, width in zip(graph, widths, strict=True)})


def drawn_widths(graph: ChannelGraph, seed: int) -> Widths:
    random = torch.Generator().manual_seed(seed)
    return tuple(int(torch.randint(1, group.width + 1, (), generator=random)) for group in graph)


def logits(answer: Any) -> Tensor:
    return answer[0] if isinstance(answer, tuple) else answer  # type: ignore[no-any-return]


def largest_difference(model: nn.Module, shape: tuple[int, int, int], seeds: tuple[int, ...] = (1, 2, 1)) -> float:
    """Between a skeleton and cuts, relative; at drawn widths one after the other, then at full width the network."""
    graph = channel_graph(model, shape)
    skeleton = Skeleton(model, graph, own_norms=True)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    attributes = [dict(vars(module)) for module in model.modules()]
    images, worst = torch.randn(2, *shape), 0.0
    for training in (True, False):  # what training leaves behind would show in evaluation
        skeleton.train(training)
        for seed in (*seeds, None):
            widths = skeleton.crops.full_widths if seed is None else drawn_widths(graph, seed)
            other = (copy.deepcopy(model) if seed is None else cut(model, graph, prefix(graph, widths))).train(
                training
            )
            given = {name: skeleton.crop(name, model.get_parameter(name), widths) for name in skeleton.names}
            found = []
            for run in (other, lambda x: skeleton.run(x, given, widths)):  # noqa: B023
                torch.manual_seed(0)  # of dropout
                with torch.no_grad():
                    found.append(logits(run(images)))
            assert found[0].abs().max() > 0
            worst = max(worst, float((found[0] - found[1]).abs().max() / found[0].abs().max()))
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert [dict(vars(module)) for module in model.modules()] == attributes
    return worst


def made(name: str) -> tuple[nn.Module, tuple[int, int, int]]:
    torch.manual_seed(0)
    if name in TORCHVISION:
        options = {"init_weights": False} if name == "googlenet" else {}
        return livened(models.get_model(name, weights=None, **options)), (3, 64, 64)
    return livened(zoo(name)), (3, 32, 32)


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=() if name in SMALL else pytest.mark.slow) for name in (*ZOO, *TORCHVISION)],
)
def test_a_skeleton_with_cropped_weights_is_the_cut_network(name: str) -> None:
    assert largest_difference(*made(name)) < 1e-6


def test_there_are_many() -> None:
    assert len(ZOO) >= 28


class Odd(nn.Module):
    """Depthwise and grouped convolutions, norms over several channels with and without weights, a concatenation, a
    flatten, and weights that stand in two places."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.narrow = nn.Conv2d(1, 8, 3, padding=1), nn.Conv2d(8, 8, 1)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.grouped = nn.Conv2d(16, 12, 3, padding=1, groups=4)
        self.norm, self.bare = nn.LayerNorm(12), nn.LayerNorm(6, elementwise_affine=False)
        self.each, self.groups = nn.GroupNorm(8, 8), nn.GroupNorm(1, 8, affine=False)
        self.act, self.bn = nn.PReLU(8), nn.BatchNorm2d(16)
        self.first, self.second = nn.Linear(12, 12), nn.Linear(12, 12)
        self.second.weight = self.first.weight
        self.last, self.head = nn.Linear(12 * 16, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.stem(x))
        x = torch.cat([self.each(self.depthwise(x)), self.groups(self.narrow(x))], 1)
        x = self.grouped(self.bn(x).relu()).permute(0, 2, 3, 1)
        x = self.second(self.first(self.norm(x)).relu()).permute(0, 3, 1, 2)
        return self.head(self.bare(self.last(x.flatten(1))))  # type: ignore[no-any-return]


def test_all_that_a_crop_of_weights_alone_gets_wrong() -> None:
    torch.manual_seed(0)
    model = livened(Odd())
    graph = channel_graph(model, (1, 4, 4))
    assert [group.name for group in graph] == ["stem", "grouped", "last"]
    assert not graph.frozen
    assert {"groups.num_channels", "bare.normalized_shape", "act.weight", "first.weight"} <= Crops(graph).names
    assert largest_difference(model, (1, 4, 4), (1, 2, 3, 4, 5, 6, 1)) < 1e-6


def test_padded_channels_of_a_shortcut() -> None:
    torch.manual_seed(0)
    model = livened(resnet(depth=8, width=4, shortcut="pad", in_channels=1, num_classes=10))
    assert largest_difference(model, (1, 8, 8), (1, 2, 3, 4, 1)) < 1e-6


def numbers(module: nn.Module) -> dict[str, Any]:
    return {name: value for name, value in vars(module).items() if isinstance(value, int | tuple)}


def test_its_attributes_are_those_of_the_cut_network(tiny: nn.Module) -> None:
    graph = channel_graph(tiny, (1, 8, 8))
    skeleton = Skeleton(tiny, graph, own_norms=True)
    for seed in (1, 2):
        widths = drawn_widths(graph, seed)
        given = {name: skeleton.crop(name, tiny.get_parameter(name), widths) for name in skeleton.names}
        skeleton.run(torch.randn(2, 1, 8, 8), given, widths)
        small = cut(tiny, graph, prefix(graph, widths))
        assert list(map(numbers, skeleton.network.modules())) == list(map(numbers, small.modules()))


def test_a_skeleton_has_no_parameters_and_its_norms_no_state(tiny: nn.Module) -> None:
    skeleton = Skeleton(tiny, channel_graph(tiny, (1, 8, 8)))
    assert not list(skeleton.parameters())
    assert not skeleton.state_dict()
    assert set(skeleton.names) == {name for name, _ in tiny.named_parameters() if ".bn" not in f".{name}"}


def test_places_are_remembered_and_not_without_end(tiny: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("compress.search.supernet.crops.MOST_KEPT", 10)
    graph = channel_graph(tiny, (1, 8, 8))
    crops, weight = Crops(graph), tiny.get_parameter("layer1.0.conv1.weight")
    for seed in range(50):
        widths = drawn_widths(graph, seed)
        assert crops("layer1.0.conv1.weight", weight, widths).data_ptr() == weight.data_ptr()
    assert len(crops._kept) <= 10


def test_places_that_an_evaluation_asked_for_serve_a_training() -> None:
    odd = [np.array([1, 3])]
    with torch.inference_mode():
        places = kept_places(5, odd, CPU)
    assert isinstance(places, Tensor)
    assert places.tolist() == [0, 2, 4]
    cropped(torch.randn(2, 5, requires_grad=True), 1, places).sum().backward()
    assert kept_places(5, [np.array([4]), np.array([3])], CPU) == 3


def test_widths_that_are_none_are_refused(tiny: nn.Module) -> None:
    graph = channel_graph(tiny, (1, 8, 8))
    full = [group.width for group in graph]
    with pytest.raises(ValueError, match=f"widths: must be {len(full)}, one per group, got 1"):
        check_widths(graph, [8])
    for wrong in (0, full[0] + 1):
        with pytest.raises(ValueError, match=rf"width of conv1: must be in \[1, {full[0]}\], got {wrong}"):
            check_widths(graph, [wrong, *full[1:]])
