"""Shared and generated weights: what is cropped when, what learns, and what it takes."""

from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from conftest import livened, zoo
from torch import Tensor, nn
from torch.nn import functional as F

from compress.graph.build import channel_graph
from compress.graph.plan import Plan
from compress.graph.types import Axis
from compress.prune.surgery import masked
from compress.search.supernet.crops import cropped
from compress.search.supernet.hypernetwork import (
    Generated,
    Hypernetwork,
    encodings,
    memory_bytes,
    parameter_count,
)
from compress.search.supernet.skeleton import Skeleton
from compress.search.supernet.weights import Shared

SHAPE = (1, 8, 8)


def skeleton_of(model: nn.Module, own_norms: bool = False) -> Skeleton:
    return Skeleton(model, channel_graph(model, SHAPE), own_norms)


def halves(skeleton: Skeleton) -> tuple[int, ...]:
    return tuple(width // 2 for width in skeleton.crops.full_widths)


@pytest.mark.parametrize("make", [Shared, lambda model, skeleton: Generated(model, skeleton, 8)])
def test_weights_at_any_widths_are_crops_of_those_at_full_width(
    make: Callable[[nn.Module, Skeleton], Shared | Generated], tiny: nn.Module
) -> None:
    skeleton = skeleton_of(tiny)
    weights = make(tiny, skeleton)
    half, full = weights.at(halves(skeleton)), weights.at(skeleton.crops.full_widths)
    assert half.keys() == full.keys() == set(skeleton.names)
    if isinstance(weights, Shared):
        for name, tensor in full.items():
            assert torch.equal(tensor, tiny.get_parameter(name))
            assert torch.equal(half[name], skeleton.crop(name, tensor, halves(skeleton)))


def test_masked_generated_weights_give_what_cropped_ones_give(tiny: nn.Module) -> None:
    """The hypernetworks see the shares of the candidate in both cases."""
    model = livened(tiny).eval()
    skeleton = skeleton_of(model, own_norms=True).eval()
    weights, widths = Generated(model, skeleton, 8), halves(skeleton)
    generated = {}
    for name, encoding in weights._encoded(widths).items():
        hypernetwork = weights._of(name)
        generated[name] = hypernetwork(encoding, hypernetwork.shape[0])
        assert generated[name].shape == model.get_parameter(name).shape
    images, graph = torch.randn(4, *SHAPE), skeleton.crops.graph
    plan = Plan({group.name: range(width) for group, width in zip(graph, widths, strict=True)})
    with torch.no_grad():
        with masked(model, graph, plan, generated) as network:
            expected = network(images)
        got = skeleton.run(images, weights.at(widths), widths)
        assert not torch.allclose(got, model(images), atol=0.1)
    assert torch.allclose(got, expected, atol=1e-5 * float(expected.abs().max()))


@pytest.mark.parametrize("outputs", [3, 5, torch.tensor([0, 2, 3])])
def test_cropping_before_the_second_layer_is_cropping_after_it(outputs: int | Tensor) -> None:
    torch.manual_seed(0)
    hypernetwork = Hypernetwork(2, 16, (5, 3, 3, 3))
    encoding = torch.tensor([0.4, 1.0])
    hidden = F.relu(hypernetwork.first(encoding))
    after = cropped(hypernetwork.second(hidden).view(5, 3, 3, 3), 0, outputs)
    assert torch.allclose(hypernetwork(encoding, outputs), after, rtol=0, atol=1e-6)
    assert not torch.allclose(hypernetwork(torch.tensor([0.8, 1.0]), outputs), after, atol=1e-3)


def test_a_weight_sees_the_shares_of_the_widths_on_its_axes(tiny: nn.Module) -> None:
    skeleton = skeleton_of(tiny)
    weights = Generated(tiny, skeleton, 8)
    names = [group.name for group in skeleton.crops.graph]
    widths = [group.width for group in skeleton.crops.graph]
    widths[names.index("conv1")], widths[names.index("layer1.0.conv1")] = 2, 4
    with torch.no_grad():
        got = weights.at(tuple(widths))["layer1.0.conv1.weight"]
        hypernetwork = weights._of("layer1.0.conv1.weight")
        expected = hypernetwork(torch.tensor([2 / 8, 4 / 8]), 4)[:, :2]
        assert torch.equal(got, expected)
        assert not torch.allclose(hypernetwork(torch.tensor([1.0, 1.0]), 4)[:, :2], expected)


def test_gradients_reach_what_is_kept_and_nothing_else_moves(tiny: nn.Module) -> None:
    skeleton = skeleton_of(tiny)
    weights, widths = Shared(tiny, skeleton), halves(skeleton)
    optimizer = torch.optim.SGD(weights.parameters(), lr=0.1, momentum=0.9)
    before = {name: tensor.detach().clone() for name, tensor in weights.full.named_parameters()}
    for _ in range(2):
        optimizer.zero_grad()
        logits = skeleton.run(torch.randn(16, *SHAPE), weights.at(widths), widths)
        F.cross_entropy(logits, torch.arange(16) % 10).backward()
        optimizer.step()
    narrowed = 0
    for name, tensor in weights.full.named_parameters():
        is_kept = torch.zeros_like(tensor, dtype=torch.bool)
        skeleton.crop(name, is_kept, widths).fill_(True)
        narrowed += not is_kept.all()
        assert tensor.grad is not None
        assert not tensor.grad[~is_kept].any()
        assert torch.equal(tensor[~is_kept], before[name][~is_kept]), name
        assert not torch.equal(tensor[is_kept], before[name][is_kept]), name
    assert narrowed >= 9  # all weights but the biases


def test_rows_of_outputs_that_are_never_kept_are_never_trained(tiny: nn.Module) -> None:
    skeleton = skeleton_of(tiny)
    weights, widths = Generated(tiny, skeleton, 8), halves(skeleton)
    skeleton.run(torch.randn(16, *SHAPE), weights.at(widths), widths).sum().backward()
    for name, module in weights.hypernetworks.items():
        assert isinstance(module, Hypernetwork)
        rows = module.second.weight.grad
        assert rows is not None
        kept = skeleton.crops.places(Axis(name.replace("/", "."), 0), module.shape[0], widths, rows.device)
        assert isinstance(kept, int)
        rows = rows.view(module.shape[0], -1)
        assert not rows[kept:].any()
        assert rows[:kept].any()


def test_every_parameter_takes_part_in_every_step(tiny: nn.Module) -> None:
    """So DDP may take the graph for static."""
    skeleton = skeleton_of(tiny)
    for weights in (Shared(tiny, skeleton), Generated(tiny, skeleton, 8)):
        for widths in (halves(skeleton), (1,) * len(skeleton.crops.full_widths)):
            weights.zero_grad()
            skeleton.run(torch.randn(4, *SHAPE), weights.at(widths), widths).sum().backward()
            assert all(parameter.grad is not None for parameter in weights.parameters())


def test_weights_are_copies_and_have_the_networks_names(tiny: nn.Module) -> None:
    tiny.get_parameter("linear.bias").requires_grad_(False)
    skeleton = skeleton_of(tiny)
    shared = dict(Shared(tiny, skeleton).full.named_parameters())
    assert tuple(shared) == skeleton.names
    assert not shared["linear.bias"].requires_grad
    assert all(shared[name].data_ptr() != tiny.get_parameter(name).data_ptr() for name in shared)


def test_hypernetworks_of_the_papers_networks_have_their_published_size() -> None:
    """ResNet-50: 776.07 million with its linear layer; of MobileNetV2 the prototype's 259 million at 64 units."""
    resnet50 = zoo("resnet50", (3, 64, 64), 1000)
    graph = channel_graph(resnet50, (3, 64, 64))
    assert round((parameter_count(resnet50, graph, 32) + 2048 * 1000 + 1000) / 1e6, 2) == 776.07
    mobilenet = zoo("mobilenetv2", (3, 64, 64), 1000, variant="paper")
    graph = channel_graph(mobilenet, (3, 64, 64))
    assert parameter_count(mobilenet, graph, 64) // 10**6 == 259
    assert memory_bytes(mobilenet, graph, 64) == 12 * parameter_count(mobilenet, graph, 64)


def test_the_papers_bottlenecks_see_their_inner_incoming_and_outgoing_widths() -> None:
    model = zoo("mobilenetv2", (3, 64, 64), variant="paper")
    graph = channel_graph(model, (3, 64, 64))
    found, names = encodings(model, graph), [group.name for group in graph]
    for index in range(17):
        block = {found[f"blocks.{index}.{conv}.0.weight"] for conv in ("expand", "dw", "project")}
        assert len(block) == 1
        assert names[block.pop()[0]] == f"blocks.{index}.expand.0"
    ends = [found[f"blocks.{index}.dw.0.weight"][1:] for index in range(17)]
    assert all(one[1] == other[0] for one, other in pairwise(ends))
    assert found["stem.0.weight"] == (0,)


def test_generated_weights_begin_at_the_scale_of_fresh_ones(tiny: nn.Module) -> None:
    skeleton = skeleton_of(tiny)
    generated = Generated(tiny, skeleton, 8).generated(skeleton.crops.full_widths)
    assert len(generated) == 9
    for name, weight in generated.items():
        assert torch.allclose(weight.square().mean(), tiny.get_parameter(name).square().mean(), rtol=1e-3), name


def test_parameters_are_counted_without_making_them(tiny: nn.Module) -> None:
    skeleton = skeleton_of(tiny)
    made = Generated(tiny, skeleton, 8).hypernetworks
    assert parameter_count(tiny, skeleton.crops.graph, 8) == sum(p.numel() for p in made.parameters())
