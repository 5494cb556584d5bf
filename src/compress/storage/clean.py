"""The command `compress clean`: removes the stages of the cache that nothing refers to, after asking.

A run folder needs the cache no more once it is done, but the same command would compute anew what was removed. So a
stage stays as long as any run folder, sweep or process refers to it (`compress.storage.unused`).
"""

import argparse
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from compress.errors import InputError
from compress.io.files import printable
from compress.io.locks import locked
from compress.storage.cache import LEFTOVER, Entry, entries
from compress.storage.command import Parser, answered, existing, in_bytes, many
from compress.storage.runs import RunFolder, runs_below
from compress.storage.unused import unused


def parser() -> Parser:
    new = Parser(
        prog="compress clean",
        description="Removes the stages of outputs/cache that no run folder, sweep or process refers to. Runs stay.",
        allow_abbrev=False,
    )
    runs = "also look there for runs of this cache; repeatable"
    new.add_argument("outputs", nargs="?", default="outputs", metavar="OUTPUTS", help="default: outputs")
    new.add_argument("--runs", action="append", default=[], metavar="DIR", help=runs)
    new.add_argument("--dry-run", action="store_true", help="only say what would be removed")
    new.add_argument("--yes", action="store_true", help="do not ask")
    return new


def main(argv: Sequence[str]) -> int:
    return answered(parser(), argv, _clean)


def _clean(options: argparse.Namespace) -> None:
    outputs = existing(options.outputs)
    folders = [outputs, *map(existing, options.runs)]
    gone, runs = to_remove(outputs, folders)
    kept_for = sum(run.goes_on for run in runs)
    if kept_for:
        print(f"stages from which {many(kept_for, 'run')} without an end could go on are kept")
    if not gone:
        print(f"{printable(str(outputs))}: nothing to remove")
        return
    for entry in gone:
        print(f"  {printable(entry.path.name):<40} {in_bytes(entry.bytes):>9}")
    what = f"{many(len(gone), 'stage')} of {in_bytes(sum(entry.bytes for entry in gone))}, which no run refers to"
    if options.dry_run:
        print(f"would remove {what}")
    elif options.yes or _asked(f"remove {what}? [y/N] "):
        gone, _ = to_remove(outputs, folders)  # a run may have begun while the question stood
        removed = [entry for entry in gone if remove(entry)]
        print(f"removed {many(len(removed), 'stage')} of {in_bytes(sum(entry.bytes for entry in removed))}")
    else:
        print("nothing was removed")


def to_remove(outputs: Path, folders: Sequence[Path]) -> tuple[list[Entry], list[RunFolder]]:
    """What nothing below these folders refers to, and the runs there.

    Raises:
        InputError: it cannot be known what a run refers to.
    """
    stages, runs = entries(outputs), runs_below(folders)
    unclear = [run for run in runs if run.status == "damaged" or (run.status == "at work" and not run.config)]
    if unclear:
        raise InputError(*(f"{run.path}: {_unclear(run)}; nothing was removed" for run in unclear))
    return unused(stages, runs), runs


def _unclear(run: RunFolder) -> str:
    if run.status == "damaged":
        return "its summary is damaged, so that nobody knows which stages it refers to; delete or move this folder"
    return "a run begins there; try again in a moment"


def _asked(question: str) -> bool:
    """
    Raises:
        InputError: there is nobody to ask.
    """
    if not sys.stdin.isatty():
        raise InputError("there is no terminal to ask on; give --yes, or --dry-run to look only")
    return input(question).strip().lower() in ("y", "yes")


def remove(entry: Entry) -> bool:
    """Remove the folder of a stage unless a process is at it; a kill leaves no half stage under its name."""
    with locked(entry.lock, None) as is_free:
        if not is_free:
            return False
        gone = entry.path
        if entry.kind != "leftover":
            gone = entry.path.with_name(f"{LEFTOVER}{entry.path.name}")
            entry.path.rename(gone)
        shutil.rmtree(gone, ignore_errors=True)
    return True
