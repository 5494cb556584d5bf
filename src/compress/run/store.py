"""The cache of finished stages under outputs/cache, content-addressed and shared by all runs.

The cache key of a stage is a hash of all that its result depends on. The stage is computed in `<stage>-<key>.partial`
and published by an atomic rename to `<stage>-<key>`, under a file lock that the operating system frees when its
holder dies. result.json holds checksums of all files and of itself; a folder that does not match them is renamed
(quarantine), never deleted, and the stage is computed again.
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

STORE_KEYS = ("files", "launch", "digest")  # keys of result.json that the store adds to the stage's report


@dataclass(frozen=True)
class Finished:
    """A finished stage: its folder, cache key and report; `reused` if it came from the cache."""

    folder: Path
    key: str
    result: JSON
    reused: bool


def stage_key(name: str, depends: Mapping[str, Any]) -> str:
    """The cache key of a stage with these dependencies."""
    return hash_of({"stage": name, **depends})


class Store:
    """The cache of finished stages under one folder.

    `launch` identifies one start of the command, with all its jobs and processes. It is recorded in each result, so
    that a forced stage is computed once per launch and then reused by its other jobs.
    """

    def __init__(self, root: Path, launch: str | None = None) -> None:
        self.root, self._launch = root, launch
        root.mkdir(parents=True, exist_ok=True)

    def holds(self, name: str, depends: Mapping[str, Any]) -> bool:
        """Whether the stage with these dependencies is in the cache, whole."""
        return read_result(self.root / f"{name}-{stage_key(name, depends)}") is not None

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
        """The stage with these dependencies, from the cache or computed now; its rows go to `on_row` either way.

        `compute(work)` returns the report: JSON with at least `seconds`, and `made` (a word for the result). With
        `redo` the cached result is replaced once the new one is complete. `called` is the name of the stage in log
        lines.
        """
        key = stage_key(name, depends)
        folder = self.root / f"{name}-{key}"
        if (cached := self._cached(folder, redo)) is not None:
            return self._reuse(called or name, folder, key, cached, on_row)
        busy = f"{folder.name}: another process is computing it; waiting"
        with locked(folder.with_suffix(".lock"), busy):
            _recover(folder)
            if (cached := self._cached(folder, redo)) is not None:  # finished by another process during the wait
                return self._reuse(called or name, folder, key, cached, on_row)
            result = compute(StageFolder(_partial(folder, depends), on_row))
            _write_result(folder.with_suffix(".partial"), {**result, "launch": self._launch})
            _publish(folder)
        return Finished(folder, key, result, reused=False)

    def _cached(self, folder: Path, redo: bool) -> JSON | None:
        """The valid cached result, or None; with `redo` only one of this launch counts."""
        result = read_result(folder)
        is_new = result is not None and self._launch is not None and result.get("launch") == self._launch
        return result if is_new or not redo else None

    def _reuse(self, name: str, folder: Path, key: str, cached: JSON, on_row: Callable[[Row], None]) -> Finished:
        result = {key: value for key, value in cached.items() if key not in STORE_KEYS}
        for row in read_rows(folder):
            on_row(row)
        log.info("%s: the %s is reused from %s (saves %.1f s)", name, result["made"], folder, result["seconds"])
        return Finished(folder, key, result, reused=True)


def _write_result(folder: Path, result: JSON) -> None:
    files = {path.name: file_checksum(path) for path in sorted(folder.iterdir()) if path.name != PROGRESS}
    whole = json_round_trip({**result, "files": files})
    write_json(folder / RESULT, {**whole, "digest": hash_of(whole, 64)})


def read_result(folder: Path) -> JSON | None:
    """The result of a stage's folder, if its digest and the checksums of all its files match; None otherwise."""
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
    """Repair what a kill or a damaged disk left; called under the lock of the stage.

    A complete result that was not published yet is published; one that was being replaced is restored; an invalid
    folder is quarantined.
    """
    old = folder.with_suffix(".old")
    if read_result(folder.with_suffix(".partial")) is not None:
        _publish(folder)
    elif not os.path.lexists(folder) and read_result(old) is not None:
        old.rename(folder)
    if os.path.lexists(folder) and read_result(folder) is None:
        quarantine(folder, "it is no whole stage; it is computed again")


def _partial(folder: Path, depends: Mapping[str, Any]) -> Path:
    """The folder to compute a stage in, with the progress of a killed process if that computed the same stage."""
    partial = folder.with_suffix(".partial")
    if os.path.lexists(partial) and not _belongs_to(partial, depends):
        quarantine(partial, "it holds no beginning of this stage")
    partial.mkdir(exist_ok=True)
    write_json(partial / DEPENDS, depends)
    return partial


def _belongs_to(partial: Path, depends: Mapping[str, Any]) -> bool:
    """Whether a partial folder belongs to the stage with these dependencies; an empty one counts."""
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
    """Rename the partial folder to its final name; a valid result under that name is deleted only afterwards."""
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
    """Delete a result that was replaced; anything else under its name is quarantined."""
    if read_result(old) is not None:
        shutil.rmtree(old, ignore_errors=True)
    elif os.path.lexists(old):
        quarantine(old, "it is no whole stage")
