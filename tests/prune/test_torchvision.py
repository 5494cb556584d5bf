"""Every classifier of torchvision: half of the channels go, the rest runs, trains and equals the masked network."""

import pytest
import torch
from conftest import livened, random_plan
from torch import nn
from torchvision import models

from compress.graph.build import channel_graph
from compress.measure.macs import count_macs, count_params
from compress.prune.cost import cost_model
from compress.prune.surgery import cut, difference

NAMES = models.list_models(module=models)
# Channels that are shuffled across unequal parts are left whole.
PARTLY_FROZEN = ("shufflenet_",)


def test_there_are_eighty() -> None:
    assert len(NAMES) == 80


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_half_of_any_classifier_is_exact_runs_and_trains(name: str) -> None:
    torch.manual_seed(0)
    options = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
    size = 299 if name == "inception_v3" else 224
    shape = (3, size, size)
    model = livened(models.get_model(name, weights=None, **options))
    graph = channel_graph(model, shape)
    assert graph.groups
    partly = name.startswith(PARTLY_FROZEN)
    assert bool(graph.frozen) == partly, graph.frozen
    plan = random_plan(graph, 0.5)
    small = cut(model, graph, plan)
    cost = cost_model(model, graph, shape)
    assert cost.macs(plan) == count_macs(small, shape)
    assert cost.params(plan) == count_params(small)
    assert cost.macs(plan) / cost.full_macs < (0.72 if partly else 0.33)
    assert difference(model, small, graph, plan, torch.randn(1, *shape)) < 1e-10
    del model
    outputs = small.train()(torch.randn(2, *shape))
    heads = [head for head in outputs if head is not None] if isinstance(outputs, tuple) else [outputs]
    assert len(heads) == {"googlenet": 3, "inception_v3": 2}.get(name, 1)
    optimizer = torch.optim.SGD(small.parameters(), lr=0.01)
    sum(nn.functional.cross_entropy(head, torch.tensor([1, 2])) for head in heads).backward()  # type: ignore[union-attr]
    assert all(p.grad is not None and p.grad.shape == p.shape for p in small.parameters())
    optimizer.step()
