"""A tracker that cannot hurt the run: the first error is told in one line, and it gets nothing more."""

import logging
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from compress.errors import first_line
from compress.io.files import JSON
from compress.io.paths import METRICS
from compress.report.trackers.tracker import Entry, Tracked, Tracker

log = logging.getLogger(__name__)

T = TypeVar("T")


class Guarded:
    def __init__(self, tracker: Tracker, folder: Path, summary: JSON) -> None:
        self._name = type(tracker).__name__
        self._tracked: Tracked | None = self._safely(lambda: tracker.begin(folder, summary))

    def row(self, entry: Entry) -> None:
        if (tracked := self._tracked) is not None:
            self._safely(lambda: tracked.row(entry))

    def end(self, summary: JSON) -> None:
        if (tracked := self._tracked) is not None:
            self._safely(lambda: tracked.end(summary))

    def _safely(self, action: Callable[[], T]) -> T | None:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of the tracker's own dependencies
                return action()
        except Exception as error:  # of other people's code, and of servers
            self._tracked = None
            log.warning(
                "%s: has failed and is told nothing more of this run, which goes on; its rows are in %s (%s)",
                self._name,
                METRICS,
                first_line(error),
            )
            return None
