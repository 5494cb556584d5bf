"""Asked and achieved: the three ways to say how small, as one number the searches use and three to report."""

from collections.abc import Sequence

from compress.errors import InputError
from compress.graph.plan import Plan
from compress.graph.types import ChannelGraph
from compress.io.files import JSON
from compress.prune.cost import CostModel
from compress.schema.settings import Budget


def removed_share(widths: Sequence[int], full_widths: Sequence[int]) -> float:
    """Share of channels that widths take away, over all groups."""
    full = sum(full_widths)
    return 1 - sum(widths) / full if full else 0.0


def removed_percent(graph: ChannelGraph, plan: Plan) -> float:
    """Share of channels that a plan takes away, over all groups."""
    return removed_share(graph.widths(plan), [group.width for group in graph.groups])


def achieved(graph: ChannelGraph, cost: CostModel, plan: Plan) -> JSON:
    """What a plan comes to, in the terms of all three budgets."""
    macs = cost.macs(plan)
    return {
        "preserve_ratio": macs / cost.full_macs,
        "percent": removed_percent(graph, plan),
        "macs": macs,
        "flops_limit": macs / 1e6,
    }


def preserve_ratio(budget: Budget, cost: CostModel) -> float:
    """The share of MACs that a `preserve_ratio` or `flops_limit` asks for.

    Raises:
        InputError: a limit above what the dense network needs.
    """
    if budget.kind == "preserve_ratio":
        return budget.value
    assert budget.kind == "flops_limit", "percent is no share of MACs"
    dense = cost.full_macs / 1e6
    if budget.value > dense:
        raise InputError(f"{budget}: the dense network needs only {dense:.4g} MMACs; ask for at most that")
    return budget.value / dense
