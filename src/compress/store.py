"""Finished stages, kept once under outputs/cache and shared by every run.

A stage's name is a hash of all that its result depends on. It is computed in `<stage>-<key>.partial` and renamed
when whole, under a lock that the operating system frees when its holder dies.
"""

import logging
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compress.files import JSON, Row, hash_of, read_json, read_rows, write_json
from compress.locks import locked
from compress.paths import PROGRESS, RESULT
from compress.work import Work

log = logging.getLogger(__name__)

OF_THE_STORE = ("files", "launch")  # what stands in a result beside what its stage reported


@dataclass(frozen=True)
class Finished:
    """A stage that is done: its folder, its key and what it reported."""

    folder: Path
    key: str
    result: JSON
    reused: bool


def stage_key(name: str, depends: Mapping[str, Any]) -> str:
    """The name of a stage's result among those of its kind."""
    return hash_of({"stage": name, **depends})


class Store:
    """The cache of finished stages under one folder.

    What is to be computed again is so once in a launch (one start of the command, whatever its jobs and processes):
    a result remembers in which it was computed.
    """

    def __init__(self, root: Path, launch: str | None = None) -> None:
        self._root, self._launch = root, launch
        root.mkdir(parents=True, exist_ok=True)

    def stage(
        self,
        name: str,
        depends: Mapping[str, Any],
        compute: Callable[[Work], JSON],
        *,
        redo: bool,
        on_row: Callable[[Row], None],
        called: str | None = None,
    ) -> Finished:
        """The finished stage of these dependencies: from the cache, or computed now.

        `compute(work)` returns the result to report, with `seconds` and, in a word, what was `made`. With `redo`,
        what is cached is replaced once the new result is whole. `called` is what it is called to people.
        """
        key = stage_key(name, depends)
        folder = self._root / f"{name}-{key}"
        if self._is_good(folder, redo):
            return self._reuse(called or name, folder, key, on_row)
        busy = f"{folder.name}: another process is computing it; waiting"
        with locked(folder.with_suffix(".lock"), busy):
            _recover(folder)
            if self._is_good(folder, redo):  # another process finished it while this one waited
                return self._reuse(called or name, folder, key, on_row)
            partial = folder.with_suffix(".partial")
            partial.mkdir(exist_ok=True)
            write_json(partial / "depends.json", depends)
            result = compute(Work(partial, on_row))
            sizes = {path.name: path.stat().st_size for path in partial.iterdir() if path.name != PROGRESS}
            write_json(partial / RESULT, {**result, "files": sizes, "launch": self._launch})
            _publish(folder)
        return Finished(folder, key, result, reused=False)

    def _is_good(self, folder: Path, redo: bool) -> bool:
        if not _whole(folder):
            return False
        return not redo or (self._launch is not None and read_json(folder / RESULT).get("launch") == self._launch)

    def _reuse(self, name: str, folder: Path, key: str, on_row: Callable[[Row], None]) -> Finished:
        result = {key: value for key, value in read_json(folder / RESULT).items() if key not in OF_THE_STORE}
        for row in read_rows(folder):
            on_row(row)
        log.info("%s: the %s is reused from %s (saves %.1f s)", name, result["made"], folder, result["seconds"])
        return Finished(folder, key, result, reused=True)


def _whole(folder: Path) -> bool:
    """Whether a stage's folder is there with all of its files at the size they were written."""
    try:
        sizes = read_json(folder / RESULT)["files"]
        return all((folder / name).stat().st_size == size for name, size in sizes.items())
    except (OSError, ValueError, TypeError, KeyError):
        return False


def _recover(folder: Path) -> None:
    """Put right what a kill or a damaged disk left, under the stage's lock.

    A result that was whole but not yet published is published; one that was being replaced comes back; a damaged one
    is put aside.
    """
    old = folder.with_suffix(".old")
    if _whole(folder.with_suffix(".partial")):
        _publish(folder)
    elif not folder.is_dir() and old.is_dir():
        old.rename(folder)
    if folder.is_dir() and not _whole(folder):
        aside = folder.with_suffix(".damaged")
        log.warning("%s is damaged; it is put aside as %s and computed again", folder, aside.name)
        shutil.rmtree(aside, ignore_errors=True)
        folder.rename(aside)


def _publish(folder: Path) -> None:
    """Give a finished stage its name; what had it before is deleted only afterwards."""
    partial, old = folder.with_suffix(".partial"), folder.with_suffix(".old")
    if folder.is_dir():
        shutil.rmtree(old, ignore_errors=True)
        folder.rename(old)
    partial.rename(folder)
    (folder / PROGRESS).unlink(missing_ok=True)
    shutil.rmtree(old, ignore_errors=True)
