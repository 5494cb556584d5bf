"""The command: `main` reads the command line, lets Hydra compose and run it, and ends with an exit code.

What it is made of, in the order of a run: `config.command_line` (mistakes of the text), `config.session` (what is
looked at before a start, and what each job does), `config.diagnose` (why a line does not compose), `run.one_job`.
Torch is loaded only once all that can be told without it is told: `compress --help` must be quick.
"""

import logging
import os
import signal
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import hydra
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from compress.config.built_jobs import problems_of
from compress.config.callback import calling_back
from compress.config.command_line import arguments, missing_folders, mistakes
from compress.config.compose import COMPOSING, told
from compress.config.diagnose import diagnose
from compress.config.hydra_private import options
from compress.config.refusal import lines_of, refuse
from compress.config.session import Session
from compress.errors import BAD_INPUT, INTERRUPTED, TERMINATED, is_users
from compress.io.paths import CONF
from compress.parallel.rank import place
from compress.run.supervisor import can_supervise, supervised
from compress.run.sweep_end import finish, mark_lost, told_end


def main() -> None:
    """Exit code 0, 2 for bad input (one line per mistake), 1 with a traceback for a bug of ours."""
    _prepare_process()
    argv = arguments(sys.argv[1:])
    refuse(mistakes(argv) or missing_folders(argv))
    session = Session(argv)
    if options(argv).multirun and place().world == 1 and can_supervise():
        session.tell = supervised(session.job_died)
    with _told(session):
        _launch(session)
        if place().rank > 0:
            return
        code = _end_sweep(session) if session.sweep is not None else BAD_INPUT if session.failed else 0
        if code:
            raise SystemExit(code)


def _prepare_process() -> None:
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # Hydra then raises instead of printing its own message
    # Threads that wait by spinning for long take the cores from each other when two jobs share a machine; those that
    # never spin are slow alone. So many turns cost a lone job nothing.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("GOMP_SPINCOUNT", "2000")
    for announced in (
        "The version_base param",
        r"hydra.utils.instantiate\(\) resolved",
        "Hydra configured Python log",
    ):
        warnings.filterwarnings("ignore", announced)  # Hydra 1.4 speaks of 1.5, which we do not take
    signal.signal(signal.SIGTERM, _terminate)  # the run's summary then says that it was interrupted
    if place().rank > 0:  # the first process tells people, and writes; Hydra's files are the same from each
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 (as long as the process)
        logging.disable(logging.CRITICAL)


def _terminate(signum: int, frame: Any) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # once is enough
    raise SystemExit(TERMINATED)


def _launch(session: Session) -> None:
    """Let Hydra compose the command line and run it; a launcher that breaks down leaves jobs undone."""
    session.begin()
    sys.argv[1:] = [*session.argv, *session.settled()]  # where Hydra looks
    try:
        with calling_back(session):
            hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")(session.task)()
    except (RuntimeError, *COMPOSING) as error:
        if not session.is_launchers(error):
            raise
        problem = f"hydra/{'launcher' if session.is_grid() else 'sweeper'}: {told(error)}"
        if not any(job.folder.is_dir() for job in session.jobs()):  # it could not even begin
            refuse([problem])
        print(f"compress: {problem}", file=sys.stderr)


def _end_sweep(session: Session) -> int:
    """The exit code, once all is done that can be. A sweeper that chooses is not asked for more than it has tried."""
    if session.is_grid() and place().world == 1:
        finish(session.jobs(), session.launch, lambda: _launch(session))
    else:
        mark_lost(session.jobs() if place().world == 1 else [], session.launch)
    code = told_end(session.jobs(), session.failed, session.bugs)
    session.close()
    return code


@contextmanager
def _told(session: Session) -> Iterator[None]:
    """What people can do something about is told in lines; the rest is raised."""
    try:
        yield
    except COMPOSING as error:
        if error is session.raised and not isinstance(error, HydraException | OmegaConfBaseException):
            raise
        refuse(diagnose(session.argv, problems_of) or [told(error)])
    except SystemExit as error:
        if error.code == 1 and options(session.argv).package:  # Hydra has said that the config has no such part
            raise SystemExit(BAD_INPUT) from None
        raise
    except KeyboardInterrupt:
        jobs = session.jobs()
        done = f"{sum(job.is_done() for job in jobs)} of {len(jobs)} jobs are done; " if jobs else ""
        print(
            f"compress: interrupted; {done}the same command continues from the last epoch or episode", file=sys.stderr
        )
        raise SystemExit(INTERRUPTED) from None
    except BrokenPipeError:  # compress --help | head
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        if not is_users(error):
            raise
        refuse(lines_of(error))
