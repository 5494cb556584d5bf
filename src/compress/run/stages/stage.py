"""What a stage is to the pipeline."""

import logging
from collections.abc import Callable
from dataclasses import dataclass

from compress.io.files import JSON
from compress.io.stage_folder import StageFolder
from compress.run.job import Job, RunState

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Stage:
    run: Callable[[RunState, StageFolder], JSON]
    depends_on: Callable[[Job], JSON]  # what the result depends on, besides the parent stage
    makes: str  # in a word
    version: int  # goes up when the same settings give another result or other files
    trains: Callable[[Job], bool] = lambda job: False  # whether several devices do it together
