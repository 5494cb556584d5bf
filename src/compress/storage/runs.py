"""The run folders below outputs/ as the cache sees them: which stages each refers to, and whether it goes on."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from compress.errors import InputError
from compress.io.files import JSON, read_json
from compress.io.locks import is_held
from compress.io.paths import LOCK, SUMMARY
from compress.report.read.run_folders import run_folders

Status = Literal["done", "failed", "interrupted", "at work", "killed", "not begun", "damaged"]


@dataclass(frozen=True)
class RunFolder:
    """A run folder; `stages` has by the name of a step the name of its folder in the cache."""

    path: Path
    status: Status
    stages: dict[str, str]
    config: JSON
    has_teacher: bool = False
    started: str = ""

    @property
    def goes_on(self) -> bool:
        """Whether the same command would take up what is there."""
        return self.status != "done"


def runs_below(paths: Iterable[Path]) -> list[RunFolder]:
    """Every run folder below these, each once; none where there is no such folder."""
    there = [str(path) for path in paths if path.is_dir()]
    try:
        return [read_run_folder(folder) for folder in run_folders(there)]
    except InputError:  # no run below any
        return []


def read_run_folder(folder: Path) -> RunFolder:
    at_work = is_held(folder / LOCK)
    if not (folder / SUMMARY).is_file():
        return RunFolder(folder, "at work" if at_work else "not begun", {}, {})
    try:
        summary = read_json(folder / SUMMARY)
        stages = {str(name): Path(stage["folder"]).name for name, stage in summary["stages"].items()}
        config, status = dict(summary["config"]), summary["status"]
        if status not in ("done", "failed", "interrupted", "running"):
            raise ValueError
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return RunFolder(folder, "damaged", {}, {})
    now: Status = "at work" if at_work else "killed" if status == "running" else status
    return RunFolder(folder, now, stages, config, bool(config.get("teacher")), str(summary.get("started", "")))
