"""Masked equals cut, keep-all is identity, the cost model equals fvcore."""

import json
from typing import Any

import numpy as np
import pytest
import torch
from conftest import ORACLES, livened, random_plan
from torch import Tensor, nn
from torchvision import models

from compress.graph.build import channel_graph
from compress.graph.plan import Plan, plan_from_json
from compress.measure.macs import count_macs, count_params
from compress.models.mobilenetv1 import mobilenetv1
from compress.models.resnet_cifar import resnet
from compress.prune.cost import cost_model
from compress.prune.surgery import Masks, cut, difference, masked


def zoo() -> dict[str, tuple[Any, tuple[int, int, int]]]:
    def tv(name: str, **options: Any) -> Any:
        return lambda: models.get_model(name, weights=None, **options)

    return {
        "resnet20 conv": (
            lambda: resnet(depth=20, width=16, shortcut="conv", in_channels=3, num_classes=10),
            (3, 32, 32),
        ),
        "resnet20 pad": (
            lambda: resnet(depth=20, width=16, shortcut="pad", in_channels=3, num_classes=10),
            (3, 32, 32),
        ),
        "mobilenetv1": (lambda: mobilenetv1(width=0.5, stem_stride=2, in_channels=1, num_classes=10), (1, 32, 32)),
        "resnet18": (tv("resnet18"), (3, 64, 64)),
        "resnext50_32x4d": (tv("resnext50_32x4d"), (3, 64, 64)),
        "mobilenet_v2": (tv("mobilenet_v2"), (3, 64, 64)),
        "mobilenet_v3_small": (tv("mobilenet_v3_small"), (3, 64, 64)),
        "squeezenet1_1": (tv("squeezenet1_1"), (3, 64, 64)),
        "densenet121": (tv("densenet121"), (3, 64, 64)),
        "shufflenet_v2_x0_5": (tv("shufflenet_v2_x0_5"), (3, 64, 64)),
        "googlenet": (tv("googlenet", init_weights=False), (3, 64, 64)),
        "convnext_tiny": (tv("convnext_tiny"), (3, 64, 64)),
        "efficientnet_b0": (tv("efficientnet_b0"), (3, 64, 64)),
        "regnet_y_400mf": (tv("regnet_y_400mf"), (3, 64, 64)),
    }


HEAVY = ("densenet121", "efficientnet_b0", "convnext_tiny")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name in HEAVY else name for name in zoo()]
)
def test_masked_equals_cut_and_the_cost_model_equals_fvcore(name: str) -> None:
    make, shape = zoo()[name]
    torch.manual_seed(0)
    model = livened(make())
    graph = channel_graph(model, shape)
    assert graph.groups
    cost = cost_model(model, graph, shape)
    assert cost.fixed_macs == 0  # every MAC is a layer's
    plan = random_plan(graph, 0.5)
    small = cut(model, graph, plan)
    assert difference(model, small, graph, plan, torch.randn(2, *shape)) < 1e-10
    widths = graph.widths(plan)
    assert cost.macs(widths)[0] == count_macs(small, shape) < cost.full_macs
    assert cost.params(widths)[0] == count_params(small)
    outputs = small.train()(torch.randn(2, *shape))
    (sum(outputs).sum() if isinstance(outputs, tuple) else outputs.sum()).backward()
    assert all(p.grad is not None and p.grad.shape == p.shape for p in small.parameters())


@pytest.mark.parametrize("name", ["resnext50_32x4d", "regnet_y_400mf", "mobilenet_v2"])
def test_one_channel_per_group_is_still_a_network(name: str) -> None:
    make, shape = zoo()[name]
    model = livened(make())
    graph = channel_graph(model, shape)
    plan = Plan({group.name: (group.width // 2,) for group in graph.groups})
    assert difference(model, cut(model, graph, plan), graph, plan, torch.randn(2, *shape)) < 1e-10


@pytest.mark.parametrize("norm", [nn.LayerNorm(64), nn.GroupNorm(4, 64), nn.GroupNorm(64, 64), nn.GroupNorm(1, 64)])
@pytest.mark.parametrize("share", [0.9, 0.5, 0.1])
def test_norms_over_several_channels_keep_their_order_at_any_share(norm: nn.Module, share: float) -> None:
    class Normed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.norm, self.b = nn.Conv2d(3, 64, 1), norm, nn.Linear(64, 5)

        def forward(self, x: Tensor) -> Tensor:
            x = self.a(x)
            if isinstance(self.norm, nn.LayerNorm):
                x = self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
            else:
                x = self.norm(x)
            return self.b(x.square().mean((2, 3)))

    model = Normed()
    for tensor in norm.parameters():
        nn.init.uniform_(tensor, 0.5, 2)
    graph = channel_graph(model, (3, 4, 4))
    plan = random_plan(graph, share)
    small = cut(model, graph, plan)
    assert len(small.get_parameter("norm.weight")) == round(share * graph[0].width) * 64 // graph[0].width
    assert difference(model, small, graph, plan, torch.randn(2, 3, 4, 4)) < 1e-12
    assert "forward" not in vars(model.norm)  # the mask is off again


def test_a_wrong_cut_fails_the_law() -> None:
    """Breaking surgery once: another channel of one batch norm, and the law must notice."""
    model = livened(resnet(depth=8, width=8, shortcut="conv", in_channels=3, num_classes=10))
    graph = channel_graph(model, (3, 16, 16))
    plan = Plan({"conv1": (0, 1, 2, 3)})
    images = torch.randn(2, 3, 16, 16)
    small = cut(model, graph, plan)
    assert difference(model, small, graph, plan, images) < 1e-10
    with torch.no_grad():
        small.get_parameter("bn1.bias").copy_(model.get_parameter("bn1.bias")[4:])
    assert difference(model, small, graph, plan, images) > 1e-3


def test_keeping_all_is_identity(tiny: nn.Module) -> None:
    graph = channel_graph(tiny, (1, 8, 8))
    x = torch.randn(3, 1, 8, 8)
    tiny.eval()
    for plan in (Plan(), Plan({group.name: tuple(range(group.width)) for group in graph.groups})):
        assert torch.equal(cut(tiny, graph, plan)(x), tiny(x))


def test_cutting_leaves_the_model_and_the_small_one_inherits_its_state(tiny: nn.Module) -> None:
    graph = channel_graph(tiny, (1, 8, 8))
    tiny.get_parameter("conv1.weight").requires_grad_(False)
    tiny.train()
    before = {name: value.clone() for name, value in tiny.state_dict().items()}
    small = cut(tiny, graph, random_plan(graph, 0.25))
    assert all(torch.equal(value, before[name]) for name, value in tiny.state_dict().items())
    assert small.training
    assert not small.get_parameter("conv1.weight").requires_grad
    assert small.get_parameter("linear.weight").requires_grad
    conv = small.get_submodule("conv1")
    assert isinstance(conv, nn.Conv2d)
    assert (conv.in_channels, conv.out_channels) == (1, 2)


def test_what_does_not_train_does_not_train_when_cut(tiny: nn.Module) -> None:
    frozen = {"conv1.weight", "layer1.0.bn1.bias"}
    for name in frozen:
        tiny.get_parameter(name).requires_grad_(False)
    graph = channel_graph(tiny, (1, 8, 8))
    small = cut(tiny, graph, random_plan(graph, 0.5))
    assert small.get_parameter("conv1.weight").shape != tiny.get_parameter("conv1.weight").shape
    assert {name for name, parameter in small.named_parameters() if not parameter.requires_grad} == frozen


def test_no_grad_and_inference_mode_of_the_caller_do_not_reach_the_small_one(tiny: nn.Module) -> None:
    graph = channel_graph(tiny, (1, 8, 8))
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            small = cut(tiny, graph, random_plan(graph, 0.5))
            assert not torch.is_grad_enabled()
        small(torch.randn(2, 1, 8, 8)).sum().backward()
        assert all(p.grad is not None for p in small.parameters())
        assert all(p.requires_grad and p.grad is None for p in tiny.parameters())


def test_modes_of_single_modules_stay_as_they_were(tiny: nn.Module) -> None:
    tiny.train()
    tiny.get_submodule("bn1").eval()  # a frozen batch norm
    before = [module.training for module in tiny.modules()]
    graph = channel_graph(tiny, (1, 8, 8))
    cost_model(tiny, graph, (1, 8, 8))
    small = cut(tiny, graph, random_plan(graph, 0.5))
    assert [module.training for module in tiny.modules()] == before == [module.training for module in small.modules()]


def test_masks_for_many_plans_are_the_same_masks(tiny: nn.Module) -> None:
    graph = channel_graph(tiny, (1, 8, 8))
    masks, images = Masks(tiny.eval(), graph), torch.randn(2, 1, 8, 8)
    before = {name: value.clone() for name, value in tiny.state_dict().items()}
    with torch.no_grad():
        for seed in range(5):
            plan = random_plan(graph, 0.3 + 0.1 * seed, seed)
            with masks(plan) as net:
                again = net(images)
            with masked(tiny, graph, plan) as net:
                assert torch.equal(again, net(images))
            assert torch.allclose(again, cut(tiny, graph, plan)(images), atol=1e-5)
    assert all(torch.equal(value, before[name]) for name, value in tiny.state_dict().items())


def test_a_mask_is_lifted_even_after_an_error(tiny: nn.Module) -> None:
    graph = channel_graph(tiny, (1, 8, 8))
    before = {name: value.clone() for name, value in tiny.state_dict().items()}
    new = {"linear.weight": torch.ones_like(tiny.get_parameter("linear.weight"))}
    with pytest.raises(RuntimeError, match="inside"), masked(tiny, graph, random_plan(graph, 0.5), new):
        assert not torch.equal(tiny.get_parameter("linear.weight"), before["linear.weight"])
        raise RuntimeError("inside")
    assert all(torch.equal(value, before[name]) for name, value in tiny.state_dict().items())


def test_plans_are_plain_data_and_refuse_nonsense(tiny: nn.Module) -> None:
    plan = Plan({"conv1": (1, 4)})
    assert plan_from_json(json.loads(json.dumps(plan.to_json()))) == plan
    graph = channel_graph(tiny, (1, 8, 8))
    with pytest.raises(ValueError, match="plan empties group 'conv1', which is read by add"):
        cut(tiny, graph, Plan({"conv1": ()}))
    with pytest.raises(ValueError, match="once, ascending"):
        Plan({"conv1": (4, 1)})
    with pytest.raises(ValueError, match="plan names group 'convX'; there are conv1, "):
        cut(tiny, graph, Plan({"convX": (0,)}))
    with pytest.raises(ValueError, match=r"channels must be in \[0, 8\)"):
        cut(tiny, graph, Plan({"conv1": (8,)}))
    with pytest.raises(ValueError, match=r"channels must be in \[0, 8\)"):
        cut(tiny, graph, Plan({"conv1": (-1, 3)}))
    with pytest.raises(ValueError, match="once, ascending"):
        Plan({"conv1": (4, 4)})
    with pytest.raises(ValueError, match="must be a list of whole numbers"):
        Plan({"conv1": (False, True)})


def test_batches_of_plans_are_priced_at_once_and_more_channels_never_cost_less(tiny: nn.Module) -> None:
    graph = channel_graph(tiny, (1, 8, 8))
    cost = cost_model(tiny, graph, (1, 8, 8))
    random = np.random.default_rng(0)
    batch = random.integers(1, cost.full_widths + 1, (200, len(graph.groups)))
    assert cost.macs(batch).tolist() == [cost.macs(row)[0] for row in batch]
    more = np.minimum(batch + 1, cost.full_widths)
    assert (cost.macs(more) >= cost.macs(batch)).all()
    assert cost.macs(cost.full_widths)[0] == cost.full_macs


def test_a_hundred_thousand_plans_of_resnet50_have_exact_prices() -> None:
    model = models.resnet50(weights=None)
    graph = channel_graph(model, (3, 224, 224))
    cost = cost_model(model, graph, (3, 224, 224))
    random = np.random.default_rng(0)
    batch = random.integers(1, cost.full_widths + 1, (100_000, len(graph)))
    prices = cost.macs(batch)
    assert prices.shape == (100_000,)
    for at in random.integers(0, 100_000, 3):
        plan = Plan({name: range(width) for name, width in zip(cost.names, batch[at].tolist(), strict=True)})
        assert prices[at] == cost.macs(plan) == count_macs(cut(model, graph, plan), (3, 224, 224))


def test_every_published_amc_strategy_has_its_published_macs() -> None:
    """MobileNetV1 at 224 px; `channels` are input channels of conv1, the pointwise convs and the classifier."""
    oracle = json.loads((ORACLES / "amc_flops.json").read_text())
    model = mobilenetv1(width=1.0, stem_stride=2, in_channels=3, num_classes=1000)
    graph = channel_graph(model, (3, 224, 224))
    cost = cost_model(model, graph, (3, 224, 224))
    bias = 1000  # the published count adds the classifier's
    assert cost.full_macs + bias == oracle["full"]["macs"]
    assert cost.params(cost.full_widths)[0] == oracle["full"]["params"]
    assert len(oracle["rows"]) >= 11
    for row in oracle["rows"]:
        assert cost.macs(row["channels"][1:])[0] + bias == row["macs"], row["id"]
        assert cost.params(row["channels"][1:])[0] == row["params"], row["id"]


def test_two_hundred_candidates_leave_no_memory_behind(tiny: nn.Module) -> None:
    import gc
    import resource

    graph = channel_graph(tiny, (1, 8, 8))
    images = torch.randn(4, 1, 8, 8)

    def candidates(count: int) -> int:
        with torch.no_grad():
            for seed in range(count):
                plan = random_plan(graph, 0.5, seed)
                with masked(tiny, graph, plan) as net:
                    net(images)
                cut(tiny, graph, plan)
        gc.collect()
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    def convolutions() -> int:
        return sum(type(thing) is nn.Conv2d for thing in gc.get_objects())

    before = candidates(20)
    held = convolutions()  # by other tests of this process too
    assert candidates(200) - before < 20_000  # KiB
    assert convolutions() <= held


def test_hidden_state_of_dropped_channels_cannot_leak() -> None:
    """A sigmoid of nothing is 0.5: a mask on what produces a channel would leave that behind."""

    class Gate(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Conv2d(1, 4, 1), nn.Conv2d(4, 2, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.b(torch.sigmoid(self.a(x))).mean((2, 3))

    model = Gate()
    graph = channel_graph(model, (1, 3, 3))
    plan = Plan({"a": (0, 2)})
    assert difference(model, cut(model, graph, plan), graph, plan, torch.randn(2, 1, 3, 3)) < 1e-12


class Oblong(nn.Module):
    """A convolution with a stride on images that are no squares, tokens, and attention, which has no weights."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.conv = nn.Conv2d(3, 8, 3, (2, 1), 1), nn.Conv2d(8, 6, (1, 3))
        self.tokens, self.head = nn.Linear(6, 4), nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        tokens = self.tokens(self.conv(self.stem(x).relu()).relu().flatten(2).transpose(1, 2))
        return self.head(nn.functional.scaled_dot_product_attention(tokens, tokens, tokens).mean(1))  # type: ignore[no-any-return]


def test_prices_of_a_network_that_is_no_square_by_hand() -> None:
    model, shape = Oblong(), (3, 6, 10)
    graph = channel_graph(model, shape)
    cost = cost_model(model, graph, shape)
    places = 3 * 8  # that the second convolution leaves

    def by_hand(stem: int, conv: int) -> int:
        convolutions = 9 * 3 * stem * 3 * 10 + 3 * stem * conv * places
        return convolutions + places * conv * 4 + places * places * (4 + 4) + 4 * 2

    for stem, conv in ((8, 6), (5, 6), (8, 2), (3, 1)):
        plan = Plan({"stem": range(stem), "conv": range(conv)})
        assert cost.macs(plan) == by_hand(stem, conv) == count_macs(cut(model, graph, plan), shape)
        assert cost.params(plan) == 27 * stem + stem + 3 * stem * conv + conv + 4 * conv + 4 + 4 * 2 + 2
