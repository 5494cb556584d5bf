"""The published mask (gamma and beta zero) and the cut network are one network; what breaks that is seen."""

from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from conftest import CPU, compose_config, livened, zoo
from torch import Tensor, nn

from compress.config.build import make
from compress.graph.build import channel_graph
from compress.graph.plan import Plan
from compress.graph.types import ChannelGraph
from compress.methods.slimming.slimming import Slimming
from compress.models.preresnet import Block, preresnet
from compress.prune.cost import cost_model
from compress.prune.method import Problem
from compress.prune.scales import norms_of, scales_of
from compress.prune.surgery import cut
from compress.schema.settings import Budget

SHAPE, CLOSE = (3, 32, 32), 1e-5
SLIMMING: Slimming = make(compose_config("method=slimming")["method"])
NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "vgg16_bn": lambda: zoo("vgg16_bn", SHAPE, conv_bias=False),
    "vgg16_bn with biases": lambda: zoo("vgg16_bn", SHAPE, conv_bias=True),
    "resnet20_cs": lambda: zoo("resnet20_cs", SHAPE),
    "resnet56_cs": lambda: zoo("resnet56_cs", SHAPE),
    "resnet8x4_cs": lambda: zoo("resnet8x4_cs", SHAPE),
    "preresnet": lambda: preresnet(depth=20, selection=True, cfg=None, in_channels=3, num_classes=10),
}
WITH_SHORTCUTS = ["resnet20_cs", "resnet56_cs", "resnet8x4_cs", "preresnet"]


class Case:
    """A network with lively batch norms (and biases), what slimming keeps of half, and images."""

    def __init__(self, name: str) -> None:
        torch.manual_seed(0)
        self.model = livened(NETWORKS[name]()).eval()
        random = torch.Generator().manual_seed(1)
        for module in self.model.modules():
            if isinstance(module, nn.Conv2d | nn.Linear) and module.bias is not None:
                module.bias.data.copy_(torch.randn(len(module.bias), generator=random) * 0.3)
        self.graph = channel_graph(self.model, SHAPE)
        self.plan = self.decide(0.5)
        self.images = torch.randn(4, *SHAPE, generator=random)

    def decide(self, percent: float) -> Plan:
        cost, data = cost_model(self.model, self.graph, SHAPE), SimpleNamespace(shape=SHAPE)
        any_data: Any = data
        problem = Problem(self.model, self.graph, cost, any_data, Budget("percent", percent), CPU, 0)
        return SLIMMING.plan(problem, None).plan

    @torch.no_grad()
    def apart(self, small: nn.Module, with_beta: bool = True) -> float:
        expected = published_mask(self.model, self.graph, self.plan, with_beta)(self.images)
        return float((expected - small.eval()(self.images)).abs().max())


CASES: dict[str, Case] = {}


@pytest.fixture
def case(request: pytest.FixtureRequest) -> Case:
    if request.param not in CASES:
        CASES[request.param] = Case(request.param)
    return CASES[request.param]


def published_mask(model: nn.Module, graph: ChannelGraph, plan: Plan, with_beta: bool = True) -> nn.Module:
    """A copy with gamma *= m and beta *= m at the batch norm of each group."""
    masked = cut(model, graph, Plan())  # all of it
    for group, parts in zip(graph, scales_of(model, graph).values(), strict=True):
        mask = torch.zeros(group.width)
        mask[list(plan.kept[group.name])] = 1
        (scale,) = parts
        norm = masked.get_submodule(scale.norm)
        assert isinstance(norm, nn.BatchNorm2d)
        norm.weight.data *= mask
        if with_beta:
            norm.bias.data *= mask
    return masked.eval()


@pytest.mark.parametrize("case", NETWORKS, indirect=True)
def test_masked_is_rebuilt(case: Case) -> None:
    small = cut(case.model, case.graph, case.plan)
    assert case.apart(small) < CLOSE
    with torch.no_grad():
        assert (case.model(case.images) - small.eval()(case.images)).abs().max() > 100 * CLOSE  # something was cut


@pytest.mark.parametrize("case", NETWORKS, indirect=True)
def test_a_beta_that_stays_is_seen(case: Case) -> None:
    assert case.apart(cut(case.model, case.graph, case.plan), with_beta=False) > 1000 * CLOSE


@pytest.mark.parametrize("case", ["vgg16_bn with biases"], indirect=True)
def test_a_conv_bias_that_is_not_copied_is_seen(case: Case) -> None:
    small = cut(case.model, case.graph, case.plan)
    for module in small.modules():
        if isinstance(module, nn.Conv2d):
            assert module.bias is not None
            nn.init.zeros_(module.bias)
    assert case.apart(small) > 1000 * CLOSE


@pytest.mark.parametrize("case", WITH_SHORTCUTS, indirect=True)
def test_a_shortcut_that_is_not_copied_is_seen(case: Case) -> None:
    small = cut(case.model, case.graph, case.plan)
    shortcuts = [m.shortcut for m in small.modules() if isinstance(m, Block) and isinstance(m.shortcut, nn.Conv2d)]
    assert len(shortcuts) == 3
    for shortcut in shortcuts:
        shortcut.reset_parameters()
    assert case.apart(small) > 1000 * CLOSE


@pytest.mark.parametrize("case", NETWORKS, indirect=True)
def test_a_classifier_bias_that_is_not_copied_is_seen(case: Case) -> None:
    small = cut(case.model, case.graph, case.plan)
    (linear,) = (module for module in small.modules() if isinstance(module, nn.Linear))
    nn.init.zeros_(linear.bias)
    assert case.apart(small) > 1000 * CLOSE


@pytest.mark.parametrize("case", ["vgg16_bn with biases"], indirect=True)
def test_vgg_by_hand(case: Case) -> None:
    """Convolutions by both masks, batch norms by their own, the classifier by the last; its bias whole."""
    small, read = cut(case.model, case.graph, case.plan), torch.arange(3)
    for group, norm in zip(case.graph, norms_of(case.model), strict=True):
        kept = torch.tensor(case.plan.kept[group.name])
        conv, old = small.get_submodule(group.name), case.model.get_submodule(group.name)
        assert torch.equal(conv.weight, old.weight[kept][:, read])
        assert torch.equal(conv.bias, old.bias[kept])
        for name in ("weight", "bias", "running_mean", "running_var"):
            assert torch.equal(
                getattr(small.get_submodule(norm), name), getattr(case.model.get_submodule(norm), name)[kept]
            )
        read = kept
    assert torch.equal(
        small.get_parameter("classifier.weight"), case.model.get_parameter("classifier.weight")[:, read]
    )
    assert torch.equal(small.get_parameter("classifier.bias"), case.model.get_parameter("classifier.bias"))


@pytest.mark.parametrize("case", ["resnet20_cs", "resnet8x4_cs"], indirect=True)
def test_a_pre_activation_network_by_hand(case: Case) -> None:
    """The stream keeps its width: first norms, shortcuts, stem and last outputs are whole."""
    small = cut(case.model, case.graph, case.plan)

    def same(name: str, expected: Tensor) -> None:
        assert torch.equal(small.get_parameter(name), expected), name

    def old(name: str) -> Tensor:
        return case.model.get_parameter(name)

    same("conv1.weight", old("conv1.weight"))
    for name, block in case.model.named_modules():
        if not isinstance(block, Block):
            continue
        entry, inner = (torch.tensor(case.plan.kept[f"{name}.{at}"]) for at in ("select", "conv1"))
        assert torch.equal(small.get_buffer(f"{name}.select.indices"), entry)
        for part in ("weight", "bias"):
            same(f"{name}.bn1.{part}", old(f"{name}.bn1.{part}"))
            same(f"{name}.bn2.{part}", old(f"{name}.bn2.{part}")[inner])
        same(f"{name}.conv1.weight", old(f"{name}.conv1.weight")[inner][:, entry])
        same(f"{name}.conv2.weight", old(f"{name}.conv2.weight")[:, inner])
        if isinstance(block.shortcut, nn.Conv2d):
            same(f"{name}.shortcut.weight", old(f"{name}.shortcut.weight"))
    last = torch.tensor(case.plan.kept["select"])
    same("bn.weight", old("bn.weight"))
    same("fc.weight", old("fc.weight")[:, last])
    same("fc.bias", old("fc.bias"))


@pytest.mark.parametrize("case", ["resnet20_cs", "vgg16_bn"], indirect=True)
def test_a_network_cut_twice_is_the_one_cut_once(case: Case) -> None:
    """The scales of what is left have not changed, so to go on from 30 % to 50 % is to go to 50 %."""
    first = cut(case.model, case.graph, case.decide(0.3))
    graph = channel_graph(first, SHAPE)
    count, left = (sum(group.width for group in found) for found in (case.graph, graph))
    gone = int(count * 0.5) + 1 - (count - left)
    cost, any_data = cost_model(first, graph, SHAPE), SimpleNamespace(shape=SHAPE)
    data: Any = any_data
    problem = Problem(first, graph, cost, data, Budget("percent", (gone + 0.5) / left), CPU, 0)
    second = cut(first, graph, replace(SLIMMING, select="rank").plan(problem, None).plan)
    once = cut(case.model, case.graph, case.plan)
    assert {name: tensor.shape for name, tensor in second.state_dict().items()} == {
        name: tensor.shape for name, tensor in once.state_dict().items()
    }
    assert case.apart(second) < CLOSE
