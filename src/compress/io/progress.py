"""How far a long loop is: a bar on a terminal; elsewhere, and in the log file of a run, a line every so often."""

import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from types import TracebackType
from typing import Any

from tqdm import tqdm

log = logging.getLogger(__name__)

# 76 columns with "pretrain", a loss and an accuracy
BAR = "{desc} {percentage:3.0f}%|{bar:10}| {n_fmt}/{total_fmt} {unit}s, {remaining} left{postfix}"
BAR_OF_UNKNOWN = "{desc} {n_fmt} {unit}s, {elapsed}{postfix}"  # where the end is not known before

LINES = 20

_watch: ContextVar[Callable[["Progress"], None] | None] = ContextVar("watch of all progress", default=None)


class Progress:
    """Of one loop with `total` steps, `done` of which an earlier process has made; None: it ends when it ends.

    A line tells of every step with `every_step`, or where the end is not known; else there are about `LINES` of the
    whole loop. Used as a context manager, around the loop.
    """

    def __init__(
        self,
        stage: str,
        unit: str,
        total: int | None,
        done: int = 0,
        *,
        every_step: bool = False,
        hidden: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.stage, self.unit, self.total, self.done = stage, unit, total, done
        self._every = 1 if every_step or total is None else max(1, total // LINES)
        self._hidden, self._clock = hidden, clock
        self._began, self._first = clock(), done

    def __enter__(self) -> "Progress":
        self._bar: Any = tqdm(
            total=self.total, initial=self.done, desc=self.stage, unit=self.unit, leave=False, dynamic_ncols=True,
            bar_format=BAR_OF_UNKNOWN if self.total is None else BAR,
            disable=True if self._hidden else None,  # None: the bar is shown on a terminal only
        )  # fmt: skip
        self._began = self._clock()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        self._bar.close()

    def advance(self, figures: str, steps: int = 1) -> None:
        """Further steps are made; `figures` is what they gave, in a few words."""
        before, self.done = self.done, self.done + steps
        self._bar.set_postfix_str(figures, refresh=False)
        self._bar.update(steps)
        if not self._hidden and (before // self._every < self.done // self._every or self.done == self.total):
            # on a terminal the bar tells the same
            log.info("%s: %s", self.stage, self.line(figures), extra={"file_only": sys.stdout.isatty()})
        if (watch := _watch.get()) is not None:
            watch(self)

    @property
    def rate(self) -> float:
        """Seconds for a step, of those that this process has made."""
        return (self._clock() - self._began) / max(1, self.done - self._first)

    @property
    def seconds_left(self) -> float | None:
        return None if self.total is None else self.rate * (self.total - self.done)

    def line(self, figures: str) -> str:
        """epoch 3 of 14, loss 0.412, held-out top-1 91.20 %; 1.2 s each, 13 s left."""
        of = "" if self.total is None else f" of {self.total}"
        left = f", {duration(self.seconds_left)} left" if self.seconds_left else ""
        return f"{self.unit} {self.done}{of}, {figures}; {duration(self.rate)} each{left}"


@contextmanager
def watched(watch: Callable[[Progress], None]) -> Iterator[None]:
    """In the block, `watch` is called after every step of every loop; what it raises ends the loop."""
    token = _watch.set(watch)
    try:
        yield
    finally:
        _watch.reset(token)


def duration(seconds: float) -> str:
    """2 ms, 0.35 s, 12 s, 3 min 20 s, 2 h 05 min, 3 d 04 h."""
    if seconds < 0.0995:
        return f"{1000 * seconds:.2g} ms"
    if seconds < 9.95:
        return f"{seconds:.2g} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    for size, unit, small_size, small in ((3600, "min", 1, "s"), (86400, "h", 60, "min")):
        if whole < size:
            large = size // 60 if unit == "min" else 3600
            return f"{whole // large} {unit} {whole % large // small_size:02d} {small}"
    return f"{whole // 86400} d {whole % 86400 // 3600:02d} h"
