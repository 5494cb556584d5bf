"""The command: `main` reads the command line, has Hydra compose the config and run it, and exits with a code.

Its parts, in the order of a run: `config.command_line` (mistakes that show in the text), `config.session` (checks
before a run starts, and what each job does), `config.diagnose` (why a command line does not compose), `run.one_job`.
Torch is loaded only after all checks that do not need it: `compress --help` must be quick.
"""

import io
import logging
import os
import signal
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from typing import Any

import hydra
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from compress.config.built_jobs import problems_of
from compress.config.callback import use_callback
from compress.config.command_line import hydra_arguments, missing_folders, mistakes, with_late_values
from compress.config.comments import commented
from compress.config.compose import COMPOSE_ERRORS, compose_message
from compress.config.diagnose import diagnose
from compress.config.hydra_private import options
from compress.config.refusal import error_lines, refuse
from compress.config.session import Session
from compress.errors import BAD_INPUT, INTERRUPTED, TERMINATED, is_user_error
from compress.io.paths import CONF
from compress.parallel.rank import place
from compress.run.supervisor import can_supervise, supervised
from compress.run.sweep_end import finish, mark_lost, print_summary


def main() -> None:
    """Exit code 0; 2 for bad input (one line per mistake); 1, with a traceback, for a bug of ours."""
    _prepare_process()
    argv = hydra_arguments(sys.argv[1:])
    refuse(mistakes(argv) or missing_folders(argv))
    session = Session(argv)
    if options(argv).multirun and place().world_size == 1 and can_supervise():
        session.tell = supervised(session.job_died)
    with _user_errors_reported(session):
        _launch(session)
        if place().rank > 0:
            return
        code = _end_sweep(session) if session.sweep is not None else BAD_INPUT if session.failed else 0
        if code:
            raise SystemExit(code)


def _prepare_process() -> None:
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # Hydra then raises instead of printing its own message
    # OpenMP threads that spin for long while they wait take the cores away from each other when two jobs share a
    # machine; threads that never spin make a single job slow. With 2000 turns a single job loses no time.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("GOMP_SPINCOUNT", "2000")
    for announced in (
        "The version_base param",
        r"hydra.utils.instantiate\(\) resolved",
        "Hydra configured Python log",
    ):
        # Hydra 1.4 warns of changes in 1.5, which pyproject.toml excludes.
        warnings.filterwarnings("ignore", announced)
    # SIGTERM becomes an exception, so that the run records in its summary that it was interrupted.
    signal.signal(signal.SIGTERM, _terminate)
    if place().rank > 0:  # only rank 0 prints; Hydra's own files are the same from every rank
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 (open until the process ends)
        logging.disable(logging.CRITICAL)


def _terminate(signum: int, frame: Any) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a second SIGTERM must not interrupt the clean-up
    raise SystemExit(TERMINATED)


def _launch(session: Session) -> None:
    """Have Hydra compose the config and run it. If a launcher or sweeper fails after jobs have begun, the error is
    printed and the jobs that it did not run are left to `_end_sweep`."""
    session.reset_failures()
    sys.argv[1:] = [
        *with_late_values(session.argv),
        *session.fixed_overrides(),
    ]  # Hydra reads its arguments from there
    try:
        with use_callback(session), _config_with_comments(session.argv):
            hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")(session.task)()
    except (RuntimeError, *COMPOSE_ERRORS) as error:
        if not session.is_launcher_error(error):
            raise
        problem = f"hydra/{'launcher' if session.is_grid() else 'sweeper'}: {compose_message(error)}"
        if not any(job.folder.is_dir() for job in session.jobs()):  # no job has begun
            refuse([problem])
        print(f"compress: {problem}", file=sys.stderr)


@contextmanager
def _config_with_comments(argv: list[str]) -> Iterator[None]:
    """What Hydra prints for `--cfg job` in the block gets the comments of conf/."""
    given = options(argv)
    if given.cfg != "job" or given.info:
        yield
        return
    with redirect_stdout(io.StringIO()) as printed:
        yield
    print(commented(printed.getvalue().rstrip("\n"), given.package or ""))


def _end_sweep(session: Session) -> int:
    """Run the jobs that were left undone, print the table of the sweep, and return the exit code.

    Jobs of a sweeper that chooses its jobs (optuna) are not run again: only their failures are recorded.
    """
    if session.is_grid() and place().world_size == 1:
        finish(session.jobs(), session.launch, lambda: _launch(session))
    else:
        mark_lost(session.jobs() if place().world_size == 1 else [], session.launch)
    code = print_summary(session.jobs(), session.failed, session.bugs)
    session.close()
    return code


@contextmanager
def _user_errors_reported(session: Session) -> Iterator[None]:
    """Report errors that the user can correct in one line each, with their exit code; others are raised."""
    try:
        yield
    except COMPOSE_ERRORS as error:
        if error is session.raised and not isinstance(error, HydraException | OmegaConfBaseException):
            raise
        refuse(diagnose(session.argv, problems_of) or [compose_message(error)])
    except SystemExit as error:
        if error.code == 1 and options(session.argv).package:  # Hydra has printed that the config has no such package
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
        if not is_user_error(error):
            raise
        refuse(error_lines(error))
