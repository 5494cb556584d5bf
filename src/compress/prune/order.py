"""Order of the channels of a group by importance (L1 norm), and the plan that keeps the first of an order."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from compress.graph.plan import Plan
from compress.graph.types import ChannelGraph


def channel_orders(model: nn.Module, graph: ChannelGraph) -> dict[str, Tensor]:
    """Indices of the channels of each group, most important first: (width,). Among equal ones the lower index first.

    Importance is AMC's (He et al., ECCV 2018, arXiv:1802.03494): the L1 norm of the weights that read the channel,
    summed over all layers that read it.
    """
    orders = {}
    layers = {layer.name: layer for layer in graph.layers}
    for group in graph.groups:
        score = torch.zeros(group.width, dtype=torch.float64)
        for name in group.consumers:
            weight = model.get_parameter(layers[name].weight).detach().double().cpu()
            axis = layers[name].in_axis
            assert axis is not None
            per_input = weight.abs().transpose(0, axis.dim).flatten(1).sum(1)
            score += per_input[group.positions[axis]].sum(1)
        orders[group.name] = score.sort(descending=True, stable=True).indices
    return orders


def plan_of(graph: ChannelGraph, orders: Mapping[str, Tensor], widths: Sequence[int]) -> Plan:
    """Keep the first `width` channels of each group's order; `widths` stand in the order of the graph."""
    return Plan(
        {
            group.name: orders[group.name][:width].sort().values.tolist()
            for group, width in zip(graph, widths, strict=True)
        }
    )
