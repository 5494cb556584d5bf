"""One start of the command: checks its run or sweep before anything is created, then runs each job.

Hydra calls the methods: `on_run_start` and `on_multirun_start` as its callback, `task` for every job once its config
is composed. A launcher may run jobs in other processes; these get a pickled copy of the session without the state of
this process.
"""

import json
import logging
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from signal import Signals
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from compress.config.built_jobs import BuiltJobs, problems_of
from compress.config.compose import COMPOSE_ERRORS, compose_message, plain, raw
from compress.config.diagnose import diagnose
from compress.config.refusal import MAX_LENGTH, error_lines, headline, refuse
from compress.config.resolvers import register_resolvers
from compress.config.sweep import Sweep, check_sweep, drop_overridden_params, is_grid
from compress.config.sweeper_objectives import check_direction
from compress.errors import is_user_error
from compress.io.files import JSON
from compress.io.locks import locked
from compress.io.paths import LOCK
from compress.parallel.rank import place
from compress.run.folder import config_hash, foreign_run, unwritable
from compress.run.supervisor import Tell
from compress.run.sweep_jobs import SweepJob, begun_jobs, forget_begun, mark_died, new_launch, note_begun
from compress.run.sweeper_objective import SweeperObjective
from compress.schema.check import shown

log = logging.getLogger(__name__)

register_resolvers()  # on import, so that it also happens in the processes of launchers, which compose configs too


class Session(Callback):
    """The state of one start of the command. `main` creates it; Hydra uses it, and passes it to processes of jobs."""

    def __init__(self, argv: list[str]) -> None:
        self.argv = argv
        # Identifies this start: in it, a stage in `force` is computed once, and a failed job is not run again.
        self.launch = new_launch()
        self.sweep: Sweep | None = None
        self.sweep_dir: str | None = None  # set if the time is part of it; see `fixed_overrides`
        self.tell: Tell | None = None  # sends bytes to the supervisor process of a sweep, if there is one
        self.built = BuiltJobs()
        self.failed: dict[Path, str] = {}  # run folders of jobs that ended with a user error; the first line of it
        self.bugs: dict[Path, str] = {}  # run folders of jobs that ended with a bug of ours; a note for the table
        self.raised: Exception | None = None  # the exception of a run, to tell it from those of Hydra

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "tell": None, "built": BuiltJobs(), "failed": {}, "bugs": {}, "raised": None}

    # -- before anything is created or computed

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        with _exiting_on_error():
            try:
                settings, folder = plain(config), Path(config.hydra.run.dir)
            except OmegaConfBaseException as error:
                refuse(diagnose(self.argv, problems_of) or [compose_message(error)])
            else:
                refuse(run_dir_by_time(config))
                folders = {"outputs": Path(settings["outputs"]), "hydra.run.dir": folder}
                refuse(
                    self.built.check(settings) + foreign_run(folder, settings, "hydra.run.dir") or unwritable(folders)
                )

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        with _exiting_on_error():
            drop_overridden_params(config)  # the sweeper is made of this config later
            sweep, problems = check_sweep(config, self.built.check)
            folders = {"outputs": Path(config.outputs), "hydra.sweep.dir": sweep.folder}
            refuse(check_direction(config) + problems or unwritable(folders))
            self.sweep = sweep
            if "${now" in unresolved_dir(config.hydra.sweep):
                self.sweep_dir = str(sweep.folder)
            if self.tell is not None:
                jobs = [job.to_json() for job in sweep.jobs]
                self.tell(json.dumps({"sweep_dir": self.sweep_dir, "jobs": jobs}).encode())

    # -- one run, or one job of a sweep

    def task(self, config: DictConfig) -> SweeperObjective:
        """Run a job that Hydra has composed and made a folder for; returns its objective, for sweepers that optimise.

        If a job of a sweep fails, the error is logged and the sweep continues. A job that another process is running
        is skipped; `run.sweep_end.finish` comes back to it after the other jobs.
        """
        logging.raiseExceptions = False  # no traceback for every line logged to a closed pipe
        folder = Path(HydraConfig.get().runtime.output_dir)
        in_sweep = HydraConfig.get().mode == RunMode.MULTIRUN
        try:
            return self._locked_run(plain(config), folder, in_sweep)
        except Exception as error:
            if is_user_error(error):
                for problem in error_lines(error):
                    log.error("compress: %s", shown(problem, MAX_LENGTH))
                self.failed[folder.absolute()] = error_lines(error)[0]
            elif in_sweep:
                log.exception("compress: %s: %s", folder, headline(error))
                self.bugs[folder.absolute()] = headline(error)
            else:
                self.raised = error
                print(f"compress: {headline(error)}", file=sys.stderr)
                raise
        return None

    def _locked_run(self, config: JSON, folder: Path, in_sweep: bool) -> SweeperObjective:
        from compress.config.build import build
        from compress.run.one_job import OneJob

        job = OneJob(
            config=config,
            folder=folder,
            config_hash=config_hash(config),
            launch=self.launch,
            in_sweep=in_sweep,
            folder_key="hydra.sweep.dir" if in_sweep else "hydra.run.dir",
            take=self.built.take,
            build=build,
        )
        if place().rank > 0:
            job.follow()
            return None
        of_grid = is_grid(HydraConfig.get())
        if in_sweep and not of_grid:
            asked = dict(text.partition("=")[::2] for text in HydraConfig.get().overrides.task)
            note_begun(Path(HydraConfig.get().sweep.dir), self.launch, SweepJob(folder, asked, config_hash(config)))
        # The ranks of a launcher must run the same jobs in the same order, so they never skip one.
        skips_busy = in_sweep and of_grid and place().world_size == 1
        busy = f"{folder}: another process is at it; " + ("the other jobs go first" if skips_busy else "waiting")
        with locked(folder / LOCK, None if skips_busy else busy) as has_lock:
            if has_lock:
                return job.lead(measures=in_sweep and not of_grid)
        print(busy, flush=True)  # not logged: the log file in that folder belongs to the other process
        return None

    # -- around the launch

    def fixed_overrides(self) -> list[str]:
        """Overrides for launching the sweep again: a sweep folder named after the time must stay the same folder."""
        return [f"hydra.sweep.dir='{self.sweep_dir}'"] if self.sweep_dir else []

    def job_died(self, by: Signals, message: bytes) -> bool:
        """Called in the supervisor when a signal has killed the process of the sweep: mark its job as failed and
        print that; returns whether the sweep is to continue.

        `message` is what `on_multirun_start` sent.
        """
        content = json.loads(message or b'{"jobs": [], "sweep_dir": null}')
        jobs = [SweepJob.from_json(job) for job in content["jobs"]]
        self.sweep_dir = content["sweep_dir"]
        why = f"its process was killed by {by.name}"
        died = mark_died(jobs, self.launch, why)
        for job in died:
            print(f"compress: {job}: {why}; the other jobs go on", file=sys.stderr)
        if not died:
            print(f"compress: killed by {by.name} outside of any job", file=sys.stderr)
        return bool(died)

    def reset_failures(self) -> None:
        """Forget the failures of jobs before Hydra is run again for the jobs that are left."""
        self.failed.clear()
        self.bugs.clear()

    def is_grid(self) -> bool:
        """False if a sweeper chooses the jobs."""
        return self.sweep is None or self.sweep.is_grid

    def is_launcher_error(self, error: Exception) -> bool:
        """Whether an error of a sweep comes from the launcher, or from a sweeper that chooses jobs.

        A wrong command line cannot be the cause, as it was checked before, nor can a job: in a sweep `task` raises
        nothing.
        """
        by_launcher = isinstance(error, RuntimeError) or not self.is_grid()
        return self.sweep is not None and error is not self.raised and by_launcher

    def jobs(self) -> list[SweepJob]:
        """The jobs of the sweep; if a sweeper chooses them, those that have begun; none without a sweep."""
        if self.sweep is None or self.sweep.is_grid:
            return [] if self.sweep is None else list(self.sweep.jobs)
        return begun_jobs(self.sweep.folder, self.launch)

    def close(self) -> None:
        """Delete the record of the jobs that a sweeper has chosen."""
        if self.sweep is not None and not self.sweep.is_grid:
            forget_begun(self.sweep.folder, self.launch)


@contextmanager
def _exiting_on_error() -> Iterator[None]:
    """Exit on any exception: Hydra turns exceptions of a callback into warnings and continues, except SystemExit."""
    try:
        yield
    except COMPOSE_ERRORS as error:
        refuse([compose_message(error)])
    except Exception as error:
        print(f"compress: {headline(error)}", file=sys.stderr)
        traceback.print_exc()
        raise SystemExit(1) from None


def unresolved_dir(node: DictConfig) -> str:
    """The `dir` of a config node as it is written, with its interpolations."""
    return str(raw(node)["dir"])


def run_dir_by_time(config: DictConfig) -> list[str]:
    """Report a run folder named after the time if a launcher has started several processes: each composes the config
    itself, and the folders would differ."""
    run_dir = unresolved_dir(config.hydra.run)
    if place().world_size == 1 or "${now" not in run_dir:
        return []
    return [
        f"hydra.run.dir={run_dir}: each of the {place().world_size} processes of the launcher would make a folder of "
        "its own; name one, such as hydra.run.dir=outputs/mine, or let one command start them all: "
        f"devices={place().world_size}"
    ]
