"""eval: accuracy, MACs, parameters, size and latency of every network of the run, before and after each stage.

Cache key: the networks to measure (by the keys of their stages), the `eval` settings, the image data, and the machine
(name of the device and host), since a latency belongs to a machine.

Writes: nothing but the report (result.json, with one row per network) and metrics.jsonl; model.onnx with `eval.onnx`.

Version history: 1; 2 counts more kinds of operators, 3 adds the figures of sparse networks, 4 the epoch whose weights
were measured, 5 counts recurrent layers whole and names what is not counted, 6 measures latencies in turns, of
networks as they run where they are used.
"""

import logging
import platform
from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
from pathlib import Path

from torch import nn

from compress.io.files import JSON, read_json
from compress.io.paths import MODEL, ONNX, RESULT
from compress.io.stage_folder import StageFolder
from compress.measure.accuracy import accuracy
from compress.measure.counts import counts
from compress.measure.latency import Pass, device_name, interleaved
from compress.measure.macs import count_operators
from compress.measure.zeros import nonzero_macs, zipped_bytes
from compress.models.masks import masked_layers
from compress.models.onnx import export_onnx
from compress.prune.folding import Pair
from compress.prune.latency.runtime import pairs_of, runnable
from compress.prune.weight_masks import sparsity_report
from compress.run.job import Job, RunState
from compress.run.stages.checks import warn_uncounted
from compress.run.stages.stage import Stage
from compress.schema.settings import FROM_SCRATCH, NETWORK_NAMES

log = logging.getLogger(__name__)

PRUNED = ("prune", "finetune")  # the stages that every branch of a run has of its own


def evaluate(state: RunState, work: StageFolder) -> JSON:
    """Measure every network of the run. The only code that reads the test images, once per network."""
    job, seconds = state.job, state.job.evaluate.latency_seconds
    rows: JSON = {}
    passes: dict[str, Pass] = {}
    pairs: list[Pair] = []  # of the first network, which the others were cut of
    for owner, stage, name in _reported(state):
        if (owner.done[stage] / MODEL).is_file():
            model, _ = owner.network(stage)
            model.to(job.device)
            top1, top5 = accuracy(model, job.data.ordered("test", job.evaluate.batch_size, job.device))
            pairs = pairs_of(model, job.data.shape) if not passes else pairs
            passes[name] = runnable(model, job.data.shape, job.where, pairs)
            operators = count_operators(model, job.data.shape)
            if not rows and "prune" not in state.done:  # else `prune` has logged it
                warn_uncounted("eval", operators.uncounted)
            rows[name] = {
                "weights": "last",  # of the last epoch, never chosen among epochs
                "top1": top1,
                "top5": top5,
                **asdict(counts(model, job.data.shape, operators)),
                "bytes": (owner.done[stage] / MODEL).stat().st_size,
                **_sparse_figures(model, owner.done[stage] / MODEL, job),
                "epochs": read_json(owner.done[stage] / RESULT).get("epochs"),
            }
            work.row(stage="eval", network=name, top1=top1, top5=top5, macs=rows[name]["macs"])
    for name, latency in interleaved(passes, job.where.device, seconds=seconds, threads=job.where.threads).items():
        rows[name] |= {
            "latency_ms": latency.median_ms,
            "latency_spread_ms": latency.spread_ms,
            "latency_threads": latency.threads,
            "latency_batch": job.where.batch,
            "latency_runtime": job.where.runtime,
            "latency_device": device_name(job.where.device),
        }
    if not job.evaluate.onnx:
        return {"results": rows}
    model, _ = state.network(state.latest())
    error = export_onnx(model, work.folder / ONNX, job.data.shape)
    log.info("eval: %s gives torch's logits to %.1e in onnxruntime", ONNX, error)
    return {"results": rows, "onnx_difference": error}


def _reported(state: RunState) -> Iterator[tuple[RunState, str, str]]:
    """Every network of a run, the steps that led to it before its last ones, then those of its controls: the state
    that owns it, its stage, its name."""
    last = NETWORK_NAMES | ({"finetune": FROM_SCRATCH} if state.job.finetune.init == "scratch" else {})
    rungs = [str(rung) for rung in state.job.ladder]
    yield from ((state, stage, last[stage]) for stage in last if stage in state.done and stage not in PRUNED)
    for rung in rungs:
        yield from _of_branch(state, rung, NETWORK_NAMES)
    yield from ((state, stage, last[stage]) for stage in last if stage in state.done and stage in PRUNED)
    for branch in state.branches:
        if branch not in rungs:
            yield from _of_branch(state, branch, last)


def _of_branch(state: RunState, branch: str, names: Mapping[str, str]) -> Iterator[tuple[RunState, str, str]]:
    done = state.branches[branch]
    for stage in done:
        yield replace(state, done=done), stage, f"{names[stage]}, {branch}"


def _sparse_figures(model: nn.Module, file: Path, job: Job) -> JSON:
    """For a network with weight masks: its sparsity, and its MACs and compressed size if zeros are skipped."""
    if not masked_layers(model):
        return {}
    return {
        "sparsity": sparsity_report(model)["prunable"]["share_zero"],
        "nonzero_macs": nonzero_macs(model, job.data.shape),
        "zipped_bytes": zipped_bytes(file),
    }


def depends_on(job: Job) -> JSON:
    where = [device_name(job.device), platform.node()]  # a latency belongs to a machine
    settings = {**asdict(job.evaluate), "latency_runtime": job.where.runtime}
    return {"eval": settings, "data": job.data.fingerprint(), "where": where}


STAGE = Stage(run=evaluate, depends_on=depends_on, makes="measurement", version=6)
