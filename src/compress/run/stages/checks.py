"""What every stage that looks at a network checks and says."""

import logging

import torch
from torch import nn

from compress.graph.plan import Plan
from compress.io.files import JSON
from compress.measure.macs import UncountedOperators, count_macs, describe_uncounted
from compress.prune.method import Problem
from compress.prune.surgery import difference
from compress.run.job import Job

log = logging.getLogger(__name__)

SAME = 1e-10  # largest relative difference of masked and cut logits in float64


def warn_uncounted(stage: str, uncounted: UncountedOperators) -> None:
    if uncounted:
        log.warning("%s: of the dense network, %s", stage, describe_uncounted(uncounted))


def check_surgery(problem: Problem, small: nn.Module, plan: Plan) -> float:
    """The laws of surgery, on held-out images: our own error if one does not hold."""
    images, _ = next(iter(problem.data.ordered("held_out", 8, torch.device("cpu"))))
    apart = difference(problem.model, small, problem.graph, plan, images)
    assert apart < SAME, f"masked and cut networks differ by {apart:.2e}"
    counted, priced = count_macs(small, problem.data.shape), problem.cost.macs(plan)
    assert counted == priced, f"the pruned network has {counted} MACs, the cost model says {priced}"
    return apart


def digests_of_files(job: Job) -> JSON:
    return {"files": dict(files)} if (files := job.method.traits.files) else {}
