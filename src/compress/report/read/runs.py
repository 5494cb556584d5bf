"""Run folders, read into frozen objects. No torch, no Hydra."""

import math
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from compress.errors import first_line
from compress.io.files import JSON, printable_tree, read_json
from compress.io.paths import METRICS, PLAN, SUMMARY
from compress.report.table.differences import settings_of
from compress.schema.settings import FROM_SCRATCH, NETWORK_NAMES, STAGE_ORDER

LAST_FIRST = (FROM_SCRATCH, *reversed(NETWORK_NAMES.values()))
# What must be an object wherever it is in a summary.
OBJECTS = (
    "config", "results.*", "stages.*.recipe", "stages.*.thresholds", "budget.asked", "budget.achieved",
    "controls.*.asked", "controls.*.achieved",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Run:
    """A finished run, or one of its controls, with as much as its summary has."""

    folder: Path
    settings: Mapping[str, Any] = field(default_factory=dict)  # flat: see differing.settings_of
    results: Mapping[str, JSON] = field(default_factory=dict)  # of its own networks: dense, pruned, ...
    budget: JSON = field(default_factory=dict)  # asked, achieved, met
    stages: Mapping[str, JSON] = field(default_factory=dict)
    devices: int = 1  # processes that trained together
    seconds: float | None = None  # this run alone, without what it reused
    started: str | None = None
    fingerprint: str | None = None  # of the images
    control: str | None = None  # "random 1", if it is one
    controls: tuple["Run", ...] = ()

    @property
    def final(self) -> str:
        return next((name for name in LAST_FIRST if name in self.results), list(self.results)[-1])

    @property
    def budget_kind(self) -> str | None:
        return next(iter(self.budget.get("asked") or {}), None)

    @property
    def plan(self) -> Path:
        folder = self.folder if self.control is None else self.folder / "controls" / self.control.replace(" ", "-")
        return folder / PLAN

    def figure(self, network: str, name: str) -> float | None:
        return number(self.results.get(network, {}).get(name))


@dataclass(frozen=True)
class Unfinished:
    """A folder that has no results to compare, and why."""

    folder: Path
    why: str


def number(value: Any) -> float | None:
    """A figure, if it is one."""
    good = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return value if good else None


def read_runs(folders: Iterable[Path]) -> tuple[list[Run], list[Unfinished]]:
    read = [read_run(folder) for folder in folders]
    return [run for run in read if isinstance(run, Run)], [one for one in read if isinstance(one, Unfinished)]


def read_run(folder: Path) -> Run | Unfinished:
    """A summary that other programs wrote is read too, for as much as it has."""
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
    """The first thing that is not the object that it must be."""
    if not isinstance(summary, dict):
        return "not an object"
    wrong = (path for pattern in OBJECTS for path in _no_objects(summary, pattern.split(".")))
    return next((f"{path} is not an object" for path in wrong), None)


def _no_objects(node: JSON, pattern: Sequence[str], path: str = "") -> Iterator[str]:
    """Where a path of keys (`*` is any) leads to something else; keys that are missing or null are left out."""
    if not pattern:
        return
    first, *rest = pattern
    for key in list(node) if first == "*" else [first]:
        value, here = node.get(key), f"{path}.{key}".removeprefix(".")
        if isinstance(value, dict):
            yield from _no_objects(value, rest, here)
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
        stages={name: stage for name, stage in stages.items() if name in (*STAGE_ORDER, "teacher")},
        devices=int(number(summary.get("devices")) or 1),
        seconds=number(summary.get("seconds")),
        started=summary.get("started"),
        fingerprint=split.get("fingerprint") if isinstance(split, dict) else None,
    )
    names = list(dict.fromkeys(name.partition(", ")[2] for name in results if ", " in name))
    controls = tuple(_control(run, name, summary) for name in names)
    return replace(run, controls=controls)


def _control(run: Run, name: str, summary: JSON) -> Run:
    """A control of a run as a run of its own: the same dense network, another plan."""
    before = {network: row for network, row in run.results.items() if network in ("dense", "sparsified")}
    own = {key.removesuffix(f", {name}"): row for key, row in summary["results"].items() if key.endswith(f", {name}")}
    shared = {stage: run.stages[stage] for stage in ("teacher", "pretrain", "sparsify") if stage in run.stages}
    branch = {stage: (summary.get("stages") or {}).get(f"{stage} {name}") for stage in ("prune", "finetune")}
    return Run(
        folder=run.folder,
        settings={**run.settings, "control": name},
        results=before | own,
        budget=(summary.get("controls") or {}).get(name, {}),
        stages=shared | {stage: result for stage, result in branch.items() if result is not None},
        devices=run.devices,
        started=run.started,
        fingerprint=run.fingerprint,
        control=name,
    )


def with_controls(runs: Sequence[Run]) -> list[Run]:
    """Every run, followed by its controls."""
    return [row for run in runs for row in (run, *run.controls)]
