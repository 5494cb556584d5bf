"""`Stage`: what the pipeline needs to know of a stage."""

from collections.abc import Callable
from dataclasses import dataclass

from compress.io.files import JSON
from compress.io.stage_folder import StageFolder
from compress.run.job import Job, RunState


@dataclass(frozen=True)
class Stage:
    """One stage. `run(state, work)` writes its files into the work folder and returns its report as JSON."""

    run: Callable[[RunState, StageFolder], JSON]
    depends_on: Callable[[Job], JSON]  # its part of the cache key; the keys of the parent stages are added
    makes: str  # a word for the result, in log lines
    version: int  # part of the cache key; raise it when the same settings give another result or other files
    trains: Callable[[Job], bool] = lambda job: False  # whether all ranks run it together
