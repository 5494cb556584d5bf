"""How the command says no: one line for each mistake on standard error, exit code 2."""

import errno
import sys
from collections.abc import Iterable

from compress.config.compose import told
from compress.errors import BAD_INPUT, InputError
from compress.parallel.rank import place
from compress.schema.check import shown

LONGEST = 1000  # characters of a line that tells a mistake


def refuse(problems: Iterable[str]) -> None:
    """
    Raises:
        SystemExit: there are any; the first process has printed them then.
    """
    problems = list(problems)
    if problems:
        for problem in problems if place().local_rank == 0 else ():
            print(f"compress: {shown(problem, LONGEST)}", file=sys.stderr)
        raise SystemExit(BAD_INPUT)


def lines_of(error: Exception) -> list[str]:
    """What is told of an error that is the user's."""
    if isinstance(error, OSError):
        what = "cannot reach" if error.errno == errno.EACCES else "cannot write"
        return [f"{what} {error.filename or 'its files'} ({error.strerror}); what was finished is kept"]
    return list(error.problems) if isinstance(error, InputError) else [told(error)]
