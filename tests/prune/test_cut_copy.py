"""A copy that is cut again and again is the network that a cut makes, to the bit, whatever it was before."""

import pytest
import torch
from conftest import livened, random_plan, zoo
from torch import Tensor, nn
from torchvision import models

from compress.graph.build import channel_graph
from compress.graph.plan import Plan
from compress.prune.surgery import CutCopy, cut

ZOO = ("mobilenetv1", "resnet20", "resnet56_cs", "vgg16_bn")
TORCHVISION = ("shufflenet_v2_x0_5", "mobilenet_v3_small", "googlenet", "regnet_y_400mf")


def plain_attributes(network: nn.Module) -> list[dict[str, object]]:
    """Of every module: numbers, flags and shapes."""
    return [
        {name: value for name, value in vars(module).items() if isinstance(value, int | float | str | tuple)}
        for module in network.modules()
    ]


def given_weights(model: nn.Module, seed: int) -> dict[str, Tensor]:
    """Other values for every third tensor, at full shape."""
    random = torch.Generator().manual_seed(seed)
    return {
        name: tensor.detach() * (0.5 + torch.rand(tensor.shape, generator=random))
        for name, tensor in list(model.state_dict().items())[::3]
        if tensor.is_floating_point()
    }


def check_is_the_cut_network(model: nn.Module) -> None:
    graph = channel_graph(model, (3, 32, 32))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    images, copies = torch.randn(2, 3, 32, 32), CutCopy(model, graph)
    assert len(graph) > 5
    for seed, share in enumerate((0.3, 0.9, 0.6)):
        plan = random_plan(graph, share, seed)
        weights = given_weights(model, seed) if seed != 1 else None  # what was given before must be gone
        small, again = cut(model, graph, plan, weights), copies(plan, weights)
        got, expected = again.state_dict(), small.state_dict()
        assert all(torch.equal(got[name], tensor) for name, tensor in expected.items())
        assert plain_attributes(again) == plain_attributes(small)
        with torch.no_grad():
            assert torch.equal(again(images), small(images))
            again.train()(images)  # statistics change in place
            again.eval()
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("name", ZOO)
def test_a_copy_that_is_cut_again_is_the_cut_network(name: str) -> None:
    check_is_the_cut_network(livened(zoo(name)).eval())


def test_padding_is_reset_by_a_plan_that_drops_none_of_it() -> None:
    """The shortcuts of the published CIFAR networks pad channels; how many depends on the groups on both sides."""
    model = livened(zoo("resnet20", shortcut="pad")).eval()
    graph, images = channel_graph(model, (3, 32, 32)), torch.randn(2, 3, 32, 32)
    copies = CutCopy(model, graph)
    for plan in (random_plan(graph, 0.5, 0), Plan(), random_plan(graph, 0.5, 1), random_plan(graph, 0.9, 2)):
        assert torch.equal(copies(plan)(images), cut(model, graph, plan)(images))


@pytest.mark.parametrize("name", TORCHVISION)
def test_so_it_is_of_other_networks(name: str) -> None:
    options = {"init_weights": False} if name == "googlenet" else {}
    check_is_the_cut_network(livened(models.get_model(name, weights=None, **options)).eval())


def test_it_follows_the_network_and_refuses_to_empty_a_group(tiny: nn.Module) -> None:
    graph = channel_graph(tiny.eval(), (1, 8, 8))
    copies, plan = CutCopy(tiny, graph), random_plan(graph, 0.5)
    copies(plan)
    with torch.no_grad():
        next(tiny.parameters()).add_(1)
    expected = cut(tiny, graph, plan).state_dict()
    assert all(torch.equal(copies(plan).state_dict()[name], tensor) for name, tensor in expected.items())
    name = next(group.name for group in graph)
    with pytest.raises(ValueError, match="keep"):
        copies(Plan({name: ()}))
