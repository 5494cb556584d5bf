"""Finished stages, kept once under outputs/cache and shared by every run; and a run's own folder.

A stage's name is a hash of all that its result depends on. It is computed in `<stage>-<key>.partial` and renamed
when whole, under a lock that the operating system frees when its holder dies.
"""

import logging
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from compress.files import JSON, Row, hash_of, read_json, read_rows, write_json
from compress.paths import RESULT
from compress.work import Work

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Finished:
    """A stage that is done: its folder, its key, what it reported and what it took."""

    folder: Path
    key: str
    result: JSON
    seconds: float
    reused: bool


class Store:
    """The cache of finished stages under one folder."""

    def __init__(self, root: Path) -> None:
        self._root = root
        root.mkdir(parents=True, exist_ok=True)

    def stage(
        self,
        name: str,
        depends: Mapping[str, Any],
        compute: Callable[[Work], JSON],
        *,
        redo: bool,
        on_row: Callable[[Row], None],
    ) -> Finished:
        """The finished stage of these dependencies: from the cache, or computed now.

        `compute(work)` returns the result to report, with `seconds` and, in a word, what was `made`. With `redo`,
        what is cached is replaced once the new result is whole.
        """
        key = hash_of({"stage": name, **depends})
        folder = self._root / f"{name}-{key}"
        if not redo and folder.is_dir():
            return self._reuse(name, folder, key, on_row)
        with self._locked(folder):
            if not redo and folder.is_dir():  # another process finished it while this one waited
                return self._reuse(name, folder, key, on_row)
            partial = folder.with_suffix(".partial")
            if redo:
                shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(exist_ok=True)
            write_json(partial / "depends.json", depends)
            work = Work(partial, on_row)
            result = compute(work)
            work.finish()
            write_json(partial / RESULT, result)
            self._publish(partial, folder)
        return Finished(folder, key, result, result["seconds"], reused=False)

    def _reuse(self, name: str, folder: Path, key: str, on_row: Callable[[Row], None]) -> Finished:
        result = read_json(folder / RESULT)
        for row in read_rows(folder):
            on_row(row)
        log.info("%s: the %s is reused from %s (saves %.1f s)", name, result["made"], folder, result["seconds"])
        return Finished(folder, key, result, result["seconds"], reused=True)

    @staticmethod
    def _publish(partial: Path, folder: Path) -> None:
        old = folder.with_suffix(".old")
        if folder.is_dir():
            shutil.rmtree(old, ignore_errors=True)
            folder.rename(old)
        partial.rename(folder)
        shutil.rmtree(old, ignore_errors=True)

    @contextmanager
    def _locked(self, folder: Path) -> Iterator[None]:
        """Hold the stage's lock; says so once when another process has it."""
        lock = FileLock(folder.with_suffix(".lock"))
        try:
            lock.acquire(timeout=0)
        except Timeout:
            log.info("%s: another process is computing it; waiting", folder.name)
            lock.acquire(poll_interval=0.2)
        try:
            yield
        finally:
            lock.release()
