"""Builds the `Job` of a run from its config: the only module that reads the config tree and calls `instantiate`.

All mistakes are found here, before a run starts: types and bounds by `compress.config.rules`; missing files and
devices, and parts that do not fit each other, by building the parts. Building is cheap: images and weights are read
only when they are needed.
"""

import inspect
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate

from compress.config import rules
from compress.config.image_folder import told
from compress.data.base import Data, Normalisation
from compress.distill.distill import Distill
from compress.distill.teacher import OwnNetworkError, Teacher, WeightedTeacher
from compress.errors import InputError, SettingError, settings_under
from compress.io.code_digest import source_digests
from compress.io.files import JSON
from compress.io.paths import CACHE
from compress.models.meta_kernels import MetaKernels
from compress.models.onnx import require_onnx
from compress.models.spec import ModelSpec, WrongImagesError
from compress.models.weights import read_checkpoint
from compress.parallel.rank import place
from compress.prune.controls import controls_of
from compress.prune.latency.runtime import Where
from compress.prune.limits import Limits, channel_limits, within_limits
from compress.prune.method import Method, Traits, recipes_of
from compress.prune.steps import InSteps, ladder
from compress.report.trackers.tracker import NoTracker, Tracker
from compress.run.job import Job, Keys, Rung, Timing, make_problem
from compress.run.stages import needs
from compress.run.stages.logits import obstacle
from compress.schema.check import find_target, shown
from compress.schema.settings import (
    BUDGETS,
    STAGE_ORDER,
    Budget,
    BudgetKind,
    EvalSettings,
    FinetuneRecipe,
    Recipe,
    TeacherSettings,
)
from compress.train.graphs import lacking
from compress.train.memory_format import training_format

T = TypeVar("T")


def _without_pipeline_keys(node: Any) -> Any:
    """A config node without the keys that its callable (`_target_`) does not take: `name` and `PIPELINE_KEYS`."""
    if not isinstance(node, Mapping):
        return node
    ours = {"name", *rules.PIPELINE_KEYS} if "_target_" in node else set()
    return {key: _without_pipeline_keys(value) for key, value in node.items() if key not in ours}


def _with_sources(node: Any) -> Any:
    """A config node for cache keys: its settings, and the digests of the user's modules that it names."""
    settings = _without_pipeline_keys(node)
    if isinstance(settings, Mapping):  # a limit that is not set is no setting, as before there were limits
        limits = {field.name for field in fields(Limits)}
        settings = {key: value for key, value in settings.items() if value is not None or key not in limits}
    sources = source_digests(node)
    return {**settings, "sources": sources} if sources else settings


def make(node: Mapping[str, Any], key: str = "") -> Any:
    """Call the function or class that a config node names. `key` is the node's place in the config, for messages.

    Raises:
        InputError: the settings are wrong.
    """
    try:
        return instantiate(_without_pipeline_keys(node), _convert_="all")
    except InstantiationException as error:
        if isinstance(error.__cause__, SettingError):
            within = ".".join(filter(None, (key, _key_within(error))))
            raise (error.__cause__.under(within) if within else error.__cause__) from None
        if isinstance(error.__cause__, InputError):
            raise error.__cause__ from None
        raise


def _key_within(error: InstantiationException) -> str:
    """The place, in the node that was to be made, of the part that could not be; "" for the node itself. Hydra tells
    it in the last line of its message alone."""
    *_, last = str(error).splitlines()
    return last.removeprefix("full_key: ") if last.startswith("full_key: ") else ""


def pick_device(name: str, devices: int = 1) -> torch.device:
    """The device of this process. With several devices it is the one of its local rank.

    Raises:
        InputError: this machine has no such device, or not as many.
    """
    if devices > 1:
        return _device_of_rank(name, devices)
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        device = torch.device("meta")
    if device.type not in ("cpu", "cuda"):
        raise InputError(f"device={name}: must be auto, cpu, cuda or cuda:<number>")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise InputError(f"device={name}: this machine has {torch.cuda.device_count()} CUDA devices; try device=auto")
    return device


def _device_of_rank(name: str, devices: int) -> torch.device:
    launched = place()
    if launched.world_size not in (1, devices):
        raise InputError(
            f"devices={devices}: the launcher has started {launched.world_size} processes; leave devices at 1, or "
            f"give devices={launched.world_size}"
        )
    kind = pick_device(name)
    if kind.index is not None:
        raise InputError(f"device={name}: is one device, devices={devices} take the first {devices}; use device=cuda")
    if kind.type == "cpu":
        return kind
    needed = launched.local_world_size if launched.world_size > 1 else devices
    available = torch.cuda.device_count()
    if available == 1 and "SLURM_JOB_ID" in os.environ and launched.world_size > 1:
        return torch.device("cuda", 0)  # SLURM shows each task only its own GPU
    if needed > available:
        raise InputError(
            f"devices={needed}: must be <= {available}, the CUDA devices of this machine, or use device=cpu"
        )
    return torch.device("cuda", launched.local_rank)


def too_small_batches(node: Mapping[str, Any], devices: int, path: str = "") -> list[str]:
    """Problems of all recipes in a config node whose batches have fewer than two images per device, the least that
    batch norm can train on."""
    problems = []
    size, least = node.get("batch_size"), 2 * devices
    if "epochs" in node and isinstance(size, int) and size < least:
        problems.append(f"{path}batch_size={size}: must be >= {least}, two images for each of devices={devices}")
    inner = {key: value for key, value in node.items() if isinstance(value, Mapping)}
    return problems + [
        line for key, value in inner.items() for line in too_small_batches(value, devices, f"{path}{key}.")
    ]


def make_spec(node: Mapping[str, Any], data: Data | None, key: str) -> ModelSpec:
    """The spec of a network for the images of `data`. The network is built once, to check that the weights of its
    checkpoint fit and that it takes such images.

    `data` is None if the dataset is wrong itself; then only what does not depend on it is checked.

    Raises:
        InputError: every problem of the network and its checkpoint.
    """
    args = {name: value for name, value in node.items() if name not in ("_target_", "name", "checkpoint")}
    checkpoint = os.path.expanduser(node["checkpoint"]) if node.get("checkpoint") else None
    shape, classes = (data.shape, data.classes) if data is not None else ((3, 32, 32), 10)
    spec = ModelSpec(node["_target_"], args, shape, classes, checkpoint)
    errors = _ErrorCollector()
    network = errors.call(_call_for_network, key, spec.build, data is not None)
    if checkpoint and data is not None and network is not None:
        errors.call(_call_for_network, key, spec.load_checkpoint, network)
    elif checkpoint:
        errors.call(_call_for_network, key, read_checkpoint, Path(checkpoint))
    if errors.problems:
        raise InputError(*_as_timm(key, spec.target, errors.problems))
    return spec


def _call_for_network(key: str, function: Callable[..., T], *args: Any) -> T:
    """Call a function of a network whose settings stand at `key`; messages about it begin with that key.

    Raises:
        InputError: the function refuses the network or its checkpoint.
    """
    try:
        with settings_under(key):
            return function(*args)
    except SettingError:
        raise
    except WrongImagesError as error:
        raise InputError(f"{key}: {error}; try another dataset.image_size, such as 32 or 224") from None
    except InputError as error:
        raise InputError(*(f"{key}: {problem}" for problem in error.problems)) from None


def _as_timm(key: str, target: str, problems: Sequence[str]) -> list[str]:
    """Problems of a network, where timm itself makes it with what gives it the classes and channels of the images."""
    choice = "model" if key == "model" else f"model@{key}"
    hint = f"; {choice}=timm {key}.arch=<name> gives it the classes and the channels of the images"
    return [f"{line}{hint if target.startswith('timm.') else ''}" for line in problems]


def make_method(node: Mapping[str, Any]) -> Method:
    """The method of a run. The groups that it refers to, such as a search, are made by themselves first: their errors
    then have their own keys.
    """
    for group in rules.METHODS_WITH_GROUP:
        if isinstance(node.get(group), Mapping):
            make(node[group], group)
    method: Method = make(node, "method")
    return method


def make_teacher(
    key: str, node: Mapping[str, Any], data: Data | None, model: ModelSpec | None
) -> WeightedTeacher | None:
    """The teacher whose settings stand at `key`. A class with a parameter `spec` gets the `model` of the config node,
    or without one the network that the run compresses.

    `data` or `model` is None if that part is wrong itself; then only what does not depend on it is checked.
    """
    kind = find_target(node["_target_"])
    common = {name: value for name, value in node.items() if name in rules.TEACHER_KEYS}
    settings = {name: value for name, value in node.items() if name not in (*common, "_target_", "name", "model")}
    if isinstance(given := settings.get("normalisation"), Mapping):
        settings["normalisation"] = Normalisation(**given)
    if "spec" in inspect.signature(kind).parameters:
        settings["spec"] = make_spec(node["model"], data, f"{key}.model") if "model" in node else model
        if settings["spec"] is None:
            return None
    with settings_under(key):
        teacher = WeightedTeacher(kind(**settings), TeacherSettings(**common))
        try:
            if data is not None:
                teacher.check(data)
        except OwnNetworkError as error:
            choice = "teacher" if key == "teacher" else f"teacher@{key}"
            hint = f"use {choice}=zoo model@{key}.model=custom {key}.model._target_={shown(error.target)}"
            raise SettingError(*(f"{line}; {hint}" for line in error.lines)) from None
        return teacher


def make_tracker(node: Mapping[str, Any]) -> Tracker:
    """
    Raises:
        InputError: what it needs is not installed, or its settings are wrong.
    """
    tracker: Tracker = make(node, "tracker")
    tracker.require(f"tracker={node.get('name')}")
    return tracker


class _ErrorCollector:
    """Calls functions and collects their input errors, so that all mistakes are reported at once."""

    def __init__(self) -> None:
        self.problems: list[str] = []

    def call(self, function: Callable[..., T], *args: Any) -> T | None:
        """The result; None after an `InputError`."""
        try:
            return function(*args)
        except InputError as error:
            self.problems += error.problems
            return None


def build(config: JSON) -> Job:
    """The job of a run, from its composed config.

    Raises:
        InputError: every problem of the config, of the files that it names, and of parts that do not fit each other.
    """
    problems = rules.check(config)
    bad = {re.split(r"[=.\[: ]", problem.removeprefix("unknown key "))[0] for problem in problems}
    errors = _ErrorCollector()

    def build_part(key: str, function: Callable[..., T], *args: Any) -> T | None:
        """Call `function`, unless the settings at `key` are already known to be wrong."""
        return errors.call(function, *args) if key not in bad else None

    devices = config["devices"] if "devices" not in bad else 1
    if devices == 1:
        devices = place().world_size  # the number of processes that a launcher has started
    device = build_part("device", pick_device, config["device"], devices)
    data: Data | None = build_part("dataset", make, config.get("dataset"), "dataset")
    if devices > 1:
        problems += too_small_batches(config, devices)
        if data is not None and "shard" not in inspect.signature(data.shuffled).parameters:
            problems.append(f"devices={devices}: the images of this dataset cannot be shared (`shard` of `shuffled`)")
    spec = build_part("model", make_spec, config.get("model"), data, "model")
    method: Method | None = build_part("method", make_method, config.get("method"))
    distill: Distill | None = None
    if config.get("distill"):
        distill = build_part("distill", make, config["distill"], "distill")
    teachers: dict[str, WeightedTeacher] = {}  # by key
    for key, node in rules.teachers_in(config["teacher"]).items() if config.get("teacher") else ():
        if (made := build_part("teacher", make_teacher, key, node, data, spec)) is not None:
            teachers[key] = made
    takes = _budgets_of(method, config)
    budget, _ = rules.choose_budget(config, takes)
    if budget is not None and bad & {each.kind for each in budget.every}:
        budget = None
    if budget is not None and budget.kind not in takes:
        why = f"method={config['method'].get('name')} does not take it; it takes {', '.join(takes)}"
        problems.append(f"{budget.kind}={config.get(budget.kind, budget.value)}: {why}")
        budget = None
    if budget is not None and budget.beside and method is not None and method.traits.cuts == "weights":
        problems += [
            f"{each.kind}={config[each.kind]}: method={config['method'].get('name')} masks single weights, which "
            "leaves the network as large as it is; leave it out"
            for each in budget.beside
        ]
    if "eval" not in bad and config["eval"]["onnx"]:
        errors.call(require_onnx, "eval.onnx=true")
    tracker: Tracker | None = NoTracker()
    if config.get("tracker"):
        tracker = build_part("tracker", make_tracker, config["tracker"])
    in_onnx = "latency" not in bad and config["latency"]["runtime"] == "onnxruntime"
    if in_onnx and not errors.call(_has_onnxruntime):
        bad.add("latency")
    if method is not None and "stages" not in bad:
        for at, name in enumerate(config["stages"]):
            errors.call(needs, name, tuple(config["stages"][:at]), method)
    if method is not None and distill is not None:
        errors.call(_check_distill, distill, method, config)
    if data is not None and distill is not None:
        errors.call(_check_terms, distill, data.classes)
    if data is not None and distill is not None and method is not None and not bad & {"pretrain", "finetune"}:
        errors.call(_check_cache, distill, data, method, config)
    for key, teacher in teachers.items() if distill is not None else ():
        if data is not None and distill is not None and spec is not None:
            errors.call(_check_features, distill, spec, teacher.source, data)
        if method is not None and distill is not None and "stages" not in bad:
            errors.call(_check_stage_of, key, teacher.source, method, distill, config)
    if "stages" not in bad and config["control"] and "prune" not in config["stages"]:
        problems.append(f"control={config['control']}: prune is not among the stages of this run")
    if method is not None and config["control"] and method.traits.learns and method.traits.cuts == "weights":
        problems.append(
            f"control={config['control']}: what is pruned in steps leaves nothing to draw from blindly; use "
            "method.schedule=one-shot method.steps=1"
        )
    in_steps = isinstance(method, InSteps) and method.steps > 1
    if in_steps and config["control"]:
        problems.append(
            f"control={config['control']}: would be cut at once, from what the steps have left; use "
            "method.schedule=one-shot method.steps=1, or criterion=random or method.scope=layer for the same steps"
        )
    # Without these stages neither the method nor the budget is used.
    rungs: list[Budget] = []
    uses_budget = not bad & {"stages"} and any(stage in config["stages"] for stage in ("sparsify", "prune"))
    uses_budget = uses_budget and not bad & {"eval", "latency", "outputs"}
    if uses_budget and data is not None and spec is not None and method is not None and budget is not None:
        where = device or torch.device("cpu")
        budget, rungs = errors.call(_check_budget, spec, method, budget, data, where, config) or (None, [])
    if not bad & {"pretrain", "method", "stages", "device"} and spec is not None and method is not None:
        errors.call(_check_memory_formats, spec, teachers, method, config, device or torch.device("cpu"))
    if (
        not bad & {"pretrain", "finetune", "method", "stages", "devices"}
        and method is not None
        and device is not None
    ):
        errors.call(_check_graphs, method, config, device, devices)
    problems += errors.problems
    if problems:
        raise InputError(*dict.fromkeys(problems))
    assert device is not None
    assert data is not None
    assert spec is not None
    assert method is not None
    assert budget is not None
    assert tracker is not None
    if distill is not None and not distill.stages:
        distill, teachers = None, {}  # which are checked like those that join a stage, but not trained or loaded
    names = {key: key.replace(".", " ") for key in teachers}
    return Job(
        seed=config["seed"],
        device=device,
        data=data,
        model=spec,
        method=method,
        budget=budget,
        pretrain=Recipe(**config["pretrain"]),
        finetune=_finetune_recipe(config, method),
        evaluate=EvalSettings(**config["eval"]),
        teachers={names[key]: teacher for key, teacher in teachers.items()},
        distill=distill,
        controls=controls_of(config["control"], config["control_draws"]),
        stages=tuple(stage for stage in config["stages"] if stage != "sparsify" or method.traits.learns),
        force=frozenset(config["force"]),
        asked={group: _with_sources(config.get(group)) for group in rules.GROUPS},
        keys=Keys(
            data="dataset",
            model="model",
            method="method",
            distill="distill",
            teachers={name: key for key, name in names.items()},
            teacher_models={name: f"{key}.model" for key, name in names.items()},
        ),
        where=_where(config, device),
        devices=devices,
        notes=tuple(told(config)),
        ladder=_ladder(method, rungs) if "prune" in config["stages"] else (),
        tracker=tracker,
    )


def _ladder(method: Method, budgets: list[Budget]) -> tuple[Rung, ...]:
    if not isinstance(method, InSteps):
        return ()
    recipe = FinetuneRecipe(**vars(method.retraining), init="finetune", scratch_budget="E")
    return tuple(Rung(step, budget, recipe) for step, budget in enumerate(budgets, 1))


def _has_onnxruntime() -> bool:
    """
    Raises:
        InputError: it is not installed.
    """
    require_onnx("latency.runtime=onnxruntime")
    return True


def _where(config: JSON, device: torch.device) -> Where:
    """What latencies are measured in: onnxruntime runs on the CPU."""
    runtime, measuring = config["latency"]["runtime"], config["eval"]
    on = torch.device("cpu") if runtime == "onnxruntime" else device
    return Where(on, runtime, measuring["latency_threads"], measuring["latency_batch"])


def _finetune_recipe(config: JSON, method: Method) -> FinetuneRecipe:
    """The recipe of `finetune`. A method that begins with random weights leaves none to fine-tune, so its pruned
    network is trained from scratch."""
    recipe = FinetuneRecipe(**config["finetune"])
    return replace(recipe, init="scratch") if method.traits.begins == "fresh" else recipe


def _last_training(config: JSON, method: Method) -> tuple[str, Recipe]:
    """What `finetune` trains by, and its key: the recipe of `pretrain` if it begins with new weights."""
    recipe = _finetune_recipe(config, method)
    return ("pretrain", Recipe(**config["pretrain"])) if recipe.init == "scratch" else ("finetune", recipe)


def _budgets_of(method: Method | None, config: JSON) -> tuple[BudgetKind, ...]:
    """The kinds of budget that a method takes. If its settings are wrong (None), those of its class, if it states
    them; else all."""
    if method is not None:
        return method.traits.budgets
    try:
        traits = find_target(config["method"]["_target_"]).traits
    except Exception:  # a class that cannot be imported is reported by `rules.check`
        return BUDGETS
    return traits.budgets if isinstance(traits, Traits) else BUDGETS


def _check_memory_formats(
    spec: ModelSpec, teachers: Mapping[str, WeightedTeacher], method: Method, config: JSON, device: torch.device
) -> None:
    """Check that every network that is trained at full width can be trained in the memory format of its recipe. For
    a pruned network this is checked when it exists."""
    recipe = Recipe(**config["pretrain"])
    trained = [spec] if "pretrain" in config["stages"] and not spec.comes_trained else []
    to_train = [teacher.source.to_train for teacher in teachers.values()]
    trained += [network for network in to_train if network is not None and not network.comes_trained]
    checked = [("pretrain", recipe, network) for network in trained]
    if "sparsify" in config["stages"]:
        checked += [(f"method.{name}", value, spec) for name, value in recipes_of(method).items()]
    for key, recipe, network in checked:
        if recipe.channels_last == "on":
            with settings_under(key):
                training_format(network.without_pretrained().build(check_forward=False), recipe, device)


def _check_graphs(method: Method, config: JSON, device: torch.device, devices: int) -> None:
    """Check that what is to be trained in recorded steps can be."""
    why = lacking(device, devices)
    recipes = {name: Recipe(**config["pretrain"]) for name in ("pretrain",) if name in config["stages"]}
    if "finetune" in config["stages"]:
        recipes |= dict([_last_training(config, method)])
    if "sparsify" in config["stages"]:
        recipes |= {f"method.{name}": value for name, value in recipes_of(method).items()}
    if isinstance(method, InSteps) and method.steps > 1:
        recipes["method.retraining"] = method.retraining
    for key, recipe in recipes.items():
        if recipe.graphs == "on" and why is not None:
            raise InputError(f"{key}.graphs=on: {why}; use auto or off")


def _check_budget(
    spec: ModelSpec, method: Method, budget: Budget, data: Data, device: torch.device, config: JSON
) -> tuple[Budget, list[Budget]]:
    """The budget of the run, and those of the steps before the last one."""
    seed = config["seed"]
    timing = Timing(_where(config, device), config["eval"]["latency_seconds"], Path(config["outputs"]) / CACHE)
    fresh = spec.without_pretrained().build
    # Without memory or time for weights: this check also precedes a run that has nothing left to do
    with settings_under("method"), MetaKernels():
        problem = make_problem(fresh(), data, budget, device, seed, fresh, channel_limits(method), timing)
    if not problem.graph.groups and method.traits.cuts == "channels":
        raise InputError(f"model: no channel of this network can be cut ({problem.graph.why_nothing})")
    if budget.of("latency_limit") is not None:
        with settings_under("latency"):
            problem.latency().check(config["latency"]["accept"])
    try:
        with settings_under("method"), within_limits(channel_limits(method)):
            budget = method.check(problem)
        of_steps = replace(problem, budget=budget)
        return budget, ladder(method, of_steps) if isinstance(method, InSteps) else []
    except SettingError as error:  # a reward stands in a group of its own, to which the method refers
        inner = "|".join(rules.METHODS_WITH_GROUP)
        raise InputError(*(re.sub(rf"method\.({inner})\.", r"\1.", problem) for problem in error.problems)) from None


def _check_distill(distill: Distill, method: Method, config: JSON) -> None:
    for stage in distill.stages:
        if stage == "sparsify" and not (method.traits.learns and method.traits.trains != "nothing"):
            raise InputError(
                f"distill.stages=[{', '.join(distill.stages)}]: method={config['method']['name']} trains no weights "
                f"in sparsify, so no teacher can join it; use distill.stages=[finetune]"
            )
        if stage == "sparsify" and method.traits.trains == "own" and distill.on_features:
            of_maps, name = next(iter(distill.on_features)), config["method"]["name"]
            raise InputError(
                f"distill={config['distill']['name']}: in sparsify method={name} trains a network of its own, not "
                f"the one whose maps {of_maps} compares; use terms on logits, or distill.stages=[finetune]"
            )
        if stage not in config["stages"]:
            raise InputError(
                f"distill.stages=[{', '.join(distill.stages)}]: {stage} is not among the stages of this run"
            )


def _check_stage_of(key: str, teacher: Teacher, method: Method, distill: Distill, config: JSON) -> None:
    """Check that the stage whose network is the teacher leaves one, before the trainings that the teacher joins."""
    if (stage := teacher.of_stage) is None:
        return
    asked, order = f"{key}.stage={stage}", list(STAGE_ORDER)
    if stage == "sparsify" and not (method.traits.learns and method.traits.trains == "network"):
        raise InputError(
            f"{asked}: method={config['method']['name']} does not train the network in sparsify, so that none comes "
            f"out of it; use {key}.stage=pretrain"
        )
    if stage not in config["stages"]:
        raise InputError(f"{asked}: {stage} is not among the stages of this run")
    for joined in distill.stages:
        if order.index(joined) <= order.index(stage):
            raise InputError(
                f"{asked}: this network comes out of {stage}, too late for a teacher that joins {joined} "
                f"(distill.stages=[{', '.join(distill.stages)}])"
            )


def _check_terms(distill: Distill, classes: int) -> None:
    with settings_under("distill"):
        distill.check(classes)


def _check_cache(distill: Distill, data: Data, method: Method, config: JSON) -> None:
    """Check that the teacher's logits can be kept for the trainings of its stages, if they must be. Their size is
    checked before the training: it is not known before the images are read."""
    recipes = {
        "sparsify": list(recipes_of(method).values()),
        "finetune": [_last_training(config, method)[1]],
    }
    found = [obstacle(distill, data, recipe) for stage in distill.stages for recipe in recipes[stage]]
    if distill.cache == "on" and (why := next(filter(None, found), "")):
        raise InputError(f"distill.cache=on: {why}; use auto or off")


def _check_features(distill: Distill, spec: ModelSpec, teacher: Teacher, data: Data) -> None:
    """Check where feature maps are compared, of networks as they are before pruning, which changes widths only. A
    teacher that is read from a file is checked when it is read."""
    taught_by = teacher.to_train or (spec if teacher.of_stage is not None else None)
    if not distill.on_features or taught_by is None:
        return
    student = spec.without_pretrained().build(check_forward=False)
    other = student if taught_by is spec else taught_by.without_pretrained().build(check_forward=False)
    with settings_under("distill"):
        distill.pairings(student, other, data.shape)
