"""Controls: baselines of the same size as a method's decision, obtained without the method.

`random` keeps the same number of channels of every group (or weights of every layer), drawn at random: the difference
is what the choice of channels contributes. `uniform` narrows every group by the same share to the same MACs, or the
same of what else the budget limits (or removes the same share of every layer's weights), and keeps the channels with
the largest scores of the method, or of the criterion of the run: the difference is what the choice of widths
contributes. Blalock et al., "What is the State of Neural Network Pruning?", MLSys 2020, arXiv:2003.03033, section 6,
asks for both in every table.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from compress.graph.plan import Plan
from compress.graph.types import ChannelGraph
from compress.io.seeds import derive_seed
from compress.prune.budget import prices
from compress.prune.method import Decision, Evidence, Problem
from compress.prune.order import plan_of
from compress.prune.scores import most_first
from compress.prune.weight_masks import pools, random_masks, share_masked, uniform_masks
from compress.prune.widths import all_choices, uniform_within
from compress.schema.settings import ControlKind


@dataclass(frozen=True)
class Control:
    """One control of a run; `draw` numbers the random ones, from 1."""

    kind: ControlKind
    draw: int = 1

    def __str__(self) -> str:
        return f"random {self.draw}" if self.kind == "random" else self.kind


def controls_of(kinds: list[ControlKind] | ControlKind | None, draws: int) -> tuple[Control, ...]:
    """The controls of a run, duplicates dropped; `draws` is how many random ones there are."""
    kinds = [kinds] if isinstance(kinds, str) else kinds or []
    return tuple(
        Control(kind, draw)
        for kind in dict.fromkeys(kinds)
        for draw in range(1, draws + 1 if kind == "random" else 2)
    )


def controlled(problem: Problem, decision: Decision, control: Control) -> Decision:
    """The control of a decision. Where the method refits weights to its plan, the control's are too."""
    seed = derive_seed(problem.seed, "control", str(control))
    own, evidence = {"control": str(control)}, decision.evidence
    if decision.masks:
        is_random = control.kind == "random"
        masks = random_masks(problem.model, decision.masks, seed) if is_random else _uniform_masks(problem, decision)
        return Decision(decision.plan, masks=masks, own=own, evidence=Evidence(percent=share_masked(masks)))
    if control.kind == "random":
        plan = random_channels(problem.graph, decision.plan, seed)
        percent = evidence.percent
    else:
        plan = _uniform_plan(problem, decision)
        scores = evidence.scores
        percent = None if scores is None else _removed_share(problem.graph, plan, scores)
    weights = evidence.refit(plan) if evidence.refit is not None else {}
    budget_terms = Evidence(choices=evidence.choices, percent=percent, rounding_step=evidence.rounding_step)
    return Decision(plan, weights=weights, own=own, evidence=budget_terms)


def random_channels(graph: ChannelGraph, plan: Plan, seed: int) -> Plan:
    """A plan of the same width for every group, its channels drawn uniformly at random."""
    random = torch.Generator().manual_seed(seed)
    widths = graph.widths(plan)
    orders = {group.name: torch.randperm(group.width, generator=random) for group in graph}
    return plan_of(graph, orders, widths)


def _uniform_masks(problem: Problem, decision: Decision) -> dict[str, Tensor]:
    objects = [
        pool for pool, layers in pools(problem.model, ["conv", "fc"]).items() if layers.keys() & decision.masks
    ]
    return uniform_masks(
        problem.model, problem.budget.value, objects, lambda name: 0.0 if name in decision.masks else 1.0
    ).masks


def _removed_share(graph: ChannelGraph, plan: Plan, scores: Mapping[str, Tensor]) -> float:
    """Share removed of the channels that have scores, which are those that the method could remove."""
    kept = sum(width for group, width in zip(graph, graph.widths(plan), strict=True) if group.name in scores)
    return 1 - kept / sum(map(len, scores.values()))


def _uniform_plan(problem: Problem, decision: Decision) -> Plan:
    """Every group narrowed by the same share, at widths that the method could have chosen too: within all limits, and
    with at most the price of the decision by its aim, which of shares of channels is that of MACs."""
    graph, evidence, ceilings = problem.graph, decision.evidence, problem.ceilings()
    allowed = all_choices(graph, 1) if evidence.choices is None else evidence.choices
    options = [widths[widths > 0] for widths in allowed]  # width 0 removes a whole block, which is not uniform
    scores = evidence.scores
    if scores is None:
        orders = problem.channel_orders()
    else:  # groups without scores keep their full width, as under the method
        orders = {g.name: most_first(scores[g.name]) if g.name in scores else torch.arange(g.width) for g in graph}
        options = [w if g.name in scores else w[-1:] for w, g in zip(options, graph, strict=True)]
    aim = ceilings.aim.budget.kind
    price = prices(problem.cost)("preserve_ratio") if aim == "percent" else ceilings.aim.price
    most = price(np.array([graph.widths(decision.plan)]))

    def fits(widths: NDArray[np.int64]) -> NDArray[np.bool_]:
        within: NDArray[np.bool_] = (price(widths) <= most) & np.all(
            [limit.fits(widths) for limit in ceilings.beside], axis=0
        )
        return within

    return plan_of(graph, orders, uniform_within(problem.cost.full_widths, options, fits))
