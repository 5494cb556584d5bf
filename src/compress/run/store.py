"""Finished stages, kept once under outputs/cache and shared by every run.

A stage's name is a hash of all that its result depends on. It is computed in `<stage>-<key>.partial` and renamed
when whole, under a lock that the operating system frees when its holder dies. A result knows the digests of its files
and its own; whatever else stands where a stage should stand is put aside, never deleted, and computed anew.
"""

import logging
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compress.io.files import (
    JSON,
    Row,
    file_checksum,
    hash_of,
    json_round_trip,
    quarantine,
    read_json,
    read_rows,
    write_json,
)
from compress.io.locks import locked
from compress.io.paths import DEPENDS, PROGRESS, RESULT
from compress.io.stage_folder import StageFolder, read_progress

log = logging.getLogger(__name__)

OF_THE_STORE = ("files", "launch", "digest")  # what stands in a result beside what its stage reported


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
        compute: Callable[[StageFolder], JSON],
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
        if (kept := self._kept(folder, redo)) is not None:
            return self._reuse(called or name, folder, key, kept, on_row)
        busy = f"{folder.name}: another process is computing it; waiting"
        with locked(folder.with_suffix(".lock"), busy):
            _recover(folder)
            if (kept := self._kept(folder, redo)) is not None:  # another process finished it while this one waited
                return self._reuse(called or name, folder, key, kept, on_row)
            result = compute(StageFolder(_partial(folder, depends), on_row))
            _write_result(folder.with_suffix(".partial"), {**result, "launch": self._launch})
            _publish(folder)
        return Finished(folder, key, result, reused=False)

    def _kept(self, folder: Path, redo: bool) -> JSON | None:
        """The result that is there, unless it is to be computed again."""
        result = read_result(folder)
        is_new = result is not None and self._launch is not None and result.get("launch") == self._launch
        return result if is_new or not redo else None

    def _reuse(self, name: str, folder: Path, key: str, kept: JSON, on_row: Callable[[Row], None]) -> Finished:
        result = {key: value for key, value in kept.items() if key not in OF_THE_STORE}
        for row in read_rows(folder):
            on_row(row)
        log.info("%s: the %s is reused from %s (saves %.1f s)", name, result["made"], folder, result["seconds"])
        return Finished(folder, key, result, reused=True)


def _write_result(folder: Path, result: JSON) -> None:
    files = {path.name: file_checksum(path) for path in sorted(folder.iterdir()) if path.name != PROGRESS}
    whole = json_round_trip({**result, "files": files})
    write_json(folder / RESULT, {**whole, "digest": hash_of(whole, 64)})


def read_result(folder: Path) -> JSON | None:
    """What a finished stage reported, if its folder is whole: the result and all files as they were written."""
    try:
        result = read_json(folder / RESULT)
        digest = result.pop("digest")
        is_whole = digest == hash_of(result, 64) and all(
            file_checksum(folder / name) == written for name, written in result["files"].items()
        )
        is_whole = is_whole and isinstance(result["made"], str) and result["seconds"] >= 0
        return result if is_whole and not folder.is_symlink() else None
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None


def _recover(folder: Path) -> None:
    """Put right what a kill, a damaged disk or a stranger left, under the stage's lock.

    A result that was whole but not yet published is published; one that was being replaced comes back; anything else
    in its place is put aside.
    """
    old = folder.with_suffix(".old")
    if read_result(folder.with_suffix(".partial")) is not None:
        _publish(folder)
    elif not os.path.lexists(folder) and read_result(old) is not None:
        old.rename(folder)
    if os.path.lexists(folder) and read_result(folder) is None:
        quarantine(folder, "it is no whole stage; it is computed again")


def _partial(folder: Path, depends: Mapping[str, Any]) -> Path:
    """The folder to compute a stage in, with what a killed process left of this very stage."""
    partial = folder.with_suffix(".partial")
    if os.path.lexists(partial) and not _is_of(partial, depends):
        quarantine(partial, "it holds no beginning of this stage")
    partial.mkdir(exist_ok=True)
    write_json(partial / DEPENDS, depends)
    return partial


def _is_of(partial: Path, depends: Mapping[str, Any]) -> bool:
    """Whether a folder is where this stage was being computed; an empty one may be."""
    if partial.is_symlink() or not partial.is_dir():
        return False
    entries = list(partial.iterdir())
    if all(path.name.startswith(".") for path in entries):
        return True
    try:
        read_progress(partial)
        is_ours = read_json(partial / DEPENDS) == json_round_trip(depends)
    except (OSError, ValueError):  # DamagedError is one
        return False
    return is_ours and all(path.is_file() and not path.is_symlink() for path in entries)


def _publish(folder: Path) -> None:
    """Give a finished stage its name; a whole one that had it before is deleted only afterwards."""
    partial, old = folder.with_suffix(".partial"), folder.with_suffix(".old")
    if os.path.lexists(folder) and read_result(folder) is None:
        quarantine(folder, "it is no whole stage")
    if folder.is_dir():
        if os.path.lexists(old):
            _remove(old)
        folder.rename(old)
    partial.rename(folder)
    (folder / PROGRESS).unlink(missing_ok=True)
    _remove(old)


def _remove(old: Path) -> None:
    """The result that another has replaced; whatever else has its name is put aside."""
    if read_result(old) is not None:
        shutil.rmtree(old, ignore_errors=True)
    elif os.path.lexists(old):
        quarantine(old, "it is no whole stage")
