"""A run: its stages in order, each reused from the cache or computed; then the files of the run folder."""

import logging
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor

from compress.errors import is_user_error, settings_under
from compress.io.files import JSON, Row, atomic, printable_tree, read_json, read_rows, write_json
from compress.io.paths import AGENT, MODEL, ONNX, PLAN, SPLIT, SUMMARY, branch_folder
from compress.io.stage_folder import StageFolder
from compress.io.tensors import read_weights
from compress.measure.latency import device_name
from compress.parallel.collectives import Team
from compress.parallel.helper_processes import Crew
from compress.prune.controls import Control
from compress.report.plot.one_run import draw_run, no_plots
from compress.report.recorder import Recorder
from compress.report.table.results import results_table
from compress.report.trackers.in_tensorboard import TensorBoard
from compress.report.trackers.tracker import Tracker
from compress.run.expected import check_expected
from compress.run.job import Branch, Job, Rung, RunState
from compress.run.opening import opening
from compress.run.stages import STAGES
from compress.run.stages.stage import Stage
from compress.run.stages.training import network_settings, teacher_job
from compress.run.store import Finished, Store, stage_key
from compress.schema.settings import of_results

log = logging.getLogger(__name__)

VERSIONS = ("compress-lab", "torch", "torchvision", "hydra-core", "numpy", "fvcore")


def run(
    job: Job,
    config: JSON,
    config_hash: str,
    folder: Path,
    store: Store,
    crew: Crew,
    *,
    launch: str,
    tensorboard: bool,
    plots: bool,
) -> JSON:
    """Run all stages of a job and write the files of `folder` (docs/files.md); returns the summary.

    Errors are recorded in the summary and raised again.
    """
    folder.mkdir(parents=True, exist_ok=True)
    summary: JSON = {
        "status": "running",
        "config": config,
        "config_hash": config_hash,
        "launch": launch,
        "started": datetime.now().isoformat(timespec="seconds"),
        "stages": {},
        "results": {},
        "budget": {"asked": {job.budget.kind: job.budget.value}, "achieved": {}},
        "controls": {},
        "versions": {name: _version(name) for name in VERSIONS} | {"python": sys.version.split()[0]},
        "commit": _commit(),
        "device": device_name(job.device),
        "devices": job.devices,
    }
    write_json(folder / SUMMARY, summary)
    trackers: list[Tracker] = [*([TensorBoard()] if tensorboard else []), job.tracker]
    recorder = Recorder(folder, trackers, summary)
    began = time.perf_counter()
    try:
        summary["split"] = _write_split(job, folder)
        for line in opening(job):
            log.info("%s", line)
        with crew.guarded():
            state = _fold(job, store, summary, recorder.row, lambda: write_json(folder / SUMMARY, summary), crew)
        _collect(state, folder)
        if plots:
            plan = read_json(folder / PLAN) if (folder / PLAN).is_file() else None
            sparsify_report, own_plots = summary["stages"].get("sparsify"), getattr(job.method, "plots", no_plots)
            draw_run(folder, read_rows(folder), plan, sparsify_report, own_plots)
        summary["seconds"] = round(time.perf_counter() - began, 3)
        summary["saved_seconds"] = round(_saved(summary), 3)
        summary["status"] = "done"
    except BaseException as error:
        summary["status"] = "failed" if isinstance(error, Exception) else "interrupted"
        summary["error"] = str(error) or type(error).__name__
        summary["bad_input"] = is_user_error(error)
        raise
    finally:
        try:
            write_json(folder / SUMMARY, summary)
        finally:  # after the summary: a server may take its time
            recorder.close(summary)
    return summary


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:  # run from a checkout that is not installed
        return "not installed"


@dataclass(frozen=True)
class Step:
    """One stage of the run or of one of its branches; `after` names the steps whose results it depends on."""

    stage: str
    branch: Branch | None
    after: tuple[str, ...]
    of_teacher: str | None = None  # the name of the teacher that this `pretrain` trains

    @property
    def name(self) -> str:
        return self.stage if self.branch is None else f"{self.stage} {self.branch}"


def steps(job: Job) -> list[Step]:
    """The steps of a job in order. Each branch has its own `prune` and `finetune`: rungs one after the other, then
    the run itself, then the controls; one `eval` measures all networks."""
    ordered_steps: list[Step] = []
    last_of_controls: list[str] = []
    for stage in (stage for stage in job.stages if stage != "eval"):
        for rung in job.ladder if stage == "prune" else ():
            for own in ("prune", "finetune"):
                ordered_steps.append(Step(own, rung, (ordered_steps[-1].name,) if ordered_steps else ()))
        ordered_steps.append(Step(stage, None, (ordered_steps[-1].name,) if ordered_steps else ()))
    if "prune" in job.stages:
        after = next(step.after for step in ordered_steps if step.stage == "prune" and step.branch is None)
        for control in job.controls:
            branch = [Step("prune", control, after)]
            if "finetune" in job.stages:
                branch.append(Step("finetune", control, (branch[-1].name,)))
            last_of_controls.append(branch[-1].name)
            ordered_steps += branch
    if "eval" in job.stages:
        last = [step.name for step in ordered_steps if step.branch is None][-1:]
        ordered_steps.append(Step("eval", None, (*last, *last_of_controls)))
    return ordered_steps


def prepared(job: Job, store: Store, crew: Crew) -> RunState:
    """The state of a job with all that its method needs before it searches, from the cache or computed now: the
    dense network, or a supernet. An agent, which the search would train, is left out. No run folder is written."""
    trains = job.method.traits.trains != "nothing"
    stages = tuple(stage for stage in job.stages if stage == "pretrain" or (stage == "sparsify" and trains))
    job = replace(job, stages=stages, controls=(), ladder=())
    if "sparsify" not in stages:
        job = replace(job, teachers={}, distill=None)  # they would join later stages
    _read_images(job)
    with crew.guarded():
        state = _fold(job, store, {"stages": {}}, lambda row: None, lambda: None, crew)
    return replace(state, scores=store.root)


def _fold(
    job: Job,
    store: Store,
    summary: JSON,
    on_row: Callable[[Row], None],
    save: Callable[[], None],
    crew: Crew,
) -> RunState:
    """Run or reuse all steps; `save` is called whenever `summary` tells more."""
    folders: dict[str, Path] = {}
    for name, teacher in job.teachers.items():
        if teacher.source.to_train is not None:
            log.info("%s: %s", name, teacher.source.to_train.describe())
            training = Step("pretrain", None, (), of_teacher=name)
            alone = RunState(teacher_job(job, name), {})
            trained = _stage(store, training, alone, {}, False, _named(on_row, name), crew)
            summary["stages"][name] = _stage_json(trained)
            folders[name] = trained.folder
        if teacher.source.of_stage is None:
            check_expected(job, name, folders.get(name), store)
    keys: dict[str, str] = {}
    redone: set[str] = set()
    for step in steps(job):
        redo = step.stage in job.force or not redone.isdisjoint(step.after)
        rows = _named(on_row, step.name)
        state = replace(_state(job, step, folders), scores=store.root)
        finished = _stage(store, step, state, keys, redo, rows, crew)
        keys[step.name], folders[step.name] = finished.key, finished.folder
        redone |= {step.name} if redo else set()
        summary["stages"][step.name] = _stage_json(finished)
        for name, teacher in job.teachers.items():
            if teacher.source.of_stage == step.name:
                check_expected(job, name, finished.folder, store)
        if step.stage == "prune" and step.branch is None:
            summary["budget"] = finished.result["budget"]
        elif step.stage == "prune":
            of_kind = "steps" if isinstance(step.branch, Rung) else "controls"
            summary.setdefault(of_kind, {})[str(step.branch)] = finished.result["budget"]
        if step.stage == "eval":
            summary["results"] = finished.result["results"]
        save()
    return _state(job, None, folders)


def _named(on_row: Callable[[Row], None], stage: str) -> Callable[[Row], None]:
    """Rows say of which step they are: those of branches and teachers of another than the stage, those of a user's
    method maybe of none."""
    return lambda row: on_row({**row, "stage": stage})


def _state(job: Job, step: Step | None, folders: Mapping[str, Path]) -> RunState:
    """The state for a step: with the stage folders of the run, or of the step's branch."""
    shared = {name: folder for name, folder in folders.items() if name in (*job.teachers, "pretrain", "sparsify")}

    def of(branch: Branch | None) -> dict[str, Path]:
        names = {stage: Step(stage, branch, ()).name for stage in ("prune", "finetune")}
        return {stage: folders[name] for stage, name in names.items() if name in folders}

    branch = None if step is None else step.branch
    rungs = job.ladder if branch not in job.ladder else job.ladder[: job.ladder.index(branch)]
    before = of(rungs[-1]).get("finetune") if rungs else None
    if branch is not None:
        return RunState(job.of(branch), {**shared, **of(branch)}, branch, before=before)
    branches = {str(each): of(each) for each in job.branches}
    own = {name: folders[name] for name in ("eval",) if name in folders}
    return RunState(job, {**shared, **of(None), **own}, None, branches, before)


@dataclass(frozen=True)
class Order:
    """A training announced to the other ranks: the stage, and the state that it starts from."""

    stage: str
    of_teacher: str | None
    done: Mapping[str, Path]
    branch: Branch | None
    before: Path | None


def assist(job: Job, order: Order, team: Team) -> None:
    """On ranks other than 0: run the same stage as rank 0, in a temporary folder."""
    job = job if order.of_teacher is None else teacher_job(job, order.of_teacher)
    with TemporaryDirectory(prefix="compress-") as folder:
        state = RunState(job.of(order.branch), order.done, order.branch, before=order.before, team=team)
        STAGES[order.stage].run(state, StageFolder(Path(folder)))


def _stage(
    store: Store,
    step: Step,
    state: RunState,
    keys: Mapping[str, str],
    redo: bool,
    on_row: Callable[[Row], None],
    crew: Crew,
) -> Finished:
    stage: Stage = STAGES[step.stage]

    def compute(work: Any) -> JSON:
        log.info("%s: running", step.name)
        if stage.trains(state.job):
            done = {name: path.absolute() for name, path in state.done.items()}
            before = None if state.before is None else state.before.absolute()
            with crew.together(Order(step.stage, step.of_teacher, done, state.branch, before)) as team:
                result = stage.run(replace(state, team=team), work)
        else:
            result = stage.run(state, work)
        seconds = round(work.seconds(), 3)
        log.info("%s: done in %.1f s", step.name, seconds)
        return {"made": stage.makes, **result, "seconds": seconds, "threads": torch.get_num_threads()}

    finished = store.stage(
        step.stage, depends(step, state.job, keys), compute, redo=redo, on_row=on_row, called=step.name
    )
    cached_threads, threads = finished.result.get("threads"), torch.get_num_threads()
    if finished.reused and cached_threads != threads and stage.trains(state.job) and state.job.device.type == "cpu":
        log.info(
            "%s: was computed with %s threads, not %d, so float sums may differ in their last bits",
            step.name,
            cached_threads,
            threads,
        )
    return finished


def depends(step: Step, job: Job, keys: Mapping[str, str]) -> JSON:
    """All that the result of a step depends on; its cache key is the hash of it."""
    stage, job = STAGES[step.stage], job.of(step.branch)
    parents = [keys[name] for name in step.after]
    # Where a step has a parent, the network is part of the parent's key.
    network = {"network": network_settings(job.model)} if not step.after and step.stage != "pretrain" else {}
    is_cut_of_control = isinstance(step.branch, Control) and step.stage == "prune"
    control = {"control": str(step.branch)} if is_cut_of_control else {}
    return {
        "settings": {**of_results(stage.depends_on(job)), **network, **control},
        "parent": parents if len(parents) > 1 else next(iter(parents), None),
        "version": stage.version,
    }


def stage_keys(job: Job) -> dict[str, str]:
    """The cache keys of all steps of a job, without running any."""
    keys: dict[str, str] = {}
    for step in steps(job):
        keys[step.name] = stage_key(step.stage, depends(step, job, keys))
    return keys


def _stage_json(finished: Finished) -> JSON:
    result = {k: v for k, v in finished.result.items() if k not in ("results", "budget")}
    return {**result, "key": finished.key, "reused": finished.reused, "folder": str(finished.folder)}


def _write_split(job: Job, folder: Path) -> JSON:
    """Write the indices of the held-out images to split.json; returns the sizes of all parts, for the summary."""
    split, fingerprint = _read_images(job)
    write_json(folder / SPLIT, {"held_out": split["held_out"].tolist(), "fingerprint": fingerprint})
    return {**{part: len(indices) for part, indices in split.items()}, "fingerprint": fingerprint}


def _read_images(job: Job) -> tuple[dict[str, Tensor], str]:
    """The indices of all parts, and the fingerprint of the images, which are read here."""
    with settings_under(job.keys.data):
        return job.data.split(), job.data.fingerprint()


def _collect(state: RunState, folder: Path) -> None:
    """Copy the results of the run and its branches from the cache into its folder, which then does not need the
    cache."""
    _copy(state.done[state.latest()] / MODEL, folder / MODEL)
    for name, done in state.branches.items():
        target = folder / branch_folder(name)
        target.mkdir(parents=True, exist_ok=True)
        _copy(done["prune"] / PLAN, target / PLAN)
        _copy(done.get("finetune", done["prune"]) / MODEL, target / MODEL)
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
    """The git commit of the code, if it runs from a checkout that tracks it; None otherwise."""
    here = Path(__file__).resolve().parent
    command = ["git", "-C", str(here), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        tracked = subprocess.run(
            [*command[:3], "ls-files", "--error-unmatch", __file__], capture_output=True, timeout=10
        )
        described = (
            subprocess.run(command, capture_output=True, text=True, timeout=10) if tracked.returncode == 0 else None
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return described.stdout.strip() or None if described is not None and described.returncode == 0 else None


def finished_summary(folder: Path, job: Job, config_hash: str) -> JSON | None:
    """The summary of a finished run in `folder` with the same config hash and cache keys of all stages, or None."""
    path = folder / SUMMARY
    if not path.is_file():
        return None
    try:
        summary: JSON = printable_tree(read_json(path))
        done = summary["status"] == "done" and summary["config_hash"] == config_hash
        if done:
            read_weights(folder / MODEL)
        same = done and all(summary["stages"][name]["key"] == key for name, key in stage_keys(job).items())
        show(summary, folder)
        same = same and bool(summary["results"]) == ("eval" in job.stages)
    except (OSError, KeyError, TypeError, AttributeError, ValueError, IndexError):
        return None  # of an older version, or damaged; its stages are still in the cache
    return summary if same else None


def _reused(summary: JSON) -> JSON:
    """The stages that were not computed by this run."""
    return {name: stage for name, stage in summary["stages"].items() if stage["reused"]}


def _saved(summary: JSON) -> float:
    """Seconds that the reused stages took when they were computed."""
    return float(sum(stage["seconds"] for stage in _reused(summary).values()))


def show(summary: JSON, folder: Path) -> str:
    """The table and lines that a run prints at its end."""
    lines = [results_table(summary)]
    if reused := _reused(summary):
        lines.append(f"reused: {', '.join(reused)} ({_saved(summary):.1f} s of computing saved)")
    lines.append(f"run folder: {folder}  ({summary['seconds']:.1f} s)")
    return "\n".join(lines)
