"""A budget in milliseconds at the end of `prune`: what was chosen by prediction is measured beside the dense network.

A machine that is slower than when its layers were measured is so for both, so the ratio of the two is what counts:
the time of a network is that of the dense one then, times this ratio. What is above the limit is chosen once more,
with the limit tightened by as much.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from torch import nn

from compress.errors import InputError
from compress.io.files import JSON
from compress.io.stage_folder import StageFolder
from compress.measure.latency import interleaved
from compress.prune.folding import foldable
from compress.prune.latency.runtime import runnable
from compress.prune.method import Decision, Problem
from compress.prune.surgery import cut
from compress.run.job import Timing
from compress.schema.settings import Budget

log = logging.getLogger(__name__)

NEAR_LIMIT = 0.05  # relative excess of a measured latency up to which the limit counts as met

Plan = Callable[[Problem, StageFolder], Decision]


@dataclass(frozen=True)
class Measured:
    """In milliseconds, in the turns of one measurement."""

    ms: float
    spread_ms: float
    dense_ms: float

    def at_rest(self, dense_ms: float) -> float:
        """As the machine was when the dense network took `dense_ms`."""
        return self.ms * dense_ms / self.dense_ms


def measured(problem: Problem, small: nn.Module, timing: Timing) -> Measured:
    """The network that was cut, and the dense one."""
    shape, where = problem.data.shape, timing.where
    pairs = foldable(problem.model, problem.graph.tapes[0])
    networks = {"dense": problem.model, "small": small}
    passes = {name: runnable(network, shape, where, pairs) for name, network in networks.items()}
    times = interleaved(passes, where.device, seconds=timing.seconds, threads=where.threads)
    return Measured(times["small"].median_ms, times["small"].spread_ms, times["dense"].median_ms)


def planned(problem: Problem, plan: Plan, work: StageFolder, timing: Timing) -> tuple[Problem, Decision]:
    """The decision of a method, and the problem that it solves: with a tighter limit where it took longer than was
    predicted."""
    decision, limit = plan(problem, work), problem.budget.of("latency_limit")
    if limit is None:
        return problem, decision
    found = measured(problem, cut(problem.model, problem.graph, decision.plan), timing)
    excess = found.at_rest(problem.latency().dense_ms) / limit
    if excess <= 1:
        return problem, decision
    tight = replace(problem, budget=tightened(problem.budget, excess))
    log.info("prune: measured %.3g times its limit of %g ms: chosen once more with %s", excess, limit, tight.budget)
    try:
        with TemporaryDirectory(prefix="compress-") as folder:
            return tight, plan(tight, StageFolder(Path(folder), lambda row: work.row(**row)))
    except InputError as error:
        log.warning("prune: %s", error)
        return problem, decision


def tightened(budget: Budget, excess: float) -> Budget:
    """The budget with its limit in milliseconds divided by `excess`."""
    beside = tuple(tightened(each, excess) for each in budget.beside)
    value = float(f"{budget.value / excess:.4g}") if budget.kind == "latency_limit" else budget.value
    return replace(budget, value=value, beside=beside)


def told(problem: Problem, decision: Decision, asked: Budget, small: nn.Module, timing: Timing) -> JSON:
    """Asked, predicted and measured, for the report of the stage; nothing without a limit. `problem` may have a
    tighter one than was asked."""
    limit = asked.of("latency_limit")
    if limit is None:
        return {}
    model, found = problem.latency(), measured(problem, small, timing)
    tight = problem.budget.of("latency_limit")
    return {
        "asked_ms": limit,
        "tightened_to_ms": None if tight == limit else tight,
        "predicted_ms": float(model.ms(problem.cost.widths(decision.plan)[None])[0]),
        "measured_ms": found.at_rest(model.dense_ms),
        "now_ms": found.ms,
        "spread_ms": found.spread_ms,
        "dense_now_ms": found.dense_ms,
        **model.told(),
    }


def is_kept(latency: JSON) -> bool:
    """Whether the measured time is within its limit."""
    return not latency or bool(latency["measured_ms"] <= latency["asked_ms"] * (1 + NEAR_LIMIT))
