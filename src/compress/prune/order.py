"""Order of the channels of a group by importance, and the plan that keeps the first of an order."""

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from compress.graph.plan import Plan
from compress.graph.types import ChannelGraph
from compress.prune.criteria.criterion import totals
from compress.prune.criteria.weight_norm import norms
from compress.prune.scores import Scores

NO_SCORES: Scores = {}


def channel_orders(model: nn.Module, graph: ChannelGraph, scores: Scores = NO_SCORES) -> dict[str, Tensor]:
    """Indices of the channels of each group, most important first: (width,). Among equal ones the lower index first.

    A group without scores is ordered by AMC's importance (He et al., ECCV 2018, arXiv:1802.03494): the L1 norm of the
    weights that read the channel, summed over all layers that read it.
    """
    is_whole = all(group.name in scores for group in graph)
    by_name = scores if is_whole else {**totals(norms(model, graph, "l1", "readers")), **scores}
    return {group.name: by_name[group.name].sort(descending=True, stable=True).indices for group in graph}


def plan_of(graph: ChannelGraph, orders: Mapping[str, Tensor], widths: Sequence[int]) -> Plan:
    """Keep the first `width` channels of each group's order; `widths` stand in the order of the graph."""
    return Plan(
        {
            group.name: orders[group.name][:width].sort().values.tolist()
            for group, width in zip(graph, widths, strict=True)
        }
    )
