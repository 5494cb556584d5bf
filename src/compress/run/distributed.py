"""One run in several processes: who leads, who follows, and that all of them mean the same run."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

from compress.errors import InputError
from compress.io.files import JSON
from compress.parallel.helper_processes import Crew, Meet, quiet
from compress.parallel.process_group import join_launched
from compress.parallel.rank import place
from compress.run.job import Job
from compress.run.pipeline import assist

Build = Callable[[JSON], Job]  # every process makes the job of a config for itself


def lead(job: Job, build: Build, config: JSON, folder: Path, digest: str) -> Crew:
    """All who train the networks of a run, for the process that leads it.

    Raises:
        InputError: the processes of a launcher run different things.
    """
    rank = place()
    crew = Crew(job.devices, job.device, config["threads"], help_out, build, config, rank=rank)
    if not crew.check(_word(folder, digest)):
        crew.close()
        raise InputError(
            f"hydra.run.dir={folder}: the {rank.world_size} processes of the launcher have other folders or other "
            "settings; all must be started with the same command and one folder"
        )
    return crew


def help_out(meet: Meet, build: Build, config: JSON) -> None:
    """What a helper does that `lead` started."""
    job = build(config)
    group = meet(job.device)
    group.serve(partial(assist, job))
    group.leave()


def follow(build: Build, config: JSON, folder: Path, digest: str) -> None:
    """What a process does that a launcher started beside the one that leads."""
    with quiet():
        job = build(config)
        group = join_launched(place(), job.device)
        group.agree(_word(folder, digest))
        group.serve(partial(assist, job))
        group.leave()


def _word(folder: Path, digest: str) -> str:
    return f"{folder} {digest}"
