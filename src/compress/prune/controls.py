"""What a decision is held against: the same size without the method.

`random` keeps as many channels of every group (or weights of every layer), drawn blindly: what the choice of channels
is worth. `uniform` narrows every group alike to the same MACs (or takes the same share of every layer's weights) and
keeps by the method's own scores: what the choice of widths is worth. Blalock et al., "What is the State of Neural
Network Pruning?", MLSys 2020, arXiv:2003.03033, section 6, asks for both in every table.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from compress.graph.plan import Plan
from compress.graph.types import ChannelGraph
from compress.io.seeds import derive_seed
from compress.prune.method import Decision, Evidence, Problem
from compress.prune.order import channel_orders, plan_of
from compress.prune.scores import most_first
from compress.prune.weight_masks import pools, random_masks, share_masked, uniform_masks
from compress.prune.widths import all_choices, uniform_widths
from compress.schema.settings import ControlKind


@dataclass(frozen=True)
class Control:
    """One control of a run; random ones are drawn several times."""

    kind: ControlKind
    draw: int = 1

    def __str__(self) -> str:
        return f"random {self.draw}" if self.kind == "random" else self.kind


def controls_of(asked: list[ControlKind] | ControlKind | None, draws: int) -> tuple[Control, ...]:
    kinds = [asked] if isinstance(asked, str) else asked or []
    return tuple(
        Control(kind, draw)
        for kind in dict.fromkeys(kinds)
        for draw in range(1, draws + 1 if kind == "random" else 2)
    )


def controlled(problem: Problem, decision: Decision, control: Control) -> Decision:
    """The control of a decision; where the method refits weights to its plan, its control's are refitted too."""
    seed = derive_seed(problem.seed, "control", str(control))
    own, by = {"control": str(control)}, decision.evidence
    if decision.masks:
        is_random = control.kind == "random"
        masks = random_masks(problem.model, decision.masks, seed) if is_random else _uniform_masks(problem, decision)
        return Decision(decision.plan, masks=masks, own=own, evidence=Evidence(percent=share_masked(masks)))
    if control.kind == "random":
        plan = random_channels(problem.graph, decision.plan, seed)
        percent = by.percent
    else:
        plan = _uniform(problem, decision)
        percent = None if by.scores is None else _removed(problem.graph, plan, by.scores)
    weights = by.refit(plan) if by.refit is not None else {}
    evidence = Evidence(percent=percent, rounding_step=by.rounding_step)
    return Decision(plan, weights=weights, own=own, evidence=evidence)


def random_channels(graph: ChannelGraph, plan: Plan, seed: int) -> Plan:
    """Other channels, drawn blindly; as many of every group."""
    random = torch.Generator().manual_seed(seed)
    widths = graph.widths(plan)
    orders = {group.name: torch.randperm(group.width, generator=random) for group in graph}
    return plan_of(graph, orders, widths)


def _uniform_masks(problem: Problem, decision: Decision) -> dict[str, Tensor]:
    objects = [
        pool for pool, layers in pools(problem.model, ["conv", "fc"]).items() if layers.keys() & decision.masks
    ]
    return uniform_masks(problem.model, problem.budget.value, objects).masks


def _removed(graph: ChannelGraph, plan: Plan, scores: Mapping[str, Tensor]) -> float:
    """Share of the channels that the method chose from."""
    kept = sum(width for group, width in zip(graph, graph.widths(plan), strict=True) if group.name in scores)
    return 1 - kept / sum(map(len, scores.values()))


def _uniform(problem: Problem, decision: Decision) -> Plan:
    """Every group narrowed alike, to the most MACs within those of the decision, by widths that it could have too."""
    graph, cost, by = problem.graph, problem.cost, decision.evidence
    orders = channel_orders(problem.model, graph)
    allowed = all_choices(graph, 1) if by.choices is None else by.choices
    options = [widths[widths > 0] for widths in allowed]  # to drop a block is not to narrow alike
    if by.scores is not None:  # groups that the method leaves whole stay whole
        orders |= {name: most_first(score) for name, score in by.scores.items()}
        options = [w if g.name in by.scores else w[-1:] for w, g in zip(options, graph, strict=True)]
    widths = uniform_widths(cost, options, cost.macs(decision.plan) / cost.full_macs)
    return plan_of(graph, orders, widths)
