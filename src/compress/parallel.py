"""One run in several processes: who leads, who follows, and that all of them mean the same run."""

from functools import partial
from pathlib import Path

from compress.build import build
from compress.distributed import Crew, Meet, join_launched, quiet
from compress.files import JSON
from compress.launched import place
from compress.pipeline import assist
from compress.settings import InputError
from compress.stages import Job


def lead(job: Job, config: JSON, folder: Path, digest: str) -> Crew:
    """All who train the networks of a run, for the process that leads it.

    Raises:
        InputError: the processes of a launcher run different things.
    """
    crew = Crew(job.devices, job.device, config["threads"], help_out, config)
    if not crew.check(_word(folder, digest)):
        crew.close()
        raise InputError(
            f"hydra.run.dir={folder}: the {place().world} processes of the launcher have other folders or other "
            "settings; all must be started with the same command and one folder"
        )
    return crew


def help_out(meet: Meet, config: JSON) -> None:
    """What a helper does that `lead` started."""
    job = build(config)
    group = meet(job.device)
    group.serve(partial(assist, job))
    group.leave()


def follow(config: JSON, folder: Path, digest: str) -> None:
    """What a process does that a launcher started beside the one that leads."""
    with quiet():
        job = build(config)
        group = join_launched(job.device)
        group.agree(place(), _word(folder, digest))
        group.serve(partial(assist, job))
        group.leave()


def _word(folder: Path, digest: str) -> str:
    return f"{folder} {digest}"
