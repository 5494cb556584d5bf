"""What a tracker is: settings, which open for one run what its rows and its end are told to."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from compress.io.files import JSON, Row, read_json, write_json
from compress.io.paths import TRACKED
from compress.report.read.metrics import step_of


@dataclass(frozen=True)
class Entry:
    """A row, with its place among the rows of its stage."""

    row: Row
    prefix: str  # of the names of its values: the stage, and the target of rows that have one
    counted_by: str  # "epoch"; "row" where the row names no step
    step: int

    def scalars(self) -> dict[str, int | float]:
        """The numbers of the row by full name, "finetune/loss", without those that say where the row belongs.
        Without NaN, which no tracker draws."""
        return {
            f"{self.prefix}/{name}": value
            for name, value in self.row.items()
            if isinstance(value, int | float) and name not in ("target", self.counted_by) and value == value
        }


class Entries:
    """Makes entries of the rows of one run, which come in order."""

    def __init__(self) -> None:
        self._count: Counter[str] = Counter()

    def __call__(self, row: Row) -> Entry:
        stage, counted = row["stage"], step_of(row)
        prefix = f"{stage}/{row['target']:g}" if "target" in row else stage
        before = self._count[stage]
        self._count[stage] += 1
        return (
            Entry(row, prefix, "row", before) if counted is None else Entry(row, prefix, counted[0], int(counted[1]))
        )


class Tracked(Protocol):
    """One run in a tracker. What a method of it raises is told once, and the run goes on without it."""

    def row(self, entry: Entry) -> None: ...

    def end(self, summary: JSON) -> None:
        """`summary`: that of summary.json, with its status and, if it has come so far, the results."""


class Tracker(Protocol):
    """The settings of a tracker (conf/tracker/)."""

    def require(self, asked_by: str) -> None:
        """
        Raises:
            InputError: packages that it needs are missing; names `asked_by`, the setting that asks for them.
        """

    def begin(self, folder: Path, summary: JSON) -> Tracked | None:
        """Open it for the run in `folder`, whose rows all come again if the run was there before. None: no tracker.

        `summary`: that of summary.json, without results yet.
        """


@dataclass(frozen=True)
class NoTracker:
    def require(self, asked_by: str) -> None:
        pass

    def begin(self, folder: Path, summary: JSON) -> None:
        pass


def remembered(folder: Path, name: str) -> JSON:
    """What a tracker has kept in a run folder to know the run again; {} without any, or where it cannot be read."""
    kept = _all_remembered(folder).get(name)
    return kept if isinstance(kept, dict) else {}


def remember(folder: Path, name: str, content: JSON) -> None:
    write_json(folder / TRACKED, {**_all_remembered(folder), name: content})


def _all_remembered(folder: Path) -> JSON:
    try:
        kept = read_json(folder / TRACKED)
    except (OSError, ValueError):
        return {}
    return kept if isinstance(kept, dict) else {}


def flat(node: Mapping[str, Any], between: str, prefix: str = "") -> JSON:
    """Values by their path: {"a": {"b": 1}} is {"a.b": 1} with "." between.

    >>> flat({"a": {"b": 1, "c": {}}, "d": [2]}, "/")
    {'a/b': 1, 'd': [2]}
    """
    found: JSON = {}
    for key, value in node.items():
        path = f"{prefix}{between}{key}" if prefix else key
        found |= flat(value, between, path) if isinstance(value, Mapping) else {path: value}
    return found


def told_settings(summary: JSON) -> JSON:
    """All settings of a run by path, but those of the tracker itself: its address may be nobody else's business."""
    config: JSON = summary["config"]
    return flat({key: value for key, value in config.items() if key not in ("tracker", "hydra")}, ".")


def told_results(summary: JSON) -> dict[str, int | float]:
    """The numbers of the results by path: "results/finetuned/top1"."""
    found = flat(summary.get("results") or {}, "/", "results")
    return {key: value for key, value in found.items() if isinstance(value, int | float) and value == value}
