"""Config -> objects: the only place that reads the config tree and the only `instantiate`.

Everything that can be wrong is found here, before a run starts: types and bounds by `compress.config.rules`, then
files, devices and the fit of the parts by making them. Making is cheap; pixels and weights are read when needed.
"""

import inspect
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate

from compress.config import rules
from compress.data.base import Data
from compress.distill.distill import Distill
from compress.distill.teacher import Teacher
from compress.errors import InputError, SettingError, settings_under
from compress.io.code_digest import source_digests
from compress.io.files import JSON
from compress.models.meta_kernels import MetaKernels
from compress.models.onnx import require_onnx
from compress.models.spec import ModelSpec
from compress.models.weights import read_checkpoint
from compress.parallel.rank import place
from compress.prune.controls import controls_of
from compress.prune.method import Method, Traits
from compress.run.job import Job, make_problem
from compress.run.stages import needs
from compress.schema.check import find_target
from compress.schema.settings import BUDGETS, Budget, BudgetKind, EvalSettings, FinetuneRecipe, Recipe
from compress.train.memory_format import training_format

T = TypeVar("T")


def _for_callees(node: Any) -> Any:
    """A config node without what is ours: names for people, and keys that the pipeline reads itself."""
    if not isinstance(node, Mapping):
        return node
    ours = {"name", *rules.OF_THE_PIPELINE} if "_target_" in node else set()
    return {key: _for_callees(value) for key, value in node.items() if key not in ours}


def _with_sources(node: Any) -> Any:
    """What the result depends on: the settings, and the code that is not ours."""
    asked = _for_callees(node)
    sources = source_digests(node)
    return {**asked, "sources": sources} if sources else asked


def make(node: Mapping[str, Any], key: str = "") -> Any:
    """Call what a config node names, which stands at `key`.

    Raises:
        InputError: the callee refuses its settings.
    """
    try:
        return instantiate(_for_callees(node), _convert_="all")
    except InstantiationException as error:
        if isinstance(error.__cause__, SettingError):
            raise (error.__cause__.under(key) if key else error.__cause__) from None
        if isinstance(error.__cause__, InputError):
            raise error.__cause__ from None
        raise


def pick_device(name: str, devices: int = 1) -> torch.device:
    """This process's, of several the one of its number.

    Raises:
        InputError: not a device of this machine, or not as many as are asked for.
    """
    if devices > 1:
        return _one_of_several(name, devices)
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


def _one_of_several(name: str, devices: int) -> torch.device:
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
    here, there = launched.local_world_size if launched.world_size > 1 else devices, torch.cuda.device_count()
    if there == 1 and "SLURM_JOB_ID" in os.environ and launched.world_size > 1:
        return torch.device("cuda", 0)  # each task sees its own GPU alone
    if here > there:
        raise InputError(f"devices={here}: must be <= {there}, the CUDA devices of this machine, or use device=cpu")
    return torch.device("cuda", launched.local_rank)


def small_batches(node: Mapping[str, Any], devices: int, path: str = "") -> list[str]:
    """The recipes below a node whose batches leave a device less than two images, one a line."""
    problems = []
    size, least = node.get("batch_size"), 2 * devices
    if "epochs" in node and isinstance(size, int) and size < least:
        problems.append(f"{path}batch_size={size}: must be >= {least}, two images for each of devices={devices}")
    inner = {key: value for key, value in node.items() if isinstance(value, Mapping)}
    return problems + [
        line for key, value in inner.items() for line in small_batches(value, devices, f"{path}{key}.")
    ]


def make_spec(node: Mapping[str, Any], data: Data | None, key: str) -> ModelSpec:
    """A network for the images of `data`, tried once: that its weights fit, and that it takes such images.

    Without data, which is wrong in itself then, what can be told without it is told.

    Raises:
        InputError: every problem of the network and its checkpoint.
    """
    args = {name: value for name, value in node.items() if name not in ("_target_", "name", "checkpoint")}
    checkpoint = os.path.expanduser(node["checkpoint"]) if node.get("checkpoint") else None
    shape, classes = (data.shape, data.classes) if data is not None else ((3, 32, 32), 10)
    spec = ModelSpec(node["_target_"], args, shape, classes, checkpoint)
    parts = _Parts()
    network = parts(spec.build, data is not None)
    if checkpoint and data is not None and network is not None:
        parts(spec.load_checkpoint, network)
    elif checkpoint:
        parts(read_checkpoint, Path(checkpoint))
    if parts.problems:
        raise InputError(*(re.sub("^model", key, problem) for problem in parts.problems))
    return spec


def make_teacher(node: Mapping[str, Any], data: Data | None, model: ModelSpec | None) -> Teacher | None:
    """Of any kind: one that takes a `spec` gets its own `model`, or else the network that the run compresses.

    Without data or network, which is wrong in itself then, what can be told without it is told.
    """
    kind = find_target(node["_target_"])
    own = {key: value for key, value in node.items() if key not in ("_target_", "name", "model")}
    if "spec" in inspect.signature(kind).parameters:
        own["spec"] = make_spec(node["model"], data, "teacher.model") if "model" in node else model
        if own["spec"] is None:
            return None
    with settings_under("teacher"):
        teacher: Teacher = kind(**own)
        if data is not None:
            teacher.check(data.classes, data.shape)
        return teacher


class _Parts:
    """Makes the parts of a job and keeps what is wrong with them."""

    def __init__(self) -> None:
        self.problems: list[str] = []

    def __call__(self, function: Callable[..., T], *args: Any) -> T | None:
        try:
            return function(*args)
        except InputError as error:
            self.problems += error.problems
            return None


def build(config: JSON) -> Job:
    """
    Raises:
        InputError: every problem of the config, of the files it names and of the parts together.
    """
    problems = rules.check(config)
    bad = {re.split(r"[=.\[: ]", problem.removeprefix("unknown key "))[0] for problem in problems}
    parts = _Parts()

    def part(group: str, function: Callable[..., T], *args: Any) -> T | None:
        """Make what the config says of a group, unless that is already known to be wrong."""
        return parts(function, *args) if group not in bad else None

    devices = config["devices"] if "devices" not in bad else 1
    if devices == 1:
        devices = place().world_size  # as many as a launcher has started
    device = part("device", pick_device, config["device"], devices)
    data: Data | None = part("dataset", make, config.get("dataset"), "dataset")
    if devices > 1:
        problems += small_batches(config, devices)
        if data is not None and "share" not in inspect.signature(data.shuffled).parameters:
            problems.append(f"devices={devices}: the images of this dataset cannot be shared (`share` of `shuffled`)")
    spec = part("model", make_spec, config.get("model"), data, "model")
    method: Method | None = part("method", make, config.get("method"), "method")
    distill: Distill | None = part("distill", make, config["distill"], "distill") if config.get("distill") else None
    teacher = part("teacher", make_teacher, config["teacher"], data, spec) if config.get("teacher") else None
    if teacher is not None and teacher.of_stage not in (None, *config["stages"]) and "stages" not in bad:
        problems.append(
            f"teacher={config['teacher']['name']}: is the network of {teacher.of_stage}, which is not among the "
            "stages of this run"
        )
    budget, _ = rules.choose_budget(config)
    if budget is not None and budget.kind in bad:
        budget = None
    if budget is not None and budget.kind not in (takes := _budgets_of(method, config)):
        told = f"method={config['method'].get('name')} does not take it; it takes {', '.join(takes)}"
        problems.append(f"{budget.kind}={config.get(budget.kind, budget.value)}: {told}")
        budget = None
    if "eval" not in bad and config["eval"]["onnx"]:
        parts(require_onnx, "eval.onnx=true")
    if method is not None and "stages" not in bad:
        for at, name in enumerate(config["stages"]):
            parts(needs, name, tuple(config["stages"][:at]), method)
    if method is not None and distill is not None:
        parts(_check_distill, distill, method, config)
    if "stages" not in bad and config["control"] and "prune" not in config["stages"]:
        problems.append(f"control={config['control']}: prune is not among the stages of this run")
    if method is not None and config["control"] and method.traits.learns and method.traits.cuts == "weights":
        problems.append(
            f"control={config['control']}: what is pruned in steps leaves nothing to draw from blindly; use "
            "method.schedule=one-shot method.steps=1"
        )
    # without these stages the method and its budget play no part
    decides = not bad & {"stages"} and any(stage in config["stages"] for stage in ("sparsify", "prune"))
    if decides and data is not None and spec is not None and method is not None and budget is not None:
        budget = parts(_check_budget, spec, method, budget, data, device or torch.device("cpu"), config["seed"])
    if not bad & {"pretrain", "method", "stages", "device"} and spec is not None and method is not None:
        parts(_check_layouts, spec, teacher, method, config, device or torch.device("cpu"))
    problems += parts.problems
    if problems:
        raise InputError(*dict.fromkeys(problems))
    assert device is not None
    assert data is not None
    assert spec is not None
    assert method is not None
    assert budget is not None
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
        teacher=teacher,
        distill=distill,
        controls=controls_of(config["control"], config["control_draws"]),
        stages=tuple(stage for stage in config["stages"] if stage != "sparsify" or method.traits.learns),
        force=frozenset(config["force"]),
        asked={group: _with_sources(config.get(group)) for group in rules.GROUPS},
        devices=devices,
    )


def _finetune_recipe(config: JSON, method: Method) -> FinetuneRecipe:
    """A method that begins fresh has no trained weights to fine-tune: what it decides for is trained from scratch."""
    recipe = FinetuneRecipe(**config["finetune"])
    return replace(recipe, init="scratch") if method.traits.begins == "fresh" else recipe


def _budgets_of(method: Method | None, config: JSON) -> tuple[BudgetKind, ...]:
    """Which budgets a method takes; of one that could not be made what its class says, if it does."""
    if method is not None:
        return method.traits.budgets
    try:
        traits = find_target(config["method"]["_target_"]).traits
    except Exception:  # told elsewhere
        return BUDGETS
    return traits.budgets if isinstance(traits, Traits) else BUDGETS


def _check_layouts(
    spec: ModelSpec, teacher: Teacher | None, method: Method, config: JSON, device: torch.device
) -> None:
    """The layouts of trainings of whole networks; what a cut network can take shows only when it is there."""
    recipe = Recipe(**config["pretrain"])
    trained = [spec] if "pretrain" in config["stages"] and not spec.comes_trained else []
    also = teacher.to_train if teacher is not None else None
    trained += [also] if also is not None and not also.comes_trained else []
    checked = [("pretrain", recipe, one) for one in trained]
    if "sparsify" in config["stages"]:
        own = {name: value for name, value in vars(method).items() if isinstance(value, Recipe)}
        checked += [(f"method.{name}", value, spec) for name, value in own.items()]
    for key, recipe, one in checked:
        if recipe.channels_last == "on":
            with settings_under(key):
                training_format(one.without_pretrained().build(check_forward=False), recipe, device)


def _check_budget(
    spec: ModelSpec, method: Method, budget: Budget, data: Data, device: torch.device, seed: int
) -> Budget:
    fresh = spec.without_pretrained().build
    with MetaKernels():  # a finished run asks for no more than this
        problem = make_problem(fresh(), data, budget, device, seed, fresh)
    if not problem.graph.groups and method.traits.cuts == "channels":
        why = f" ({_few_reasons(problem.graph.frozen)})" if problem.graph.frozen else ""
        raise InputError(f"model: no channel of this network can be cut{why}")
    with settings_under("method"):
        return method.check(problem)


def _few_reasons(frozen: Mapping[str, str]) -> str:
    return "; ".join(f"{layer} {why}" for layer, why in list(frozen.items())[:3])


def _check_distill(distill: Distill, method: Method, config: JSON) -> None:
    for stage in distill.stages:
        if stage == "sparsify" and not (method.traits.learns and method.traits.trains != "nothing"):
            raise InputError(
                f"distill.stages=[{', '.join(distill.stages)}]: method={config['method']['name']} trains no weights "
                f"in sparsify, so no teacher can join it; use distill.stages=[finetune]"
            )
        if stage not in config["stages"]:
            raise InputError(
                f"distill.stages=[{', '.join(distill.stages)}]: {stage} is not among the stages of this run"
            )
