"""Which stages of a run are in the cache, and which it would compute."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from compress.io.files import JSON, read_rows
from compress.run.job import Job
from compress.run.pipeline import Step, depends, steps
from compress.run.stages import STAGES
from compress.run.stages.training import teacher_job
from compress.run.store import read_result, stage_key


@dataclass(frozen=True)
class PlannedStep:
    """A step of a run: what the cache holds of it."""

    step: Step
    state: Literal["cached", "begun", "to compute"]
    folder: Path  # in the cache, there or not
    makes: str
    rows: int = 0  # that were written until it was interrupted
    result: JSON | None = None  # of a cached one: its report
    forced: bool = False

    @property
    def name(self) -> str:
        return self.step.of_teacher or self.step.name


def planned_steps(job: Job, cache: Path) -> list[PlannedStep]:
    """The trainings of teachers, then the steps of the run, in order, as `run.pipeline` would take them."""
    return [*_of_teachers(job, cache), *_of_run(job, cache)]


def _of_teachers(job: Job, cache: Path) -> Iterator[PlannedStep]:
    for name, teacher in job.teachers.items():
        if teacher.source.to_train is not None:
            step, alone = Step("pretrain", None, (), of_teacher=name), teacher_job(job, name)
            yield _looked_up(cache, step, stage_key("pretrain", depends(step, alone, {})), False)


def _of_run(job: Job, cache: Path) -> Iterator[PlannedStep]:
    keys: dict[str, str] = {}
    redone: set[str] = set()
    for step in steps(job):
        keys[step.name] = stage_key(step.stage, depends(step, job, keys))
        forced = step.stage in job.force or not redone.isdisjoint(step.after)
        redone |= {step.name} if forced else set()
        yield _looked_up(cache, step, keys[step.name], forced)


def _looked_up(cache: Path, step: Step, key: str, forced: bool) -> PlannedStep:
    folder, makes = cache / f"{step.stage}-{key}", STAGES[step.stage].makes
    result = read_result(folder)
    if result is not None and not forced:
        return PlannedStep(step, "cached", folder, str(result["made"]), result=result)
    if rows := _rows(folder.with_suffix(".partial")):
        return PlannedStep(step, "begun", folder, makes, rows, forced=forced)
    return PlannedStep(step, "to compute", folder, makes, forced=forced)


def _rows(partial: Path) -> int:
    try:
        return len(read_rows(partial))
    except (OSError, ValueError):  # damaged: it begins anew
        return 0
