"""How long the stages of a run would take, from a moment of each: a batch of a training, some steps of a search.

Each stage is begun as the run would begin it, in a temporary folder, on the network as it is now (new weights where
`pretrain` has not run), and left after a moment. A training is given a few batches of its images. What is measured is
an estimate: another job on the machine, images that are read from a slow disk for the first time, or a search that
gives candidates up change it.
"""

import copy
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn

from compress.data.base import WHOLE_BATCH, Batch, Data, Shard
from compress.errors import InputError
from compress.graph.plan import Plan
from compress.io.files import JSON
from compress.io.progress import Progress, watched
from compress.io.stage_folder import StageFolder
from compress.measure.accuracy import count_correct
from compress.measure.macs import count_macs
from compress.preview.network import Outlook
from compress.preview.stages import PlannedStep
from compress.prune.method import Learning
from compress.prune.surgery import cut
from compress.run.job import Job, RunState
from compress.run.stages.finetune import scratch_recipe
from compress.run.stages.training import dense_trains, teacher_job
from compress.schema.settings import FinetuneRecipe, Recipe
from compress.train.loop import NO_HOOKS, Hooks, Training, train
from compress.train.objective import Objective, cross_entropy

MOMENT = 1.5  # seconds for which a search is watched, at least one step
PATIENCE = 30  # seconds after which a stage is left without an estimate
BATCHES = 3  # of a training, after as many that warm up
EVAL_BATCH = 512  # as the training loop scores an epoch


@dataclass(frozen=True)
class Estimate:
    """Seconds of one step (an epoch, an episode, ...), their number, and what they are."""

    each: float
    count: int
    unit: str

    @property
    def seconds(self) -> float:
        return self.each * self.count


class _Enough(Exception):  # noqa: N818 (no error: it ends what was begun for a look)
    def __init__(self, estimate: Estimate) -> None:
        self.estimate = estimate


@dataclass(frozen=True)
class FewImages:
    """A data set whose training part has a few batches of `size` images."""

    data: Data
    size: int
    batches: int = BATCHES

    def __getattr__(self, name: str) -> Any:
        return getattr(self.data, name)

    def split(self) -> dict[str, Tensor]:
        parts = self.data.split()
        return {**parts, "train": parts["train"][: self.size * self.batches]}

    def shuffled(
        self, batch_size: int, seed: int, device: torch.device, shard: Shard = WHOLE_BATCH
    ) -> Iterator[Batch]:
        return islice(self.data.shuffled(batch_size, seed, device), self.batches)


def estimated(job: Job, steps: list[PlannedStep], outlook: Outlook) -> dict[str, Estimate | None]:
    """By the name of a step that is to be computed how long it would take; None: not known before what comes
    first."""
    found: dict[str, Estimate | None] = {}
    done = {planned.name: planned.folder for planned in steps if planned.state == "cached"}
    timer = _Timer(job, RunState(job, done), outlook)
    for planned in steps:
        if planned.state != "cached":
            # a method may refuse a network that has learned nothing yet
            with suppress(TimeoutError, InputError), _patience():
                found[planned.name] = timer.of(planned)
            found.setdefault(planned.name, None)
    return found


@contextmanager
def _patience() -> Iterator[None]:
    """
    Raises:
        TimeoutError: the block has taken longer than `PATIENCE`; where alarms exist, in the main thread.
    """
    if not hasattr(signal, "SIGALRM") or threading.current_thread() is not threading.main_thread():
        yield
        return

    def ring(*_: Any) -> None:
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(PATIENCE)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


class _Timer:
    def __init__(self, job: Job, state: RunState, outlook: Outlook) -> None:
        self.job, self.state, self.outlook = job, state, outlook
        self._of_image: dict[int, float] = {}  # seconds to score one image, by network

    def of(self, planned: PlannedStep) -> Estimate | None:
        job, stage = self.job, planned.step.stage
        if planned.step.of_teacher is not None:
            alone = teacher_job(job, planned.step.of_teacher)
            return self._training(alone.model.build(), job.pretrain) if dense_trains(alone) else _at_once("network")
        if stage == "pretrain":
            return self._training(self.state.fresh(), job.pretrain) if dense_trains(job) else _at_once("network")
        if stage == "sparsify":
            return self._learning()
        if stage == "prune":
            return _at_once("plan") if planned.step.branch is not None else self._planning()
        if stage == "finetune":
            return self._finetuning(job.of(planned.step.branch).finetune)
        return self._evaluation()

    # -- trainings -----------------------------------------------------------------------------------------------

    def _training(
        self,
        model: nn.Module,
        recipe: Recipe,
        hooks: Hooks = NO_HOOKS,
        objective: Callable[[Objective], Objective] | None = None,
    ) -> Estimate:
        """Of an epoch: the steps by a few batches, and the score of held-out images by some of them."""
        job, of_run = self.job, cross_entropy(recipe)
        data, images = FewImages(job.data, recipe.batch_size), len(job.data.split()["train"])
        short = replace(recipe, epochs=2, warmup_epochs=0, hold_epochs=0, early_stop_epochs=None)
        own_score = hooks.score
        with TemporaryDirectory(prefix="compress-") as folder:
            work = StageFolder(Path(folder), seconds := _Seconds())
            train(
                Training(
                    model=model, data=data, recipe=short, work=work, stage="plan", seed=job.seed, device=job.device,
                    objective=of_run if objective is None else objective(of_run),
                    hooks=replace(hooks, keep_best=False, score=lambda _: None),
                )
            )  # fmt: skip
        met = len(data.split()["train"])
        steps = seconds.last * images / met
        held_out = len(job.data.split()["held_out"])
        score = held_out * self._seconds_of_image(model) if own_score is None else _timed(lambda: own_score(model))
        return Estimate(steps + score, recipe.epochs, "epoch")

    def _seconds_of_image(self, model: nn.Module) -> float:
        """Seconds to score one image: of a batch, the second if the first was quick."""
        job = self.job
        batch = next(iter(job.data.ordered("held_out", EVAL_BATCH, job.device)))
        model.to(job.device)
        first = _timed(lambda: count_correct(model, [batch]))
        return min(first, _timed(lambda: count_correct(model, [batch])) if first < MOMENT else first) / len(batch[1])

    # -- methods -------------------------------------------------------------------------------------------------

    def _learning(self) -> Estimate | None:
        """Begin to learn: of the first training, or of the first search, that the method begins."""

        def timed_training(
            recipe: Recipe,
            hooks: Hooks,
            network: nn.Module | None = None,
            objective: Callable[[Objective], Objective] | None = None,
        ) -> JSON:
            raise _Enough(self._training(problem.model if network is None else network, recipe, hooks, objective))

        problem = replace(self.state.problem(timed_training), scores=None)
        method = self.job.method
        assert isinstance(method, Learning)
        return _looked_at(lambda work: method.learn(problem, work))

    def _planning(self) -> Estimate | None:
        method = self.job.method
        if method.traits.needs_learned and self.state.learned() is None:
            return None
        problem = replace(self.state.problem(), scores=None)
        return _looked_at(lambda work: method.plan(problem, self.state.learned(), work))

    # -- after them ----------------------------------------------------------------------------------------------

    def _pruned(self) -> nn.Module:
        """The network that was pruned already; else one of about its size."""
        if "prune" in self.state.done:
            return self.state.network("prune")[0]
        problem, widths = self.outlook.problem, self.outlook.alike
        if widths is None:
            return copy.deepcopy(problem.model)
        kept = {g.name: range(int(width)) for g, width in zip(problem.graph, widths, strict=True)}
        return cut(problem.model, problem.graph, Plan(kept))

    def _finetuning(self, recipe: FinetuneRecipe) -> Estimate:
        model = self._pruned()
        if recipe.init == "scratch":
            return self._training(model, scratch_recipe(self.job, count_macs(model, self.job.data.shape)))
        return self._training(model, recipe)

    def _evaluation(self) -> Estimate:
        """Every network is scored on the test images, and its latency measured for as long as was asked."""
        job = self.job
        leaves_one = {"sparsify": job.method.traits.trains == "network", "eval": False}
        networks = sum(leaves_one.get(stage, True) for stage in job.stages)
        networks += len(job.branches) * len({"prune", "finetune"} & set(job.stages))
        images = len(job.data.split()["test"])
        each = images * self._seconds_of_image(self.state.fresh()) + job.evaluate.latency_seconds
        return Estimate(each, networks, "network")


class _Seconds:
    """Takes the rows of a training; `last` has the seconds of the last epoch."""

    last = math.nan

    def __call__(self, row: Mapping[str, Any]) -> None:
        self.last = row["seconds"]


def _looked_at(begin: Callable[[StageFolder], object]) -> Estimate | None:
    """Begin something in a temporary folder and leave it after a moment; all of it where it ends before."""

    def watch(progress: Progress) -> None:
        if progress.total is not None and time.perf_counter() - began >= MOMENT:
            raise _Enough(Estimate(progress.rate, progress.total, progress.unit))

    with TemporaryDirectory(prefix="compress-") as folder:
        work, began = StageFolder(Path(folder)), time.perf_counter()
        try:
            with watched(watch):
                begin(work)
        except _Enough as enough:
            return enough.estimate
        return Estimate(time.perf_counter() - began, 1, "plan")


def _at_once(unit: str) -> Estimate:
    return Estimate(0.0, 1, unit)


def _timed(call: Callable[[], object]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began
