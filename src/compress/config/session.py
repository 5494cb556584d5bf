"""One start of the command: looks at its run or sweep before anything is created, then does each job.

Hydra calls both: `on_run_start` and `on_multirun_start` as its callback, `task` for every job that it has composed. A
launcher may run jobs in other processes; each gets a copy of the session without what only its own process knows.
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
from compress.config.compose import COMPOSING, plain, raw, told
from compress.config.diagnose import diagnose
from compress.config.refusal import LONGEST, lines_of, refuse
from compress.config.resolvers import register_resolvers
from compress.config.sweep import Sweep, is_grid, look_at_sweep
from compress.config.sweeper_objectives import check_direction
from compress.errors import is_users
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

register_resolvers()  # by whoever has a session: the processes of launchers compose configs too


class Session(Callback):
    """What one start of the command knows; `main` makes it, and hands it to Hydra and to the processes of jobs."""

    def __init__(self, argv: list[str]) -> None:
        self.argv = argv
        self.launch = new_launch()  # what is forced is so once in it, and what failed is not tried again
        self.sweep: Sweep | None = None
        self.sweep_dir: str | None = None  # to be the same if the sweep is launched again
        self.tell: Tell | None = None  # to the process that watches over a sweep, if one does
        self.built = BuiltJobs()
        self.failed: dict[Path, str] = {}  # folders of runs that ended in what one line tells, and that line
        self.bugs: dict[Path, str] = {}  # of jobs that ended in a traceback
        self.raised: Exception | None = None  # what a run itself has raised, none of Hydra's

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "tell": None, "built": BuiltJobs(), "failed": {}, "bugs": {}, "raised": None}

    # -- before anything is created or computed

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        with _no_warning():
            try:
                mine, folder = plain(config), Path(config.hydra.run.dir)
            except OmegaConfBaseException as error:
                refuse(diagnose(self.argv, problems_of) or [told(error)])
            else:
                refuse(several_folders(config))
                folders = {"outputs": Path(mine["outputs"]), "hydra.run.dir": folder}
                refuse(self.built.check(mine) + foreign_run(folder, mine) or unwritable(folders))

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        with _no_warning():
            sweep, problems = look_at_sweep(config, self.built.check)
            folders = {"outputs": Path(config.outputs), "hydra.sweep.dir": sweep.folder}
            refuse(check_direction(config) + problems or unwritable(folders))
            self.sweep = sweep
            if "${now" in written_dir(config.hydra.sweep):
                self.sweep_dir = str(sweep.folder)
            if self.tell is not None:
                jobs = [job.to_json() for job in sweep.jobs]
                self.tell(json.dumps({"sweep_dir": self.sweep_dir, "jobs": jobs}).encode())

    # -- one run, or one job of a sweep

    def task(self, config: DictConfig) -> SweeperObjective:
        """Once Hydra has composed it and made its folder; what a sweeper is to make large or small comes back.

        A job that fails is told, and the sweep goes on. One that another process is at is left to it: the sweep looks
        at it again when the others are done.
        """
        logging.raiseExceptions = False  # a closed pipe is no reason for a page of traceback per line
        folder = Path(HydraConfig.get().runtime.output_dir)
        in_sweep = HydraConfig.get().mode == RunMode.MULTIRUN
        try:
            return self._locked_run(plain(config), folder, in_sweep)
        except Exception as error:
            if is_users(error):
                for problem in lines_of(error):
                    log.error("compress: %s", shown(problem, LONGEST))
                self.failed[folder.absolute()] = lines_of(error)[0]
            elif in_sweep:
                log.exception("compress: %s: a bug ended this job", folder)
                self.bugs[folder.absolute()] = "a bug ended it"
            else:
                self.raised = error
                raise
        return None

    def _locked_run(self, config: JSON, folder: Path, in_sweep: bool) -> SweeperObjective:
        from compress.config.build import build
        from compress.run.one_job import OneJob

        job = OneJob(config, folder, config_hash(config), self.launch, in_sweep, self.built.take, build)
        if place().rank > 0:
            job.follow()
            return None
        of_grid = is_grid(HydraConfig.get())
        if in_sweep and not of_grid:
            asked = dict(text.partition("=")[::2] for text in HydraConfig.get().overrides.task)
            note_begun(Path(HydraConfig.get().sweep.dir), self.launch, SweepJob(folder, asked, config_hash(config)))
        passes_on = (
            in_sweep and of_grid and place().world_size == 1
        )  # processes of a launcher do the same jobs in order
        busy = f"{folder}: another process is at it; " + ("the other jobs go first" if passes_on else "waiting")
        with locked(folder / LOCK, None if passes_on else busy) as is_mine:
            if is_mine:
                return job.lead(measures=in_sweep and not of_grid)
        print(busy, flush=True)  # the log in that folder is the other's
        return None

    # -- around the launch

    def settled(self) -> list[str]:
        """What stays as it was when a sweep is launched again: a folder that is made of the time."""
        return [f"hydra.sweep.dir='{self.sweep_dir}'"] if self.sweep_dir else []

    def job_died(self, by: Signals, told_of: bytes) -> bool:
        """What a signal ended is named, and whether jobs are left to go on with; in the process that watches."""
        told_all = json.loads(told_of or b'{"jobs": [], "sweep_dir": null}')
        jobs = [SweepJob.from_json(content) for content in told_all["jobs"]]
        self.sweep_dir = told_all["sweep_dir"]
        why = f"its process was killed by {by.name}"
        died = mark_died(jobs, self.launch, why)
        for job in died:
            print(f"compress: {job}: {why}; the other jobs go on", file=sys.stderr)
        if not died:
            print(f"compress: killed by {by.name} outside of any job", file=sys.stderr)
        return bool(died)

    def begin(self) -> None:
        """What one launch has told of jobs is not of the next."""
        self.failed.clear()
        self.bugs.clear()

    def is_grid(self) -> bool:
        return self.sweep is None or self.sweep.is_grid

    def is_launchers(self, error: Exception) -> bool:
        """Whether a launcher could not start or follow its jobs, or a sweeper think of more: all that is written is
        checked by then, and the jobs of a sweep raise nothing."""
        by_launcher = isinstance(error, RuntimeError) or not self.is_grid()
        return self.sweep is not None and error is not self.raised and by_launcher

    def jobs(self) -> list[SweepJob]:
        """Of the sweep: all, or those that have begun if a sweeper chooses them."""
        if self.sweep is None or self.sweep.is_grid:
            return [] if self.sweep is None else list(self.sweep.jobs)
        return begun_jobs(self.sweep.folder, self.launch)

    def close(self) -> None:
        if self.sweep is not None and not self.sweep.is_grid:
            forget_begun(self.sweep.folder, self.launch)


@contextmanager
def _no_warning() -> Iterator[None]:
    """Hydra turns a callback's exceptions into warnings and goes on; only SystemExit stops it."""
    try:
        yield
    except COMPOSING as error:
        refuse([told(error)])
    except Exception:
        traceback.print_exc()
        raise SystemExit(1) from None


def written_dir(node: DictConfig) -> str:
    """The `dir` of a node as it stands there, before anything in it is resolved."""
    return str(raw(node)["dir"])


def several_folders(config: DictConfig) -> list[str]:
    """Under a launcher every process names the run's folder itself; one that is made of the time differs."""
    named = written_dir(config.hydra.run)
    if place().world_size == 1 or "${now" not in named:
        return []
    return [
        f"hydra.run.dir={named}: each of the {place().world_size} processes of the launcher would make a folder of "
        "its own; name one, such as hydra.run.dir=outputs/mine, or let one command start them all: "
        f"devices={place().world_size}"
    ]
