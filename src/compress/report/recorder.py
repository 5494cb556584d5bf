"""Writes the rows of a run as they come, to metrics.jsonl, and tells them to its trackers."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

from compress.io.files import JSON, Row
from compress.io.paths import METRICS, METRICS_TABLE
from compress.report.trackers import in_tensorboard
from compress.report.trackers.guarded import Guarded
from compress.report.trackers.tracker import Entries, Tracker


class Recorder:
    """Of one run folder. Its files begin anew: the pipeline hands over the rows of reused stages too."""

    def __init__(self, folder: Path, trackers: Sequence[Tracker], summary: JSON) -> None:
        """`summary`: that of summary.json at the beginning of the run."""
        self._file = open(folder / METRICS, "w")  # noqa: SIM115 (open as long as the run)
        (folder / METRICS_TABLE).unlink(missing_ok=True)
        shutil.rmtree(folder / in_tensorboard.FOLDER, ignore_errors=True)
        self._entries = Entries()
        self._trackers = [Guarded(tracker, folder, summary) for tracker in trackers]

    def row(self, row: Row) -> None:
        self._file.write(json.dumps(row) + "\n")
        self._file.flush()
        entry = self._entries(row)
        for tracker in self._trackers:
            tracker.row(entry)

    def close(self, summary: JSON) -> None:
        """`summary`: that of summary.json at the end of the run."""
        self._file.close()
        for tracker in self._trackers:
            tracker.end(summary)
