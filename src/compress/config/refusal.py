"""How the command reports bad input: one line for each mistake on standard error, exit code 2."""

import errno
import sys
from collections.abc import Iterable

from compress.config.compose import compose_message
from compress.errors import BAD_INPUT, InputError
from compress.io.locks import NoLocksError
from compress.parallel.rank import place
from compress.schema.check import shown

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


def error_lines(error: Exception) -> list[str]:
    """The messages of an error that the user can correct (`is_user_error`)."""
    if isinstance(error, OSError):
        what = "cannot reach" if error.errno == errno.EACCES else "cannot write"
        return [f"{what} {error.filename or 'its files'} ({error.strerror}); what was finished is kept"]
    if isinstance(error, NoLocksError):
        return [f"{error}; give outputs=<folder> and hydra.run.dir=<folder> on another"]
    return list(error.problems) if isinstance(error, InputError) else [compose_message(error)]
