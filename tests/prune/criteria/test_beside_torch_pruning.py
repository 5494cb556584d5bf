"""Scores beside those of torch-pruning, where it has the same: in the order of importance, and up to a factor."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from conftest import CPU, livened
from torch import Tensor, nn
from torch.nn import functional as F

from compress.config.criteria import GivenBatches, criterion_of
from compress.graph.build import channel_graph
from compress.models.resnet_cifar import resnet
from compress.models.vgg import vgg
from compress.prune.criteria.criterion import makers, totals

pruning = pytest.importorskip("torch_pruning")
pytestmark = pytest.mark.slow
SHAPE = (3, 32, 32)


def network(name: str) -> nn.Module:
    torch.manual_seed(0)
    if name == "vgg":
        net = vgg(depth=11, cfg=[8, "M", 16, "M", 12, "M"], conv_bias=False, in_channels=3, num_classes=10)
    else:
        net = resnet(depth=8, width=8, shortcut="conv", in_channels=3, num_classes=10)
    return livened(net).eval()


def theirs(net: nn.Module, images: Tensor, importance: Any, roots: list[str]) -> dict[str, Tensor]:
    """By our name of a group, which is that of its first layer: scores of all channels."""
    graph = pruning.DependencyGraph().build_dependency(net, example_inputs=images)
    found = {}
    for name in roots:
        layer = net.get_submodule(name)
        group = graph.get_pruning_group(layer, pruning.prune_conv_out_channels, idxs=list(range(layer.out_channels)))
        found[name] = importance(group).detach().double()
    return found


def images() -> tuple[Tensor, Tensor]:
    random = torch.Generator().manual_seed(0)
    return torch.randn(16, *SHAPE, generator=random), torch.randint(10, (16,), generator=random)


CASES: dict[str, tuple[dict[str, Any], Callable[[], Any]]] = {
    "l1": (
        {"side": "both"},
        lambda: pruning.importance.GroupMagnitudeImportance(
            p=1, group_reduction="sum", normalizer=None, target_types=[nn.Conv2d, nn.Linear]
        ),
    ),
    "bn_scale": ({}, lambda: pruning.importance.BNScaleImportance(group_reduction="sum", normalizer=None)),
    # theirs is the square of the norm; with p=2 its fpgm compares squares of weights
    "l2": (
        {"side": "makers"},
        lambda: pruning.importance.GroupMagnitudeImportance(
            p=2, group_reduction="first", normalizer=None, target_types=[nn.Conv2d]
        ),
    ),
    "fpgm": (
        {"normalise": "none"},
        lambda: pruning.importance.FPGMImportance(p=1, group_reduction="first", normalizer=None),
    ),
    "taylor": (
        {"of": "filters", "measure": "abs"},
        lambda: pruning.importance.GroupTaylorImportance(
            group_reduction="first", normalizer=None, multivariable=True
        ),
    ),
}


@pytest.mark.parametrize("kind", ["resnet", "vgg"])
@pytest.mark.parametrize("name", CASES)
def test_the_scores_are_those_of_torch_pruning(name: str, kind: str) -> None:
    settings, importance = CASES[name]
    net = network(kind)
    if name == "fpgm":  # theirs compares absolute values
        with torch.no_grad():
            for parameter in net.parameters():
                parameter.abs_()
    x, labels = images()
    graph = channel_graph(net, SHAPE)
    ours = totals(criterion_of(name, **settings)(net, graph, GivenBatches([(x, labels)], CPU, 0, name)))
    F.cross_entropy(net(x), labels).backward()
    # sums over a residual stream are the same; the first of its layers alone we have not
    compared = [g.name for g in graph if name in ("l1", "bn_scale") or len(makers(graph, g)) == 1]
    found = theirs(net, x, importance(), compared)
    assert len(found) >= 3
    for group, score in found.items():
        mine = ours[group] ** 2 if name == "l2" else ours[group]
        torch.testing.assert_close(mine, score, rtol=1e-3, atol=1e-6)
