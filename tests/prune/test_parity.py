"""torch-pruning, given the same channels, makes the same network."""

import copy

import pytest
import torch
from conftest import livened
from torch import Tensor, nn
from torchvision import models

from compress.graph.build import channel_graph
from compress.graph.plan import Plan
from compress.graph.types import ChannelGraph
from compress.measure.macs import count_macs
from compress.models.resnet_cifar import resnet
from compress.prune.surgery import cut

torch_pruning = pytest.importorskip("torch_pruning")

NETWORKS = {
    "resnet20": lambda: resnet(depth=20, width=16, shortcut="conv", in_channels=3, num_classes=10),
    "resnet18": lambda: models.resnet18(weights=None),
    "resnet50": lambda: models.resnet50(weights=None),
    "vgg11_bn": lambda: models.vgg11_bn(weights=None),
    "mobilenet_v2": lambda: models.mobilenet_v2(weights=None),
    "mobilenet_v3_small": lambda: models.mobilenet_v3_small(weights=None),
    "densenet121": lambda: models.densenet121(weights=None),
    "squeezenet1_1": lambda: models.squeezenet1_1(weights=None),
    "efficientnet_b0": lambda: models.efficientnet_b0(weights=None),
    "googlenet": lambda: models.googlenet(weights=None, init_weights=False, aux_logits=False),
    "convnext_tiny": lambda: models.convnext_tiny(weights=None),
}


def producing(graph: ChannelGraph) -> dict[str, str]:
    """A convolution or linear layer whose outputs are just the channels of a group, per group."""
    layers = {}
    for group in graph:
        for layer in graph.layers:
            places = group.positions.get(layer.out_axis)
            if places is not None and layer.in_axis is not None and places.shape[1] == 1:
                layers.setdefault(group.name, layer.name)
    return layers


HEAVY = ("densenet121", "efficientnet_b0", "convnext_tiny")


@pytest.mark.filterwarnings("ignore")  # of torch-pruning's own
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name in HEAVY else name for name in NETWORKS]
)
def test_the_same_channels_give_the_same_macs_and_outputs(name: str) -> None:
    torch.manual_seed(0)
    shape = (3, 64, 64)
    model = livened(NETWORKS[name]()).eval()
    images = torch.randn(2, *shape)
    graph = channel_graph(model, shape)
    theirs = copy.deepcopy(model)
    dependencies = torch_pruning.DependencyGraph().build_dependency(theirs, images[:1])
    random = torch.Generator().manual_seed(0)
    kept = {}
    for group, layer in producing(graph).items():
        width = next(g.width for g in graph if g.name == group)
        stay = torch.randperm(width, generator=random)[: (width + 1) // 2].sort().values
        kept[group] = stay
        pruned = sorted(set(range(width)) - set(stay.tolist()))
        places = _places(graph, group, layer, torch.tensor(pruned))
        module = theirs.get_submodule(layer)
        prune = (
            torch_pruning.prune_linear_out_channels
            if isinstance(module, nn.Linear)
            else torch_pruning.prune_conv_out_channels
        )
        dependencies.get_pruning_group(module, prune, idxs=places.tolist()).prune()
    assert len(kept) > 0.6 * len(graph)
    small = cut(model, graph, Plan(kept))
    with torch.no_grad():
        ours, expected = small(images), theirs.eval()(images)
    assert count_macs(small, shape) == count_macs(theirs, shape) < count_macs(model, shape)
    assert torch.allclose(ours, expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))


def _places(graph: ChannelGraph, group: str, layer: str, channels: Tensor) -> Tensor:
    found = next(g for g in graph if g.name == group)
    axis = next(one.out_axis for one in graph.layers if one.name == layer)
    return found.positions[axis][channels].flatten()
