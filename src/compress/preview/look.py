"""All that `compress plan` tells of a job, in its order."""

from pathlib import Path

import torch

from compress.errors import settings_under
from compress.io.files import JSON
from compress.io.paths import CACHE
from compress.preview.network import Outlook, outlook
from compress.preview.seconds import estimated
from compress.preview.stages import planned_steps
from compress.preview.text import cost_table, group_table, layer_table, stage_table
from compress.run.job import Job, RunState
from compress.run.opening import opening


def looked(job: Job, config: JSON, outputs: Path, *, wide: bool, layers: bool, timed: bool) -> list[str]:
    """The parts that are printed. No stage is run to its end, and nothing is written."""
    if config["threads"] is not None:
        torch.set_num_threads(config["threads"])
    with settings_under(job.keys.data):
        job.data.split()  # reads the images
    steps = planned_steps(job, outputs / CACHE)
    done = {planned.step.name: planned.folder for planned in steps if planned.state == "cached"}
    problem = RunState(job, done).problem()
    with settings_under(job.keys.method):
        ahead = outlook(problem, job.method)
    times = estimated(job, steps, ahead) if timed else None
    parts = [
        "\n".join(opening(job)),
        stage_table(steps, times),
        f"{_of_network(job, ahead)}\n{cost_table(ahead)}",
        layer_table(ahead, wide) if layers else group_table(ahead, wide),
    ]
    return [part if at == 0 else f"\n{part}" for at, part in enumerate(parts) if part]


def _of_network(job: Job, ahead: Outlook) -> str:
    graph = ahead.problem.graph
    if job.method.traits.cuts == "weights":
        return f"{len(graph.layers)} layers; single weights are masked, all widths stay"
    whole = f", {len(ahead.whole())} of which keep all of their outputs" if ahead.whole() else ""
    return (
        f"{sum(group.width for group in graph)} channels in {len(graph.groups)} groups of {len(graph.layers)} "
        f"layers{whole}"
    )
