"""The folder in which a stage runs: its results, its metrics, and progress to resume from after a kill."""

import hashlib
import io
import json
import logging
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from compress.io.files import (
    JSON,
    Row,
    atomic,
    read_rows,
    require_regular_file,
)
from compress.io.paths import DEPENDS, METRICS, MODEL, PLAN, PROGRESS

log = logging.getLogger(__name__)


class DamagedError(ValueError):
    """Saved progress is damaged, or of another stage."""


def _sealed(folder: Path, state: bytes) -> bytes:
    """`state` behind 64 hex digits: a digest of it and of the folder's depends.json, so that progress of a stage with
    other settings is not mistaken for this one's."""
    depends = folder / DEPENDS
    settings = depends.read_bytes() if depends.is_file() else b""
    return hashlib.sha256(settings + hashlib.sha256(state).digest()).hexdigest().encode() + state


def read_progress(folder: Path) -> tuple[JSON | None, list[JSON]]:
    """The last saved progress of the stage in a folder, None if there is none, and the metrics rows up to it.

    Raises:
        DamagedError: the files are damaged, unreadable or of another stage.
    """
    path = folder / PROGRESS
    try:
        if not os.path.lexists(path):
            return None, []
        require_regular_file(path)
        content = path.read_bytes()
        if content != _sealed(folder, content[64:]):
            raise DamagedError(f"{path} is damaged, or of another stage")
        progress: JSON = torch.load(io.BytesIO(content[64:]), map_location="cpu", weights_only=True)
        rows = read_rows(folder)[: progress["rows"]]
        if len(rows) < progress["rows"]:
            raise DamagedError(f"{folder / METRICS} is cut short")
    except OSError as error:
        raise DamagedError(f"{path} cannot be read ({error.strerror})") from None
    except DamagedError:
        raise
    except ValueError:
        raise DamagedError(f"{folder / METRICS} is damaged") from None
    return progress, rows


class StageFolder:
    """The folder of one stage while it runs. `on_row` is called with every metrics row, resumed ones first; `resumed`
    is the state that the last `progress` saved, None for a fresh start."""

    def __init__(self, folder: Path, on_row: Callable[[Row], None] = lambda row: None) -> None:
        self.folder = folder
        self.on_row = on_row
        self._began = self._saved_at = time.monotonic()
        for leftover in folder.glob(".*.part"):  # of `atomic` in a process that was killed
            leftover.unlink()
        self.resumed = self._resume()

    def seconds(self) -> float:
        """Seconds spent on the stage so far, those of killed processes included, up to their last saved progress."""
        return self._spent_before + time.monotonic() - self._began

    @property
    def model(self) -> Path:
        return self.folder / MODEL

    @property
    def plan(self) -> Path:
        return self.folder / PLAN

    def _resume(self) -> JSON | None:
        """The last saved state, or None for a fresh start. Rows written after it are dropped from metrics.jsonl."""
        try:
            progress, rows = read_progress(self.folder)
        except DamagedError as error:
            log.warning("%s; the stage begins anew", error)
            progress, rows = None, []
        self._spent_before: float = progress["seconds"] if progress else 0.0
        with atomic(self.folder / METRICS) as part:
            part.write_text("".join(json.dumps(row) + "\n" for row in rows))
        for row in rows:
            self.on_row(row)
        self._rows = len(rows)
        return progress["state"] if progress else None

    def row(self, **values: Any) -> None:
        """Append a row to the stage's metrics.jsonl, and pass it to `on_row`."""
        with open(self.folder / METRICS, "a") as file:
            file.write(json.dumps(values) + "\n")
        self._rows += 1
        self.on_row(values)

    def progress(self, state: Callable[[], JSON], every_seconds: float = 0) -> None:
        """Save `state()` (for torch.save) as the state to resume from, unless the last one is newer than
        `every_seconds`."""
        if time.monotonic() - self._saved_at >= every_seconds:
            whole = io.BytesIO()
            torch.save({"rows": self._rows, "seconds": self.seconds(), "state": state()}, whole)
            with atomic(self.folder / PROGRESS) as part:
                part.write_bytes(_sealed(self.folder, whole.getvalue()))
            self._saved_at = time.monotonic()
