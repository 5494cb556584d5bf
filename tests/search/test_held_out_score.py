"""Scores of really cut networks are those of masked ones: the same images right, to one in rounding."""

import pytest
import torch
from conftest import livened, random_plan, zoo
from torch import nn

from compress.graph.build import channel_graph
from compress.measure.accuracy import accuracy
from compress.prune.surgery import Masks, cut
from compress.search.scorers.evaluate import HeldOutScore

NETWORKS = [
    "mobilenetv1", "mobilenetv2", "mobilenet_v2", "resnet20", "resnet56_cs", "vgg16_bn", "resnet18", "resnet50",
]  # fmt: skip


def labelled(model: nn.Module, count: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Images of noise, which the network itself has labelled."""
    images = torch.randn(count, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return [(x, model(x).argmax(1)) for x in images.split(20)]


@pytest.mark.parametrize("name", NETWORKS)
def test_cut_folded_and_reordered_it_scores_as_masked(name: str) -> None:
    model = livened(zoo(name)).eval()
    graph = channel_graph(model, (3, 32, 32))
    batches = labelled(model, 60)
    scores, masks = HeldOutScore(model, graph, batches), Masks(model, graph)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    for seed, share in enumerate((0.4, 0.8)):
        plan = random_plan(graph, share, seed)
        random = torch.Generator().manual_seed(seed)
        last = graph[-1].consumers[-1]
        weight = model.get_parameter(f"{last}.weight")
        weights = {f"{last}.weight": weight.detach() * (0.5 + torch.rand(weight.shape, generator=random))}
        got = scores(plan, weights)
        with masks(plan, weights) as masked:
            expected = accuracy(masked, batches)
        assert abs(got.top1 - expected.top1) <= 100 / 60 + 1e-9
        assert abs(got.top5 - expected.top5) <= 100 / 60 + 1e-9
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_weights_can_be_given_to_a_cut() -> None:
    net = nn.Sequential(nn.Conv2d(1, 3, 1), nn.ReLU(), nn.Conv2d(3, 2, 1), nn.Flatten()).eval()
    graph = channel_graph(net, (1, 2, 2))
    given = {"2.weight": torch.arange(6.0).view(2, 3, 1, 1), "2.bias": torch.tensor([7.0, 8.0])}
    small = cut(net, graph, random_plan(graph, 0.67), given)
    kept = random_plan(graph, 0.67).kept["0"]
    assert torch.equal(small.get_parameter("2.weight"), given["2.weight"][:, list(kept)])
    assert torch.equal(small.get_parameter("2.bias"), given["2.bias"])
    assert isinstance(small.get_parameter("2.bias"), nn.Parameter)
    assert small.get_parameter("2.bias").data_ptr() != given["2.bias"].data_ptr()
    assert not torch.equal(net.get_parameter("2.bias"), given["2.bias"])
