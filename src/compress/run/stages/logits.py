"""logits: what the teacher answers to the views of the training images, kept for all students.

Not among the stages of a run: a training that the teacher joins finds it in the cache, or makes it. Of every view of
every image, which serves any training with this teacher; or of those views alone that one training meets, which cost
no more than asking the teacher in it, and serve all trainings with this seed, stage and number of epochs.

Cache key: the teacher (by the key of its stage, or the digest of its file), the training images and their
augmentation, and which views: all, or a digest of them.

Writes: logits.npy.

Version history: 1.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from compress.data.base import Data, Viewed, digest
from compress.distill.distill import Distill
from compress.distill.kept_logits import BATCH, NAME, KeptLogits, fill, megabytes, opened
from compress.errors import OWN, SettingError, placed
from compress.io.files import JSON, Row, read_json, write_json
from compress.io.stage_folder import StageFolder
from compress.measure.accuracy import accuracy
from compress.parallel.collectives import Team
from compress.run.store import Store
from compress.schema.settings import Recipe
from compress.train.loop import image_seed

log = logging.getLogger(__name__)

VERSION = 1
CHOICE = "logits.json"  # in the folder of a training: which logits it began with, so that it goes on with them
Which = Literal["all", "met", "none"]


@dataclass(frozen=True, kw_only=True)
class Lesson:
    """A training that a teacher joins."""

    called: str = ""  # the teacher, where there are several
    stage: str
    recipe: Recipe
    seed: int
    distill: Distill
    data: Data
    device: torch.device
    work: StageFolder  # in the folder of the cache
    teacher: Callable[[], nn.Module]
    depends: JSON  # what the answers of the teacher depend on

    @property
    def store(self) -> Store:
        return Store(self.work.folder.parent)

    @cached_property
    def met(self) -> Tensor:
        """The views (n,) that it meets in the epochs that need the teacher, sorted."""
        assert isinstance(self.data, Viewed)
        epochs = range(1, self.distill.asks(self.recipe.epochs) + 1)
        seeds = [image_seed(self.seed, self.stage, epoch) for epoch in epochs]
        drawn = [self.data.drawn_views(self.recipe.batch_size, seed, self.device).cpu() for seed in seeds]
        views: Tensor = torch.cat(drawn).unique()
        return views

    def begun(self) -> dict[str, Which]:
        """What the training began with, by teacher."""
        file = self.work.folder / CHOICE
        found: dict[str, Which] = read_json(file) if file.is_file() else {}
        return found

    @property
    def images(self) -> int:
        return len(self.data.split()["train"])

    @property
    def views(self) -> int:
        assert isinstance(self.data, Viewed)
        return self.data.views


def obstacle(distill: Distill, data: Data, recipe: Recipe) -> str:
    """Why the teacher's logits cannot be kept for a training, whatever their size; "" if they can."""
    if names := list(distill.on_features):
        return f"{names[0]} compares feature maps, which are not kept"
    if not isinstance(data, Viewed):
        return "the images of this dataset are not augmented by crop and flip alone, so their views cannot be counted"
    if recipe.amp != "off":
        return f"in {recipe.amp} what the teacher answers to an image depends on the batch"
    return ""


def kept_logits(lesson: Lesson, team: Team) -> tuple[KeptLogits, float] | None:
    """The kept logits that a training is to use, and the teacher's held-out top-1 in percent; None: it asks the
    teacher. Rank 0 finds or makes them.

    Raises:
        SettingError: `cache=on` cannot be done.
    """
    found: tuple[Which, Path, float] | None = team.broadcast_object(_found(lesson) if team.is_main else None)
    if found is None:
        return None
    which, folder, top1 = found
    return opened(folder / NAME, lesson.met if which == "met" else None, lesson.device), top1


def _found(lesson: Lesson) -> tuple[Which, Path, float] | None:
    """What `kept_logits` is to open, in a finished folder of the cache."""
    which = _chosen(lesson)
    if lesson.distill.cache != "off":
        write_json(lesson.work.folder / CHOICE, {**lesson.begun(), lesson.called: which})
    if which == "none":
        return None
    views = lesson.met if which == "met" else None
    finished = lesson.store.stage(
        "logits", _depends(lesson, views), lambda work: _computed(lesson, work, views), redo=False, on_row=_no_rows
    )
    log.info(
        "%s: the teacher%s is not asked: %s are kept, %.1f MB, which saves about %.1f s an epoch",
        lesson.stage,
        f" {lesson.called}" if lesson.called else "",
        f"its logits of all {lesson.views} views of an image" if views is None else "its logits of the views to come",
        finished.result["megabytes"],
        finished.result["seconds"] * lesson.images / finished.result["views"],
    )
    return which, finished.folder.absolute(), finished.result["held_out_top1"]


def _no_rows(row: Row) -> None:
    pass


def _depends(lesson: Lesson, views: Tensor | None) -> JSON:
    which = "all" if views is None else digest(views)
    return {"settings": {**lesson.depends, "views": which}, "parent": None, "version": VERSION}


def _computed(lesson: Lesson, work: StageFolder, views: Tensor | None) -> JSON:
    log.info("logits: running")
    data, teacher = lesson.data, lesson.teacher()
    assert isinstance(data, Viewed)
    views = torch.arange(lesson.images * data.views) if views is None else views
    top1 = accuracy(teacher, data.ordered("held_out", BATCH, lesson.device)).top1
    fill(work, teacher, data, views, data.classes, lesson.device)
    log.info("logits: done in %.1f s", work.seconds())
    return {
        "made": "table of the teacher's logits",
        "views": len(views),
        "megabytes": megabytes(len(views), data.classes),
        "held_out_top1": top1,
        "seconds": round(work.seconds(), 3),
        "threads": torch.get_num_threads(),
    }


def _chosen(lesson: Lesson) -> Which:
    """By `distill.cache`; a training that goes on stays with what it began with."""
    distill, resumed = lesson.distill, lesson.work.resumed is not None
    if distill.cache == "off":
        return "none"
    why = obstacle(distill, lesson.data, lesson.recipe) or _too_large(lesson, lesson.images * lesson.views)
    if distill.cache == "on":
        if why:
            raise SettingError(f"{OWN}cache=on: {why}; use auto or off")
        return "all"
    if resumed and lesson.called in (begun := lesson.begun()):
        return begun[lesson.called]
    return _worth_keeping(lesson, why)


def _worth_keeping(lesson: Lesson, why_not_all: str) -> Which:
    """What costs no more than asking the teacher in this training alone; says so if that is nothing."""
    why = obstacle(lesson.distill, lesson.data, lesson.recipe)
    if not why:
        store, asked = lesson.store, lesson.distill.asks(lesson.recipe.epochs)
        if not why_not_all and (asked >= lesson.views or store.holds("logits", _depends(lesson, None))):
            return "all"
        met = lesson.met
        why = _too_large(lesson, len(met))
        if not why and lesson.recipe.early_stop_epochs is not None:  # which may end it long before
            why = "" if store.holds("logits", _depends(lesson, met)) else "the training may stop early"
        if not why:
            return "met"
    log.info("%s: the teacher is asked in every step (%s)", lesson.stage, placed(why))
    return "none"


def _too_large(lesson: Lesson, views: int) -> str:
    """Why a table of so many views is not kept; "" if it is small enough."""
    limit, size = lesson.distill.cache_limit_gb, megabytes(views, lesson.data.classes) / 1e3
    if size > limit:
        return f"{views:,} views of the training images take {size:.3g} GB, {OWN}cache_limit_gb={limit:g} allows less"
    if lesson.device.type == "cuda" and 2e9 * size > (free := torch.cuda.mem_get_info(lesson.device)[0]):
        return (
            f"{views:,} views of the training images take {size:.3g} GB, more than half of the GPU's {free / 1e9:.3g}"
        )
    return ""
