"""Checks and warnings that several stages share."""

import logging

import torch
from torch import nn

from compress.graph.plan import Plan
from compress.io.files import JSON
from compress.measure.macs import UncountedOperators, count_macs, describe_uncounted
from compress.prune.latency.tables import where_json
from compress.prune.method import Problem
from compress.prune.surgery import difference
from compress.run.job import Job

log = logging.getLogger(__name__)

TOLERANCE = 1e-10  # of the relative difference of masked and cut logits in float64


def warn_uncounted(stage: str, uncounted: UncountedOperators) -> None:
    if uncounted:
        log.warning("%s: of the dense network, %s", stage, describe_uncounted(uncounted))


def check_surgery(problem: Problem, small: nn.Module, plan: Plan) -> float:
    """Assert on 8 held-out images that the cut network equals the masked one, and that its MACs are those of the cost
    model. Returns the largest relative difference of the logits.
    """
    images, _ = next(iter(problem.data.ordered("held_out", 8, torch.device("cpu"))))
    relative_error = difference(problem.model, small, problem.graph, plan, images)
    assert relative_error < TOLERANCE, f"masked and cut networks differ by {relative_error:.2e}"
    counted, priced = count_macs(small, problem.data.shape), problem.cost.macs(plan)
    assert counted == priced, f"the pruned network has {counted} MACs, the cost model says {priced}"
    return relative_error


def latency_of(job: Job) -> JSON:
    """For cache keys: what a latency belongs to, where the budget limits one."""
    return {"latency": where_json(job.where)} if job.budget.of("latency_limit") is not None else {}


def digests_of_files(job: Job) -> JSON:
    """For cache keys: the digests of the files that the method reads."""
    return {"files": dict(files)} if (files := job.method.traits.files) else {}
