"""Budgets: the requested one as a share of MACs, and what a plan achieves in the units of all three kinds.

Where a budget becomes widths: `widths.uniform_widths` (the same share of every group), `selection.select` (by scores
of channels), `search` (by an agent's walk). A budget of single weights becomes masks in `weight_masks`.
"""

from collections.abc import Sequence

from compress.errors import InputError
from compress.graph.plan import Plan
from compress.graph.types import ChannelGraph
from compress.io.files import JSON
from compress.prune.cost import CostModel
from compress.schema.settings import Budget


def removed_share(widths: Sequence[int], full_widths: Sequence[int]) -> float:
    """Share of channels removed by these widths, over all groups: in [0, 1]."""
    full = sum(full_widths)
    return 1 - sum(widths) / full if full else 0.0


def plan_removed_share(graph: ChannelGraph, plan: Plan) -> float:
    """Share of channels removed by a plan, over all groups: in [0, 1]."""
    return removed_share(graph.widths(plan), [group.width for group in graph.groups])


def achieved(graph: ChannelGraph, cost: CostModel, plan: Plan) -> JSON:
    """What a plan achieves: shares of MACs kept and of channels removed, MACs, and MMACs (`flops_limit`)."""
    macs = cost.macs(plan)
    return {
        "preserve_ratio": macs / cost.full_macs,
        "percent": plan_removed_share(graph, plan),
        "macs": macs,
        "flops_limit": macs / 1e6,
    }


def preserve_ratio(budget: Budget, cost: CostModel) -> float:
    """The share of MACs to keep, in (0, 1], for a budget of kind `preserve_ratio` or `flops_limit`.

    Raises:
        InputError: the limit is above the MACs of the dense network.
    """
    if budget.kind == "preserve_ratio":
        return budget.value
    assert budget.kind == "flops_limit", "percent is no share of MACs"
    dense = cost.full_macs / 1e6
    if budget.value > dense:
        raise InputError(f"{budget}: the dense network needs only {dense:.4g} MMACs; ask for at most that")
    return budget.value / dense
