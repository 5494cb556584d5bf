"""A run in several processes: what rank 0 does (`lead`), what the others do (`follow`, `help_out`), and the check
that all of a launcher's processes run the same config in the same folder."""

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

Build = Callable[[JSON], Job]  # every process builds the job from the config itself


def lead(job: Job, build: Build, config: JSON, folder: Path, config_hash: str, folder_key: str) -> Crew:
    """On rank 0: the processes that train the networks of this run, whose folder the setting `folder_key` names.

    Raises:
        InputError: the processes of a launcher have different folders or configs.
    """
    rank = place()
    crew = Crew(job.devices, job.device, config["threads"], help_out, build, config, rank=rank)
    if not crew.check(_identity(folder, config_hash)):
        crew.close()
        raise InputError(
            f"{folder}: the {rank.world_size} processes of the launcher have other folders or other settings; all "
            f"must be started with the same command and one {folder_key}"
        )
    return crew


def help_out(meet: Meet, build: Build, config: JSON) -> None:
    """In a helper process that was spawned for `lead`: take part in the trainings that rank 0 announces."""
    job = build(config)
    group = meet(job.device)
    group.serve(partial(assist, job))
    group.leave()


def follow(build: Build, config: JSON, folder: Path, config_hash: str) -> None:
    """On ranks other than 0 of a launcher: take part in the trainings that rank 0 announces."""
    with quiet():
        job = build(config)
        group = join_launched(place(), job.device)
        group.agree(_identity(folder, config_hash))
        group.serve(partial(assist, job))
        group.leave()


def _identity(folder: Path, config_hash: str) -> str:
    return f"{folder} {config_hash}"
