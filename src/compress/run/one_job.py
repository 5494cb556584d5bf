"""One job in its folder: skipped if it is finished there, else run, with the processes that train together."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from compress.errors import InputError
from compress.io.files import JSON
from compress.io.paths import CACHE, MODEL
from compress.measure.accuracy import accuracy
from compress.prune.saved_network import load_network
from compress.run.distributed import Build, follow, lead
from compress.run.folder import foreign_run, put_run_aside
from compress.run.job import Job
from compress.run.pipeline import finished_summary, run, show
from compress.run.store import Store
from compress.run.sweep_jobs import SweepJob
from compress.run.sweeper_objective import SweeperObjective, objective

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class OneJob:
    """A composed config, its run folder, and how it is run."""

    config: JSON
    folder: Path
    config_hash: str
    launch: str
    in_sweep: bool
    folder_key: str  # of the setting by which another folder can be chosen
    take: Callable[[JSON], Job]  # the job of a config: built now, or by the check before the start
    build: Build  # the same in helper processes, which always build it

    def follow(self) -> None:
        """The part of ranks other than 0 that a launcher started."""
        self._set_threads()
        follow(self.take, self.config, self.folder, self.config_hash)

    def lead(self, measures: bool) -> SweeperObjective:
        """The part of rank 0: run the job unless it is finished; returns its objective.

        `measures`: whether a sweeper needs the objective, so that it is measured where the summary does not have it.
        """
        self._set_threads()
        self._may_write()
        put_run_aside(self.folder)
        job = self.take(self.config)
        summary = self._summary(job)
        if summary is None:
            return None

        def held_out() -> float | None:
            if not measures:
                return None
            model, _ = load_network(self.folder / MODEL, job.model.without_pretrained().build)
            return float(accuracy(model.to(job.device), job.data.ordered("held_out", 512, job.device)).top1)

        return objective(summary, self.config["objective"], held_out)

    def _summary(self, job: Job) -> JSON | None:
        """The summary of the run; None if it has failed already in this launch."""
        config, folder, config_hash = self.config, self.folder, self.config_hash
        with lead(job, self.build, config, folder, config_hash, self.folder_key) as crew:
            self._may_write(job.devices)
            if self.in_sweep and SweepJob(folder, {}, config_hash).has_failed(self.launch):
                log.info("%s: has failed in this launch; the next start of the command tries it again", folder)
                return None
            done = finished_summary(folder, job, config_hash)
            if done is not None and not (config["force"] and done.get("launch") != self.launch):
                table = "" if self.in_sweep else f"\n{show(done, folder)}"  # a sweep ends with one table of all jobs
                log.info("%s is a finished run of this config: nothing to do%s", folder, table)
                return done
            store = Store(Path(config["outputs"]) / CACHE, self.launch)
            how = {key: config[key] for key in ("tensorboard", "plots")}
            summary = run(job, config, config_hash, folder, store, crew, launch=self.launch, **how)
        log.info("%s", show(summary, folder))
        return summary

    def _set_threads(self) -> None:
        if self.config["threads"] is not None:
            torch.set_num_threads(self.config["threads"])

    def _may_write(self, devices: int | None = None) -> None:
        """
        Raises:
            InputError: the folder holds another run.
        """
        if problems := foreign_run(self.folder, self.config, self.folder_key, devices):
            raise InputError(*problems)
