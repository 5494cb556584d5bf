"""Networks of timm, where it is installed: half of every group, the law in float64, looked at after a forward."""

from typing import Any

import pytest
import torch
from torch import nn

from compress.graph.build import channel_graph
from compress.graph.plan import Plan
from compress.measure.macs import count_macs
from compress.prune.cost import cost_model
from compress.prune.surgery import cut, masked

timm = pytest.importorskip("timm")
# size of the images, and the largest share of the MACs that may be left
NETWORKS = {
    "mixer_s32_224": (224, 0.30), "mobilevit_xxs": (64, 0.28), "xcit_nano_12_p16_224": (224, 0.27),
    "tiny_vit_5m_224": (224, 0.29), "efficientvit_b0": (64, 0.38), "gmixer_12_224": (224, 0.35),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_half_of_every_group_after_a_forward(name: str) -> None:
    size, most = NETWORKS[name]
    torch.manual_seed(0)
    model: Any = timm.create_model(name).eval()
    livened_double(model)
    shape, images = (3, size, size), torch.randn(2, 3, size, size, dtype=torch.float64)
    with torch.no_grad():
        model(images)  # tables are made now
        graph = channel_graph(model, shape)
        plan = Plan({group.name: range(0, group.width, 2) for group in graph})
        small = cut(model, graph, plan)
        with masked(model, graph, plan):
            expected = model(images)
        assert float((small(images) - expected).abs().max() / expected.abs().max()) < 1e-12
    cost = cost_model(model, graph, shape)
    assert cost.macs(plan) == count_macs(small, shape)
    assert cost.macs(plan) < most * cost.full_macs


def livened_double(model: nn.Module) -> None:
    """What is zero or a vector is moved, so that it counts."""
    model.double()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1 or not parameter.any():
                parameter.add_(0.3 * torch.randn_like(parameter))
