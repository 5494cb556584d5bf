"""Which channels of a group matter most, and the plan that keeps them."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from compress.graph.plan import Plan
from compress.graph.types import ChannelGraph


def channel_orders(model: nn.Module, graph: ChannelGraph) -> dict[str, Tensor]:
    """Channels of each group, most important first: (width,). Ties keep the lower one first.

    AMC's measure, the L1 norm of the weights that read a channel; for coupled channels, summed over the readers.
    """
    orders = {}
    axes = {layer.name: layer.in_axis for layer in graph.layers}
    for group in graph.groups:
        score = torch.zeros(group.width, dtype=torch.float64)
        for name in group.consumers:
            weight = model.get_parameter(f"{name}.weight").detach().double().cpu()
            per_input = weight.abs().transpose(0, 1).flatten(1).sum(1)
            axis = axes[name]
            assert axis is not None
            score += per_input[group.positions[axis]].sum(1)
        orders[group.name] = score.sort(descending=True, stable=True).indices
    return orders


def plan_of(graph: ChannelGraph, orders: Mapping[str, Tensor], widths: Sequence[int]) -> Plan:
    """The first channels of each group's order, as many as its width says."""
    return Plan(
        {
            group.name: orders[group.name][:width].sort().values.tolist()
            for group, width in zip(graph, widths, strict=True)
        }
    )
