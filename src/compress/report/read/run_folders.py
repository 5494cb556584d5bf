"""The run folders below the paths and globs of a command line."""

import glob
import math
import os
import re
import stat
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from compress.errors import InputError
from compress.io.paths import SUMMARY

NUMBER = re.compile(r"(\d+(?:\.\d+)?)")
Identity = tuple[int, int]  # of a folder: its device and inode

NOT_ENTERED = ("cache", "controls", "steps", "tb", "wandb", "mlruns", "plots")
# They hold no runs, unless a run itself is called so.


def run_folders(arguments: Iterable[str]) -> list[Path]:
    """The run folders that are, or lie below, what paths and globs name: each once, those of one path by name.

    Raises:
        InputError: a path that is not there, a glob without a match, or no run below any.
    """
    seen: set[Identity] = set()
    found: list[Path] = []
    problems: list[str] = []
    arguments = list(arguments)
    for argument in arguments:
        paths = _expanded(os.path.expanduser(argument))
        if not paths:
            what = "nothing matches it" if glob.has_magic(argument) else "no such folder"
            problems.append(f"{argument}: {what}; give run folders, or folders above them such as outputs")
        for path in paths:
            found += sorted(map(Path, _below(str(path), seen)), key=_natural)
    if problems:
        raise InputError(*problems)
    if not found:
        raise InputError(
            f"{' '.join(arguments)}: no run found; a run folder holds {SUMMARY}, the cache holds no runs"
        )
    return found


def without_runs(arguments: Sequence[str]) -> list[str]:
    """The paths and globs that name folders, but no run. Files do not count: a shell's * names them too."""
    expanded = {argument: _expanded(os.path.expanduser(argument)) for argument in dict.fromkeys(arguments)}
    return [
        argument
        for argument, paths in expanded.items()
        if any(os.path.isdir(path) and path.name not in NOT_ENTERED for path in paths)
        and not any(_holds_run(path) for path in paths)
    ]


def _holds_run(path: Path) -> bool:
    return next(_below(str(path), set()), None) is not None


def _expanded(argument: str) -> list[Path]:
    path = Path(argument)
    if path.exists():
        return [path]
    return [Path(match) for match in sorted(glob.glob(argument, recursive=True))]


def _below(folder: str, seen: set[Identity]) -> Iterator[str]:
    """`folder` if it is a run's, and the run folders below it; links are followed, no folder is entered twice."""
    if os.path.basename(folder) == SUMMARY:
        folder = os.path.dirname(folder) or "."
    identity = _identity(folder)
    if identity is None or identity in seen:
        return
    seen.add(identity)
    try:
        with os.scandir(folder) as entries:
            names = {entry.name: not entry.name.startswith(".") and _is_folder(entry) for entry in entries}
    except OSError:
        yield folder  # `read_run` says that it cannot be read
        return
    if SUMMARY in names or ".hydra" in names:
        yield folder
    for name, is_entered in names.items():
        if is_entered and (name not in NOT_ENTERED or os.path.isfile(os.path.join(folder, name, SUMMARY))):
            yield from _below(os.path.join(folder, name), seen)


def _identity(folder: str) -> Identity | None:
    """The same for every path that leads to a folder; None if it is none."""
    try:
        found = os.stat(folder)
    except OSError:
        return None
    return (found.st_dev, found.st_ino) if stat.S_ISDIR(found.st_mode) else None


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _natural(path: Path) -> list[tuple[float, str]]:
    """Natural sort order: flops_limit=60 before flops_limit=100."""
    parts = NUMBER.split(str(path))
    return [(float(part), "") if at % 2 else (math.inf, part) for at, part in enumerate(parts)]
