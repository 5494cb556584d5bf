"""How the command reports bad input: one line for each mistake on standard error, exit code 2."""

import errno
import os
import sys
import sysconfig
import traceback
from collections.abc import Iterable
from pathlib import Path

from compress.config.compose import compose_message
from compress.errors import BAD_INPUT, InputError, first_line
from compress.io.locks import NoLocksError
from compress.parallel.rank import place
from compress.schema.check import shown

PACKAGE = os.path.realpath(Path(__file__).parents[1])
NOT_THE_USERS = (PACKAGE, *{os.path.realpath(sysconfig.get_path(name)) for name in ("stdlib", "purelib", "platlib")})
MAX_LENGTH = 1000  # characters of an error message


def refuse(problems: Iterable[str]) -> None:
    """Print the problems and exit; return if there are none. On each machine one process prints.

    Raises:
        SystemExit: there is a problem.
    """
    problems = list(problems)
    if problems:
        for problem in problems if place().local_rank == 0 else ():
            print(f"compress: {shown(problem, MAX_LENGTH)}", file=sys.stderr)
        raise SystemExit(BAD_INPUT)


def headline(error: BaseException) -> str:
    """What goes before the traceback of an error that no input explains: whose code raised it, and what."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = next((at for at, frame in enumerate(frames) if _is_in(frame.filename, PACKAGE)), len(frames))
    own = [frame for frame in frames[ours:] if not any(_is_in(frame.filename, folder) for folder in NOT_THE_USERS)]
    what = shown(f"{type(error).__name__}: {first_line(error)}", 300)
    if own and not own[-1].filename.startswith("<"):
        last = own[-1]
        return f"your code ended it, {last.filename}:{last.lineno} in {last.name}: {what}"
    return f"a bug of ours ended it, please report it with its traceback: {what}"


def _is_in(file: str, folder: str) -> bool:
    return os.path.realpath(file).startswith(os.path.join(folder, ""))


def error_lines(error: Exception) -> list[str]:
    """The messages of an error that the user can correct (`is_user_error`)."""
    if isinstance(error, OSError):
        what = "cannot reach" if error.errno == errno.EACCES else "cannot write"
        return [f"{what} {error.filename or 'its files'} ({error.strerror}); what was finished is kept"]
    if isinstance(error, NoLocksError):
        return [f"{error}; give outputs=<folder> and hydra.run.dir=<folder> on another"]
    return list(error.problems) if isinstance(error, InputError) else [compose_message(error)]
