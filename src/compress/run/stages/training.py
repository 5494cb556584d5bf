"""Training in a stage: with the teacher if it joins, and saving the best epoch; and the parts of cache keys of stages
that train."""

import copy
import logging
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from compress.data.base import normalisation_of
from compress.distill.distill import Answering, Distill
from compress.errors import placed, settings_under
from compress.graph.plan import Plan
from compress.io.code_digest import source_digest
from compress.io.files import JSON, digest_of
from compress.io.seeds import derive_seed
from compress.io.stage_folder import StageFolder
from compress.measure.accuracy import accuracy
from compress.models.spec import ModelSpec
from compress.prune.method import recipes_of
from compress.prune.saved_network import save_network
from compress.run.job import Job, RunState
from compress.run.stages.logits import Lesson, kept_logits
from compress.schema.settings import Recipe
from compress.train.loop import NO_HOOKS, Hooks, Training, train
from compress.train.objective import Objective, cross_entropy

log = logging.getLogger(__name__)


def train_network(
    state: RunState,
    model: nn.Module,
    recipe: Recipe,
    stage: str,
    work: StageFolder,
    plan: Plan,
    hooks: Hooks = NO_HOOKS,
) -> JSON:
    """Train `model` in place, with the teacher if it joins this stage; saves the best epoch as best.safetensors.

    Returns the report of `train`, without the weights.

    Raises:
        SettingError: training diverged; names the key of the recipe in the config.
    """
    history = _trained(state, model, recipe, _objective(state, model, recipe, stage, work), stage, work, hooks)
    if hooks.keep_best:
        best = copy.deepcopy(model)
        best.load_state_dict(history.pop("best_weights"))
        save_network(work.folder / "best.safetensors", best, state.job.model, plan, normalisation_of(state.job.data))
    return history


def train_own_network(
    state: RunState,
    network: nn.Module,
    recipe: Recipe,
    stage: str,
    work: StageFolder,
    hooks: Hooks,
    objective: Callable[[Objective], Objective] | None = None,
) -> JSON:
    """The same for a network that is not the run's: nothing of it is saved but progress. `objective` makes what is
    minimised of what would be without it."""
    hooks = replace(hooks, keep_best=False)
    of_run = _objective(state, network, recipe, stage, work)
    return _trained(state, network, recipe, of_run if objective is None else objective(of_run), stage, work, hooks)


def _trained(
    state: RunState,
    model: nn.Module,
    recipe: Recipe,
    objective: Objective,
    stage: str,
    work: StageFolder,
    hooks: Hooks,
) -> JSON:
    job = state.job
    training = Training(
        model=model,
        data=job.data,
        recipe=recipe,
        objective=objective,
        work=work,
        stage=stage,
        seed=job.seed,
        device=job.device,
        hooks=hooks,
        team=state.team,
    )
    key = recipe_key(job, stage, recipe) if state.rung is None else f"{job.keys.method}.retraining"
    with settings_under(key):
        return train(training)


def recipe_key(job: Job, stage: str, recipe: Recipe) -> str:
    """The config key of the recipe of a stage; for `sparsify` the name of the method's setting that is a recipe."""
    if stage == "sparsify":
        recipes = recipes_of(job.method)
        same = [name for name, value in recipes.items() if value is recipe]
        return next(iter([*same, *recipes]), "recipe")  # a method may derive what it trains by from its setting
    return "pretrain" if stage == "finetune" and job.finetune.init == "scratch" else stage


def _objective(state: RunState, model: nn.Module, recipe: Recipe, stage: str, work: StageFolder) -> Objective:
    job = state.job
    if job.distill is None or stage not in job.distill.stages:
        return cross_entropy(recipe)
    teachers = {}
    for name in job.teachers:
        called = name.removeprefix("teacher").strip()
        teachers[called], top1 = _kept_or_loaded(state, name, called, job.distill, recipe, stage, work)
        whose = f"teacher's ({called})" if called else "teacher's"
        log.info("%s: the %s held-out top-1 is %.2f %%", stage, whose, top1)
    torch.manual_seed(derive_seed(job.seed, stage, "adapters"))
    with settings_under(job.keys.distill):
        objective = job.distill.objective(recipe, teachers, model, job.data.shape)
    for line in [*job.distill.doubts(job.data.classes, recipe.epochs), *objective.doubts()]:
        log.warning("%s: %s", stage, placed(line, job.keys.distill))
    return objective


def _kept_or_loaded(
    state: RunState, name: str, called: str, distill: Distill, recipe: Recipe, stage: str, work: StageFolder
) -> tuple[tuple[Answering, float], float]:
    """A teacher's kept logits, or itself, with its weight; and its held-out top-1 in percent."""
    job, weight = state.job, state.job.teachers[name].settings.weight
    lesson = Lesson(
        called=called,
        stage=stage,
        recipe=recipe,
        seed=job.seed,
        distill=distill,
        data=job.data,
        device=job.device,
        work=work,
        teacher=lambda: load_teacher(state, name).to(job.device),
        depends={"teacher": _answers_depend_on(state, name), "data": training_images(job)},
    )
    with settings_under(job.keys.distill):
        kept = kept_logits(lesson, state.team)
    if kept is not None:
        table, top1 = kept
        return (table, weight), top1
    network = lesson.teacher()
    return (network, weight), accuracy(network, job.data.ordered("held_out", 512, job.device)).top1


def _answers_depend_on(state: RunState, name: str) -> JSON:
    """The digest of the teacher's file, or the name of the folder of the stage that computed it; and how images are
    converted for it."""
    teacher = state.job.teachers[name]
    network = teacher.source.digest() or state.done[teacher.source.of_stage or name].name
    own = teacher.converts(state.job.data)
    return {"network": network, "normalisation": None if own is None else asdict(own)}


def load_teacher(state: RunState, name: str) -> nn.Module:
    """The network of a teacher, in eval mode, for the images of the run."""
    teacher = state.job.teachers[name]
    return teacher.load(state.done.get(teacher.source.of_stage or name), state.job.data)


def teaching(job: Job, stage: str) -> JSON:
    """The cache key's part on the teachers, if they join this stage. Which other stages they join is left out."""
    if job.distill is None or stage not in job.distill.stages:
        return {}
    # kept logits are those that the teacher would answer, up to float noise
    elsewhere = ("stages", "cache", "cache_limit_gb")
    distill = {key: value for key, value in job.asked["distill"].items() if key not in elsewhere}
    teachers = {name: _teacher_settings(job, name) for name in job.teachers}
    return {"distill": distill, "teacher": teachers.get("teacher", teachers)}


def _teacher_settings(job: Job, name: str) -> Any:
    """What the answers of a teacher depend on, and their weight."""
    teacher = job.teachers[name]
    network = _network_of(job, name)
    own = teacher.converts(job.data)
    more = {
        **({} if own is None else {"normalisation": asdict(own)}),
        **({} if teacher.settings.weight == 1 else {"weight": teacher.settings.weight}),
    }
    return {"network": network, **more} if more else network


def _network_of(job: Job, name: str) -> Any:
    source = job.teachers[name].source
    if (digest := source.digest()) is not None:
        return digest
    if source.of_stage == "sparsify":
        return {"of": source.of_stage}  # whose key is in those of all stages after it
    return dense_depends_on(job if source.to_train is None else teacher_job(job, name))


def teacher_job(job: Job, name: str) -> Job:
    """The job with a teacher as its model, so that its pretrain stage trains the teacher."""
    network = job.teachers[name].source.to_train
    assert network is not None
    return replace(job, model=network, keys=replace(job.keys, model=job.keys.teacher_models[name]))


def devices_settings(job: Job) -> JSON:
    """The cache key's part on the number of processes, which changes batch norms and float rounding; none for 1."""
    return {"devices": job.devices} if job.devices > 1 else {}


def training_images(job: Job) -> JSON:
    """The cache key's part on the training images: pixels, split and augmentation, not where they are stored."""
    locations = ("root", "download")
    settings = {key: value for key, value in job.asked["dataset"].items() if key not in locations}
    return {"fingerprint": job.data.fingerprint(), **settings}


def network_settings(spec: ModelSpec) -> JSON:
    """The cache key's part on the architecture: function, arguments, image shape, classes, and the source of user
    code."""
    args = {key: value for key, value in spec.args.items() if key != "download"}
    settings: JSON = {"target": spec.target, "args": args, "shape": spec.shape, "classes": spec.classes}
    if (file := weights_file(spec)) is not None:
        settings["weights"] = digest_of(file)
    if (source := source_digest(spec.target)) is not None:
        settings["source"] = source
    return settings


def weights_file(spec: ModelSpec) -> Path | None:
    """The file of weights that an argument of the network names, rather than an entry of a list."""
    named = spec.args.get("weights")
    path = Path(named).expanduser() if isinstance(named, str) else None
    return path if path is not None and path.is_file() else None


def dense_depends_on(job: Job) -> JSON:
    """The cache key of a dense network: as `pretrain` makes it, or a teacher's training."""
    spec = job.model
    settings = network_settings(spec)
    if spec.checkpoint is not None:
        return {**settings, "checkpoint": spec.checkpoint_digest()}
    if spec.is_pretrained:
        return settings
    recipe = {"recipe": asdict(job.pretrain), "seed": job.seed, "data": training_images(job)}
    return {**settings, **recipe, **devices_settings(job)}


def dense_trains(job: Job) -> bool:
    """Whether `pretrain` trains: neither a checkpoint nor pretrained weights are given."""
    return not job.model.comes_trained
