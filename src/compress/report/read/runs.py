"""Run folders, read into frozen objects. Imports neither torch nor Hydra."""

import math
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from compress.errors import first_line
from compress.io.files import JSON, printable_tree, read_json
from compress.io.paths import METRICS, PLAN, SUMMARY, branch_folder, is_step
from compress.report.group_by import group_by
from compress.report.read import index
from compress.report.read.settings import settings_of
from compress.schema.settings import STAGE_ORDER

# A control shares these stages and networks with its run, and has others of its own.
SHARED_STAGES = ("pretrain", "sparsify")
SHARED_NETWORKS = ("dense", "sparsified")
BRANCHES = ("controls", "steps")  # fields of a run that hold runs of the same folder
# Paths in a summary (`*`: any key) at which an object must stand if anything does.
OBJECTS = (
    "config", "results.*", "stages.*.recipe", "stages.*.thresholds", "budget.asked", "budget.beside",
    "budget.latency", "budget.achieved", "controls.*.asked", "controls.*.achieved",
    "steps.*.asked", "steps.*.achieved",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Run:
    """A finished run, or one of its controls or of its steps before the last. What its summary lacks is empty or
    None."""

    folder: Path
    settings: Mapping[str, Any] = field(default_factory=dict)  # flat: see settings_of
    results: Mapping[str, JSON] = field(default_factory=dict)  # by network, in the order of the stages: dense, ...
    budget: JSON = field(default_factory=dict)  # asked, beside, achieved, met, binds
    stages: Mapping[str, JSON] = field(default_factory=dict)
    devices: int = 1  # world size of the training
    seconds: float | None = None  # wall time of this run alone: reused stages took none
    started: str | None = None
    fingerprint: str | None = None  # of the images and their split
    control: str | None = None  # "random 1", if it is one; of a step "step 1"
    controls: tuple["Run", ...] = ()
    steps: tuple["Run", ...] = ()  # of an iterative schedule, without the last one, which is the run itself

    @property
    def final(self) -> str:
        """The network that the run ends with."""
        return list(self.results)[-1]

    @property
    def asked(self) -> JSON:
        """The budget: its kind and its value."""
        return self.budget.get("asked") or {}

    @property
    def beside(self) -> JSON:
        """The limits beside the budget, by kind."""
        return self.budget.get("beside") or {}

    @property
    def achieved(self) -> JSON:
        """What the pruned network came to, by every kind of budget."""
        return self.budget.get("achieved") or {}

    @property
    def budget_kind(self) -> str | None:
        return next(iter(self.asked), None)

    @property
    def plan(self) -> Path:
        return (self.folder if self.control is None else self.folder / branch_folder(self.control)) / PLAN

    def result(self, network: str, name: str) -> float | None:
        """A measured number of a network: ("dense", "top1")."""
        return number(self.results.get(network, {}).get(name))

    def rows_named(self, stage: str) -> str:
        """What the rows of a stage of this run are called in metrics.jsonl."""
        is_shared = self.control is None or stage in SHARED_STAGES or _is_teacher(stage)
        return stage if is_shared else f"{stage} {self.control}"


@dataclass(frozen=True)
class Unfinished:
    """A folder that has no results to compare, and why."""

    folder: Path
    why: str


def number(value: Any) -> float | None:
    """The value if it is a finite number, else None."""
    return value if type(value) in (int, float) and math.isfinite(value) else None  # a bool is no number here


def read_runs(folders: Iterable[Path]) -> tuple[list[Run], list[Unfinished]]:
    """The finished runs among these folders, and the others with the reason. Of folders with many runs it reads and
    keeps an index."""
    folders = list(folders)
    found: dict[Path, Run | Unfinished] = {}
    for parent, beside in group_by(folders, lambda folder: folder.parent).items():
        found |= (
            _read_indexed(parent, beside)
            if len(beside) >= index.MIN_RUNS
            else {folder: read_run(folder) for folder in beside}
        )
    read = [found[folder] for folder in folders]
    return [run for run in read if isinstance(run, Run)], [other for other in read if isinstance(other, Unfinished)]


def _read_indexed(parent: Path, folders: Sequence[Path]) -> dict[Path, Run | Unfinished]:
    """The runs in folders of one parent: from its index where that is fresh."""
    known = index.load(parent)
    stamps = {folder: index.stamp_of(f"{folder}/{SUMMARY}") for folder in folders}
    found: dict[Path, Run | Unfinished] = {}
    fresh: dict[str, index.Entry] = {}
    for folder, stamp in stamps.items():
        entry = known.get(folder.name)
        is_known = entry is not None and entry.stamp == stamp
        run = found[folder] = _of_record(folder, entry.record) if entry and is_known else read_run(folder)
        if not is_known and isinstance(run, Run) and stamp is not None:
            fresh[folder.name] = index.Entry(stamp, _record(run))
    if index.is_worth_writing(len(folders), len(fresh)):
        others = {name: entry for name, entry in known.items() if (parent / name / SUMMARY).is_file()}
        index.save(parent, others | fresh)
    return found


def _record(run: Run) -> JSON:
    """A run as JSON, without its folder."""
    own = {each.name: getattr(run, each.name) for each in fields(run) if each.name not in ("folder", *BRANCHES)}
    return own | {kind: {str(branch.control): _record(branch) for branch in getattr(run, kind)} for kind in BRANCHES}


def _of_record(folder: Path, record: JSON) -> Run:
    branches = {kind: tuple(_of_record(folder, each) for each in record[kind].values()) for kind in BRANCHES}
    return Run(folder=folder, **{**record, **branches})


def read_run(folder: Path) -> Run | Unfinished:
    """The run in a folder. A summary that another program wrote may lack anything but results."""
    try:
        summary = printable_tree(read_json(folder / SUMMARY))
    except FileNotFoundError:
        return Unfinished(folder, f"no {SUMMARY}: not begun, or ended before its first stage")
    except OSError as error:
        return Unfinished(folder, f"{SUMMARY} cannot be read ({error.strerror})")
    except ValueError as error:
        return Unfinished(folder, f"damaged {SUMMARY} ({first_line(error)})")
    if damage := _damage(summary):
        return Unfinished(folder, f"damaged {SUMMARY} ({damage})")
    if (status := summary.get("status", "done")) != "done":
        return Unfinished(folder, _unfinished(str(status), summary, folder))
    if not summary.get("results"):
        return Unfinished(folder, "done, but no network was measured (stages without eval)")
    return _run(folder, summary)


def _damage(summary: Any) -> str | None:
    """The first thing in a summary that should be an object and is none."""
    if not isinstance(summary, dict):
        return "not an object"
    wrong = (path for pattern in OBJECTS for path in _non_objects(summary, pattern.split(".")))
    return next((f"{path} is not an object" for path in wrong), None)


def _non_objects(node: JSON, pattern: Sequence[str], path: str = "") -> Iterator[str]:
    """The paths that match a pattern and lead to something else than an object; missing keys and nulls are fine.

    >>> list(_non_objects({"stages": {"prune": {"recipe": 3}, "eval": {}}}, ["stages", "*", "recipe"]))
    ['stages.prune.recipe']
    """
    if not pattern:
        return
    first, *rest = pattern
    for key in list(node) if first == "*" else [first]:
        value, here = node.get(key), f"{path}.{key}".removeprefix(".")
        if isinstance(value, dict):
            yield from _non_objects(value, rest, here)
        elif value is not None or first == "*":
            yield here


def _unfinished(status: str, summary: JSON, folder: Path) -> str:
    stages = [name for name in summary.get("stages") or {} if name in STAGE_ORDER]
    where = f"after {stages[-1]}" if stages else "in its first stage"
    if status == "running":
        return f"running, {where}; last written to {_ago(folder)}"
    if status == "failed":
        error = (str(summary.get("error") or "").strip().splitlines() or ["no message"])[0]
        return f"failed, {where}: {error[:200]}"
    return f"{status}, {where}"


def _ago(folder: Path) -> str:
    files = [folder / name for name in (SUMMARY, METRICS)]
    seconds = max(0.0, time.time() - max(file.stat().st_mtime for file in files if file.is_file()))
    for unit, length in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit} ago"
    return f"{seconds:.0f} s ago"


def _run(folder: Path, summary: JSON) -> Run:
    results, stages = summary["results"], summary.get("stages") or {}
    split = summary.get("split")
    run = Run(
        folder=folder,
        settings=settings_of(summary.get("config") or {}),
        results={name: row for name, row in results.items() if ", " not in name} or results,
        budget=summary.get("budget") or {},
        stages={name: stage for name, stage in stages.items() if _is_own(name)},
        devices=int(number(summary.get("devices")) or 1),
        seconds=number(summary.get("seconds")),
        started=summary.get("started"),
        fingerprint=split.get("fingerprint") if isinstance(split, dict) else None,
    )
    names = list(dict.fromkeys(name.partition(", ")[2] for name in results if ", " in name))
    return replace(
        run,
        controls=tuple(_branch(run, name, summary) for name in names if not is_step(name)),
        steps=tuple(_branch(run, name, summary) for name in names if is_step(name)),
    )


def _is_own(stage: str) -> bool:
    """Whether a stage is one of the run itself, of its teachers or of the steps that led to it; not of a control."""
    return stage in STAGE_ORDER or _is_teacher(stage) or is_step(stage.partition(" ")[2])


def _is_teacher(stage: str) -> bool:
    """Whether it is the training of a teacher: of the only one, or of one of several, which have names."""
    return stage == "teacher" or stage.startswith("teacher ")


def _branch(run: Run, name: str, summary: JSON) -> Run:
    """A control or a step of a run as a run of its own: the same dense network, another plan."""
    before = {network: row for network, row in run.results.items() if network in SHARED_NETWORKS}
    own = {key.removesuffix(f", {name}"): row for key, row in summary["results"].items() if key.endswith(f", {name}")}
    shared = {stage: done for stage, done in run.stages.items() if stage in SHARED_STAGES or _is_teacher(stage)}
    others = [stage for stage in STAGE_ORDER if stage not in SHARED_STAGES]
    branch = {stage: (summary.get("stages") or {}).get(f"{stage} {name}") for stage in others}
    return Run(
        folder=run.folder,
        settings={**run.settings, **({"step": name.split()[-1]} if is_step(name) else {"control": name})},
        results=before | own,
        budget=(summary.get("steps" if is_step(name) else "controls") or {}).get(name, {}),
        stages=shared | {stage: result for stage, result in branch.items() if result is not None},
        devices=run.devices,
        started=run.started,
        fingerprint=run.fingerprint,
        control=name,
    )


def with_steps(runs: Sequence[Run]) -> list[Run]:
    """Every run, after the steps that led to it."""
    return [row for run in runs for row in (*run.steps, run)]


def with_controls(runs: Sequence[Run]) -> list[Run]:
    """Every run, followed by its controls."""
    return [row for run in runs for row in (run, *run.controls)]
