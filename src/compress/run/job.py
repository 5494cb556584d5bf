"""The input of a run (`Job`), and its state: the job and the folders of its finished stages (`RunState`)."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from compress.data.base import Data
from compress.distill.distill import Distill
from compress.distill.teacher import WeightedTeacher
from compress.graph.build import channel_graph
from compress.graph.plan import Plan
from compress.io.paths import MODEL
from compress.io.seeds import derive_seed
from compress.models.spec import ModelSpec
from compress.models.unchanged import random_numbers_kept
from compress.parallel.collectives import ALONE, Team
from compress.prune.controls import Control
from compress.prune.cost import cost_model
from compress.prune.latency.prediction import LatencyModel, latency_model
from compress.prune.latency.runtime import Where
from compress.prune.limits import NO_LIMITS, Limits, channel_limits, limited
from compress.prune.method import Method, Problem, Train, criterion_of
from compress.prune.saved_network import load_network
from compress.prune.steps import widened
from compress.report.trackers.tracker import NoTracker, Tracker
from compress.schema.settings import NETWORK_NAMES, Budget, EvalSettings, FinetuneRecipe, Recipe


@dataclass(frozen=True)
class Keys:
    """Where the settings of a job's parts stand in the config, for messages."""

    data: str
    model: str
    method: str
    distill: str
    teachers: Mapping[str, str]  # by name of the teacher, as in `Job.teachers`
    teacher_models: Mapping[str, str]


@dataclass(frozen=True)
class Rung:
    """A step of an iterative schedule, but not the last: a cut to its budget, and the training after it."""

    step: int  # from 1
    budget: Budget
    recipe: FinetuneRecipe

    def __str__(self) -> str:
        return f"step {self.step}"


Branch = Control | Rung  # has a `prune` and a `finetune` of its own


@dataclass(frozen=True)
class Job:
    """One run: model, data, method, budget, recipes, stages. Created by `config.build`."""

    seed: int
    device: torch.device
    data: Data
    model: ModelSpec
    method: Method
    budget: Budget
    pretrain: Recipe
    finetune: FinetuneRecipe
    evaluate: EvalSettings
    controls: tuple[Control, ...]
    teachers: Mapping[str, WeightedTeacher]  # "teacher", or if there are several "teacher <name>"; empty: none
    distill: Distill | None
    stages: tuple[str, ...]
    force: frozenset[str]
    asked: Mapping[str, Any]  # settings of model, method, ... as written in the config, for cache keys and records
    keys: Keys
    where: Where  # what latencies are measured in
    devices: int = 1  # world size of its trainings
    notes: tuple[str, ...] = ()  # what the run tells at its beginning: defaults that followed from its images
    ladder: tuple[Rung, ...] = ()  # the steps of an iterative schedule before the last one
    tracker: Tracker = NoTracker()  # noqa: RUF009 (frozen)

    @property
    def branches(self) -> tuple[Branch, ...]:
        return (*self.ladder, *self.controls)

    def of(self, branch: Branch | None) -> "Job":
        """The job as a branch runs it: a rung has another budget and another training."""
        return replace(self, budget=branch.budget, finetune=branch.recipe) if isinstance(branch, Rung) else self


@dataclass(frozen=True)
class RunState:
    """A job and the folders of its finished stages, by stage; the folder of a teacher's training is under its name.

    Each branch has its own state, which shares the stages before `prune`. The state of the run itself has the stage
    folders of all branches in `branches`.
    """

    job: Job
    done: Mapping[str, Path]
    branch: Branch | None = None
    branches: Mapping[str, Mapping[str, Path]] = field(default_factory=dict)
    before: Path | None = None  # the folder of the training of the rung before, where there is one
    team: Team = ALONE  # rank and world size in the training of this stage
    scores: Path | None = None  # folder in which searches of all runs remember what they scored

    @property
    def control(self) -> Control | None:
        return self.branch if isinstance(self.branch, Control) else None

    @property
    def rung(self) -> Rung | None:
        return self.branch if isinstance(self.branch, Rung) else None

    def fresh(self) -> nn.Module:
        """The uncut network with new weights."""
        return self.job.model.without_pretrained().build()

    def network(self, stage: str) -> tuple[nn.Module, Plan]:
        return load_network(self.done[stage] / MODEL, self.fresh)

    def latest(self) -> str:
        """The last finished stage that wrote a network."""
        return next(
            stage for stage in reversed(NETWORK_NAMES) if stage in self.done and (self.done[stage] / MODEL).is_file()
        )

    def uncut(self) -> nn.Module:
        """The newest network of full width: of `sparsify`, of `pretrain`, or else with new weights from the seed.

        A method that begins fresh gets new weights also where `pretrain` is among the stages, as a teacher's, say.
        """
        begins_fresh = self.job.method.traits.begins == "fresh"
        finished = [stage for stage in ("sparsify", *(() if begins_fresh else ("pretrain",))) if stage in self.done]
        stage = next((stage for stage in finished if (self.done[stage] / MODEL).is_file()), None)
        if stage is not None:
            return self.network(stage)[0]
        torch.manual_seed(derive_seed(self.job.seed, "weights"))
        return self.fresh()

    def learned(self) -> Path | None:
        return self.done.get("sparsify")

    @property
    def timing(self) -> "Timing":
        return Timing(self.job.where, self.job.evaluate.latency_seconds, self.scores)

    def problem(self, train: Train | None = None) -> Problem:
        """The input of a method; `train` trains the full-width network, or one of the method's own."""
        job = self.job
        model = (self.uncut() if self.before is None else self.fresh()).to(job.device)
        problem = make_problem(
            model, job.data, job.budget, job.device, job.seed, self.fresh, channel_limits(job.method), self.timing
        )
        before = None
        if self.before is not None:
            small, before = load_network(self.before / MODEL, self.fresh)
            widened(model, problem.graph, before, small)
        return replace(
            problem,
            before=before,
            scores=self.scores,
            criterion=criterion_of(job.method),
            train=problem.train if train is None else train,
        )


class Timing(NamedTuple):
    """How a latency becomes known."""

    where: Where
    seconds: float  # of measuring each network
    folder: Path | None  # where times are kept


def make_problem(
    model: nn.Module,
    data: Data,
    budget: Budget,
    device: torch.device,
    seed: int,
    fresh: Callable[[], nn.Module],
    limits: Limits = NO_LIMITS,
    timing: Timing | None = None,
) -> Problem:
    """
    Raises:
        SettingError: limits that name no layer, or leave nothing to cut.
    """
    graph = limited(channel_graph(model, data.shape), limits)
    cost = cost_model(model, graph, data.shape)
    problem = Problem(model, graph, cost, data, budget, device, seed, fresh)
    if timing is None:
        return problem

    @cache
    def latency() -> LatencyModel:
        with random_numbers_kept():
            network = fresh().to(device)
        return latency_model(network, graph, cost, data.shape, timing.where, timing.folder, timing.seconds)

    return replace(problem, latency=latency)
