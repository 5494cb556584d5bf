"""The law that every cut network is held to, and a small network to hold things to it."""

import random
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from compress.graph.build import channel_graph
from compress.graph.plan import Plan
from compress.graph.types import ChannelGraph
from compress.measure.macs import count_params
from compress.models.unchanged import copy_replacing
from compress.prune.cost import cost_model
from compress.prune.order import channel_orders
from compress.prune.surgery import CutCopy, cut, masked

SHAPE = (3, 8, 8)
SIZES = (8, 12)  # of the images that the law is tried on; found on the first


class Around(nn.Module):
    """`body` of a convolution's 16 channels and of itself, and a head for what comes out."""

    def __init__(self, body: Callable[[Any, Tensor], Tensor], out: int = 16, **parts: Any) -> None:
        super().__init__()
        self.stem, self.body, self.head = nn.Conv2d(3, 16, 3, padding=1), body, nn.Linear(out, 5)
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, x: Tensor) -> Tensor:
        y = self.body(self, self.stem(x).relu())
        return self.head(y.mean(tuple(range(2, y.dim()))) if y.dim() > 2 else y)  # type: ignore[no-any-return]


class Runs(nn.Module):
    """A network of named parts and of a function of it and of the inputs."""

    def __init__(self, run: Callable[..., Any], **parts: Any) -> None:
        super().__init__()
        self.run = run
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.run(self, *args, **kwargs)


def uneven_plan(graph: ChannelGraph, draw: random.Random) -> Plan:
    """Of every group some channels, at least one."""
    return Plan({g.name: sorted(draw.sample(range(g.width), draw.randint(1, g.width))) for g in graph})


def widths(graph: ChannelGraph) -> dict[str, int]:
    return {group.name: group.width for group in graph}


def flops(model: nn.Module, images: Tensor) -> int:
    """By torch's own counter, on the meta device, where no kernel is fused."""
    on_meta = copy_replacing(model, {}).to("meta").eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        on_meta(images[:1].to("meta"))
    return counter.get_total_flops() // 2


def check_law(model: nn.Module, counted: bool = True) -> ChannelGraph:
    """For uneven plans, at two sizes, in both modes: masked equals cut, prices are counts, the model as it was."""
    torch.manual_seed(0)
    model.double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.rand_like(parameter))
    state = {name: value.clone() for name, value in model.state_dict().items()}
    held = {name: dict(vars(module)) for name, module in model.named_modules()}
    graph = channel_graph(model, SHAPE)
    prices = cost_model(model, graph, SHAPE)
    again = CutCopy(model, graph)
    draw = random.Random(0)
    for _ in range(3):
        plan = uneven_plan(graph, draw)
        small = cut(model, graph, plan)
        for size, training in ((SIZES[0], False), (SIZES[1], False), (SIZES[0], True)):
            images = torch.randn(2, 3, size, size, dtype=torch.float64)
            with masked(model.train(training), graph, plan):
                expected = model(images).detach()
            model.load_state_dict(state)  # batch norms have counted
            near = 1e-12 * float(expected.abs().max())
            for network in (small, again(plan)):
                assert torch.allclose(network.train(training)(images), expected, rtol=0, atol=near)
        small(images).sum().backward()
        assert not counted or prices.macs(plan) == flops(small, images)
        assert prices.params(plan) == count_params(small)
    model.eval()
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert all(vars(module).keys() == held[name].keys() for name, module in model.named_modules())
    assert channel_orders(model, graph).keys() == widths(graph).keys()
    return graph
