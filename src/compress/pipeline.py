"""A run: its stages folded over one state, each from the cache or computed; then the run's own folder."""

import logging
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from compress.distill.teacher import ZooTeacher
from compress.files import JSON, Row, atomic, read_json, read_rows, write_json
from compress.paths import AGENT, MODEL, ONNX, PLAN, SPLIT, SUMMARY
from compress.report.figures import draw_run
from compress.report.recorder import Recorder
from compress.report.table import results_table
from compress.stages import STAGES, Job, RunState, Stage, device_name, teacher_job
from compress.store import Finished, Store, stage_key

log = logging.getLogger(__name__)

VERSIONS = ("compress-lab", "torch", "torchvision", "hydra-core", "numpy", "fvcore")


def run(
    job: Job, config: JSON, config_hash: str, folder: Path, cache: Path, *, tensorboard: bool, plots: bool
) -> JSON:
    """Do all stages of a job and leave `folder` as documented; returns the summary."""
    folder.mkdir(parents=True, exist_ok=True)
    summary: JSON = {
        "status": "running",
        "config": config,
        "config_hash": config_hash,
        "started": datetime.now().isoformat(timespec="seconds"),
        "stages": {},
        "results": {},
        "budget": {"asked": {job.budget.kind: job.budget.value}, "achieved": {}},
        "versions": {name: _version(name) for name in VERSIONS} | {"python": sys.version.split()[0]},
        "commit": _commit(),
        "device": device_name(job.device),
    }
    write_json(folder / SUMMARY, summary)
    recorder = Recorder(folder, tensorboard)
    began = time.perf_counter()
    try:
        summary["split"] = _write_split(job, folder)
        state = _fold(job, Store(cache), summary, recorder.row, folder)
        _collect(state, folder)
        if plots:
            plan = read_json(folder / PLAN) if (folder / PLAN).is_file() else None
            draw_run(folder, read_rows(folder), plan, summary["stages"].get("sparsify"))
        summary["seconds"] = round(time.perf_counter() - began, 3)
        summary["status"] = "done"
    except BaseException as error:
        summary["status"] = "failed" if isinstance(error, Exception) else "interrupted"
        summary["error"] = str(error) or type(error).__name__
        raise
    finally:
        recorder.close()
        write_json(folder / SUMMARY, summary)
    return summary


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:  # run from a checkout that is not installed
        return "not installed"


def _fold(job: Job, store: Store, summary: JSON, on_row: Callable[[Row], None], folder: Path) -> RunState:
    state = RunState(job, {})
    if job.distill is not None and isinstance(job.teacher, ZooTeacher):
        log.info("teacher: %s", job.teacher.spec.describe())
        state = RunState(teacher_job(job), {})
        trained = _stage(store, "pretrain", state, None, False, lambda row: on_row({**row, "stage": "teacher"}))
        summary["stages"]["teacher"] = _stage_json(trained)
        state = RunState(job, {"teacher": trained.folder})
    parent: str | None = None
    redo = False
    for name in job.stages:
        redo = redo or name in job.force
        finished = _stage(store, name, state, parent, redo, on_row)
        parent = finished.key
        state = replace(state, done={**state.done, name: finished.folder})
        summary["stages"][name] = _stage_json(finished)
        if name == "prune":
            summary["budget"] = finished.result["budget"]
        if name == "eval":
            summary["results"] = finished.result["results"]
        write_json(folder / SUMMARY, summary)
    return state


def _stage(
    store: Store, name: str, state: RunState, parent: str | None, redo: bool, on_row: Callable[[Row], None]
) -> Finished:
    stage: Stage = STAGES[name]

    def compute(work: Any) -> JSON:
        log.info("%s: running", name)
        result = stage.run(state, work)
        seconds = round(work.seconds(), 3)
        log.info("%s: done in %.1f s", name, seconds)
        return {"made": stage.makes, **result, "seconds": seconds}

    return store.stage(name, depends(name, state.job, parent), compute, redo=redo, on_row=on_row)


def depends(name: str, job: Job, parent: str | None) -> JSON:
    """All that the result of a stage depends on."""
    return {"settings": STAGES[name].settings(job), "parent": parent, "version": STAGES[name].version}


def stage_keys(job: Job) -> dict[str, str]:
    """The keys that the stages of a job will have, without running any."""
    keys: dict[str, str] = {}
    parent: str | None = None
    for name in job.stages:
        parent = keys[name] = stage_key(name, depends(name, job, parent))
    return keys


def _stage_json(finished: Finished) -> JSON:
    result = {k: v for k, v in finished.result.items() if k not in ("results", "budget")}
    return {**result, "key": finished.key, "reused": finished.reused, "folder": str(finished.folder)}


def _write_split(job: Job, folder: Path) -> JSON:
    """Which images were trained on, held out and tested on: sizes in the summary, indices in a file."""
    split = job.data.split()
    write_json(folder / SPLIT, {"held_out": split["held_out"].tolist(), "fingerprint": job.data.fingerprint()})
    return {**{part: len(indices) for part, indices in split.items()}, "fingerprint": job.data.fingerprint()}


def _collect(state: RunState, folder: Path) -> None:
    """Copy what the run is about into its folder, so that it stands without the cache."""
    _copy(state.done[state.latest()] / MODEL, folder / MODEL)
    if "prune" in state.done:
        _copy(state.done["prune"] / PLAN, folder / PLAN)
    if "sparsify" in state.done and (state.done["sparsify"] / AGENT).is_file():
        _copy(state.done["sparsify"] / AGENT, folder / AGENT)
    if "eval" in state.done and (state.done["eval"] / ONNX).is_file():
        _copy(state.done["eval"] / ONNX, folder / ONNX)


def _copy(source: Path, target: Path) -> None:
    with atomic(target) as part:
        shutil.copyfile(source, part)


def _commit() -> str | None:
    """The commit of the checkout that the code runs from, if it is one."""
    here = Path(__file__).resolve().parent
    command = ["git", "-C", str(here), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        ours = subprocess.run(
            [*command[:3], "ls-files", "--error-unmatch", __file__], capture_output=True, timeout=10
        )
        found = subprocess.run(command, capture_output=True, text=True, timeout=10) if ours.returncode == 0 else None
    except (OSError, subprocess.SubprocessError):
        return None
    return found.stdout.strip() or None if found is not None and found.returncode == 0 else None


def finished_summary(folder: Path, job: Job, config_hash: str) -> JSON | None:
    """The summary of a finished run in `folder` of the same config, images and checkpoints, if there is one."""
    path = folder / SUMMARY
    if not path.is_file():
        return None
    summary: JSON = read_json(path)
    done = summary["status"] == "done" and summary["config_hash"] == config_hash and (folder / MODEL).is_file()
    if not done or any(summary["stages"][name]["key"] != key for name, key in stage_keys(job).items()):
        return None
    return summary


def show(summary: JSON, folder: Path) -> str:
    """What a run prints at its end."""
    reused = {name: stage for name, stage in summary["stages"].items() if stage["reused"]}
    saved = sum(stage["seconds"] for stage in reused.values())
    lines = [results_table(summary)]
    if reused:
        lines.append(f"reused: {', '.join(reused)} ({saved:.1f} s of computing saved)")
    lines.append(f"run folder: {folder}  ({summary['seconds']:.1f} s)")
    return "\n".join(lines)
