"""What `compress ls` and `compress clean` share: their options, how they print, and their exit codes."""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

from compress.errors import BAD_INPUT, INTERRUPTED, InputError
from compress.io.files import printable


class Parser(argparse.ArgumentParser):
    """An argument parser whose mistakes are bad input."""

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message}; see {self.prog} --help")


def answered(parser: Parser, argv: Sequence[str], answer: Callable[[argparse.Namespace], None]) -> int:
    """Parse the words and answer; the exit code: 0, or 2 after bad input, with a line per mistake."""
    try:
        answer(parser.parse_args(argv))
        sys.stdout.flush()
    except InputError as error:
        for problem in error.problems:
            print(f"{parser.prog}: {printable(problem)}", file=sys.stderr)
        return BAD_INPUT
    except BrokenPipeError:  # compress ls | head
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except KeyboardInterrupt:
        return INTERRUPTED
    return 0


def existing(path: str) -> Path:
    """
    Raises:
        InputError: no such folder.
    """
    folder = Path(path).expanduser()
    if not folder.is_dir():
        raise InputError(f"{path}: no such folder; give the folder that runs write to, such as outputs")
    return folder


def in_bytes(count: int) -> str:
    """A size with three digits: 1023 B, 1.00 KiB, 34.5 MiB."""
    value, units = float(count), ["B", "KiB", "MiB", "GiB", "TiB"]
    while value >= 999.5 and len(units) > 1:
        value, units = value / 1024, units[1:]
    return f"{count} B" if units[0] == "B" else f"{value:.{max(0, 3 - len(str(int(value))))}f} {units[0]}"


def many(count: int, what: str) -> str:
    """1 stage, 2 stages, 1 entry, 2 entries."""
    plural = what if count == 1 else f"{what[:-1]}ies" if what.endswith("ry") else f"{what}s"
    return f"{count:,} {plural}"
