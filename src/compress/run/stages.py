"""The five stages. Each reads what earlier stages left in their folders and leaves its own; none sees the config.

A stage comes with what its result depends on besides its parent, which is what its cache key is made of.
"""

import copy
import logging
import platform
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from compress.data.base import Data
from compress.distill.distill import Distill
from compress.distill.teacher import RunTeacher, Teacher, ZooTeacher
from compress.errors import InputError
from compress.graph.build import channel_graph
from compress.graph.plan import Plan
from compress.io.code_digest import source_digest
from compress.io.files import JSON, read_json, write_json
from compress.io.paths import MODEL, ONNX, RESULT
from compress.io.seeds import derive_seed
from compress.io.stage_folder import Work
from compress.measure.accuracy import accuracy
from compress.measure.counts import counts
from compress.measure.latency import measure_latency
from compress.measure.macs import UncountedOperators, count_macs, count_operators, describe_uncounted
from compress.measure.zeros import nonzero_macs, zipped_bytes
from compress.models.layers import initialise_convolutions
from compress.models.masks import masked_layers, masks_of, set_masks
from compress.models.onnx import export_onnx
from compress.models.spec import OURS, ModelSpec
from compress.prune.budget import achieved, preserve_ratio
from compress.prune.controls import Control, controlled
from compress.prune.cost import cost_model
from compress.prune.method import Decision, Method, Problem
from compress.prune.saved_network import load_network, save_network
from compress.prune.surgery import cut, difference
from compress.prune.weight_masks import sparsity_report
from compress.schema.settings import FROM_SCRATCH, NETWORK_NAMES, Budget, EvalSettings, FinetuneRecipe, Recipe
from compress.train.loop import NO_HOOKS, Hooks, Loss, cross_entropy, train

log = logging.getLogger(__name__)

SAME = 1e-10  # largest relative difference of masked and cut logits in float64
NEAR_BUDGET = 0.01  # relative; a result further off, and by more than one rounding step, is flagged


@dataclass(frozen=True)
class Job:
    """One run: what is compressed, on what, how. Made by `build`."""

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
    teacher: Teacher | None
    distill: Distill | None
    stages: tuple[str, ...]
    force: frozenset[str]
    asked: Mapping[str, Any]  # the settings of model, method, ... as written, for cache keys and records
    devices: int = 1  # processes that train together


@dataclass(frozen=True)
class RunState:
    """A job and the folders of its finished stages (and of the teacher's training, if it has one).

    A control has a state of its own from its pruning on; the run's keeps the folders of all.
    """

    job: Job
    done: Mapping[str, Path]
    control: Control | None = None
    controls: Mapping[str, Mapping[str, Path]] = field(default_factory=dict)

    def fresh(self) -> nn.Module:
        """The uncut network, weights to be loaded."""
        return self.job.model.without_pretrained().build()

    def network(self, stage: str) -> tuple[nn.Module, Plan]:
        return load_network(self.done[stage] / MODEL, self.fresh)

    def latest(self) -> str:
        """The stage that made the newest network."""
        order = ("finetune", "prune", "sparsify", "pretrain")
        return next(stage for stage in order if stage in self.done and (self.done[stage] / MODEL).is_file())

    def uncut(self) -> str:
        """The stage that made the newest network of full width."""
        return "sparsify" if self.learned() and (self.done["sparsify"] / MODEL).is_file() else "pretrain"

    def learned(self) -> Path | None:
        return self.done.get("sparsify")

    def problem(self, train: Callable[[nn.Module, Recipe, Hooks], JSON] | None = None) -> Problem:
        """What a method is given; `train` makes a network of full width learn."""
        job = self.job
        model, _ = self.network(self.uncut())
        model.to(job.device)
        return make_problem(model, job.data, job.budget, job.device, job.seed, self.fresh, train)


def make_problem(
    model: nn.Module,
    data: Data,
    budget: Budget,
    device: torch.device,
    seed: int,
    fresh: Callable[[], nn.Module],
    train: Callable[[nn.Module, Recipe, Hooks], JSON] | None = None,
) -> Problem:
    graph = channel_graph(model, data.shape)
    cost = cost_model(model, graph, data.shape)

    problem = Problem(model, graph, cost, data, budget, device, seed, fresh)
    return problem if train is None else replace(problem, train=partial(train, model))


def _say_uncounted(stage: str, uncounted: UncountedOperators) -> None:
    if uncounted:
        log.warning("%s: of the dense network, %s", stage, describe_uncounted(uncounted))


# -- pretrain --------------------------------------------------------------------------------------------------


def pretrain(state: RunState, work: Work) -> JSON:
    """The dense network: trained, or from a checkpoint or pretrained weights, in which case nothing is trained."""
    job = state.job
    torch.manual_seed(derive_seed(job.seed, "weights"))
    model = job.model.build()
    result: JSON
    if job.model.checkpoint is not None:
        job.model.load_checkpoint(model)
        result = {"source": job.model.checkpoint}
    elif job.model.is_pretrained:
        result = {"source": f"{job.model.args['arch']} {job.model.args['weights']}"}
    else:
        result = {"source": "trained", **_train(state, model, job.pretrain, "pretrain", work, Plan())}
    save_network(work.model, model, job.model, Plan())
    return result


def _pretrain_settings(job: Job) -> JSON:
    spec = job.model
    args = {key: value for key, value in spec.args.items() if key != "download"}
    settings: JSON = {"target": spec.target, "args": args, "shape": spec.shape, "classes": spec.classes}
    if (source := source_digest(spec.target)) is not None:
        settings["source"] = source
    if spec.checkpoint is not None:
        return {**settings, "checkpoint": spec.checkpoint_digest()}
    if spec.is_pretrained:
        return settings
    recipe = {"recipe": asdict(job.pretrain), "seed": job.seed, "data": _training_images(job)}
    return {**settings, **recipe, **_devices(job)}


def _devices(job: Job) -> JSON:
    """What a training on several depends on besides: batch norms and the rounding of floats."""
    return {"devices": job.devices} if job.devices > 1 else {}


def _training_images(job: Job) -> JSON:
    """All that decides which pixels a training sees: the images, the split, and how they are augmented."""
    where = ("root", "download")
    settings = {key: value for key, value in job.asked["dataset"].items() if key not in where}
    return {"fingerprint": job.data.fingerprint(), **settings}


def _train(
    state: RunState,
    model: nn.Module,
    recipe: Recipe,
    stage: str,
    work: Work,
    plan: Plan,
    hooks: Hooks = NO_HOOKS,
) -> JSON:
    """Train `model` in place, with the teacher if it joins, and keep its best epoch as best.safetensors beside it."""
    job = state.job
    loss = _loss(state, recipe, stage)
    history = train(
        model,
        job.data,
        recipe,
        loss,
        stage=stage,
        seed=job.seed,
        device=job.device,
        work=work,
        hooks=hooks,
        recipe_key=_recipe_key(job, stage),
    )
    best = copy.deepcopy(model)
    best.load_state_dict(history.pop("best_weights"))
    save_network(work.folder / "best.safetensors", best, job.model, plan)
    return history


def _recipe_key(job: Job, stage: str) -> str:
    """Where the recipe that a stage trains by stands in the config."""
    if stage == "sparsify":
        of_method = [name for name, value in vars(job.method).items() if isinstance(value, Recipe)]
        return f"method.{of_method[0]}" if of_method else "method"
    return "pretrain" if stage == "finetune" and job.finetune.init == "scratch" else stage


def _loss(state: RunState, recipe: Recipe, stage: str) -> Loss:
    job = state.job
    if job.distill is None or stage not in job.distill.stages:
        return cross_entropy(recipe)
    teacher = load_teacher(state).to(job.device)
    held_out = accuracy(teacher, job.data.ordered("held_out", 512, job.device))
    log.info("%s: the teacher's held-out top-1 is %.2f %%", stage, held_out.top1)
    return job.distill.loss(recipe, teacher)


def _teaching(job: Job, stage: str) -> JSON:
    """What a training with a teacher depends on besides."""
    if job.distill is None or stage not in job.distill.stages:
        return {}
    return {"distill": job.asked["distill"], "teacher": _teacher_settings(job)}


# -- sparsify --------------------------------------------------------------------------------------------------


def sparsify(state: RunState, work: Work) -> JSON:
    """The method learns what can go, once surgery has shown on some plan that it is right for this network."""

    def train(model: nn.Module, recipe: Recipe, hooks: Hooks) -> JSON:
        return _train(state, model, recipe, "sparsify", work, Plan(), hooks)

    problem = state.problem(train)
    _say_uncounted("sparsify", problem.cost.uncounted)
    half = Plan({group.name: tuple(range((group.width + 1) // 2)) for group in problem.graph.groups})
    _check(problem, cut(problem.model, problem.graph, half), half)
    result = state.job.method.sparsify(problem, work)
    if state.job.method.sparsify_trains_weights:
        save_network(work.model, problem.model, state.job.model, Plan())
    return result


def _sparsify_settings(job: Job) -> JSON:
    settings = {k: v for k, v in job.asked["method"].items() if k not in job.method.plan_only}
    budget = {"budget": job.budget.to_json()} if job.method.sparsify_reads_budget else {}
    # how images are augmented counts: a method may calibrate on augmented ones
    return {
        "method": settings,
        "seed": job.seed,
        "data": _training_images(job),
        **budget,
        **_files(job),
        **_teaching(job, "sparsify"),
        **(_devices(job) if _sparsify_trains(job) else {}),
    }


def _sparsify_trains(job: Job) -> bool:
    return job.method.sparsify_trains_weights


def _files(job: Job) -> JSON:
    return {"files": dict(job.method.files)} if job.method.files else {}


# -- prune -----------------------------------------------------------------------------------------------------


def prune(state: RunState, work: Work) -> JSON:
    """The method decides, surgery cuts; nothing is saved before the cut network equals the masked one."""
    problem = state.problem()
    if state.control is None:
        _say_uncounted("prune", problem.cost.uncounted)
    decision = state.job.method.plan(problem, state.learned())
    if state.control is not None:
        decision = controlled(problem, decision, state.control)
    for level, lines in ((logging.INFO, decision.notes), (logging.WARNING, decision.warnings)):
        for line in lines:
            log.log(level, "prune: %s", line)
    with torch.no_grad():
        parameters = dict(problem.model.named_parameters())
        for name, value in decision.weights.items():
            parameters[name].copy_(value)
    small = cut(problem.model, problem.graph, decision.plan)
    apart = _check(problem, small, decision.plan)
    set_masks(small, decision.masks)
    save_network(work.model, small, state.job.model, decision.plan)
    write_json(
        work.plan, _plan_json(problem, decision) | ({"sparsity": sparsity_report(small)} if decision.masks else {})
    )
    budget = _budget_json(problem, decision)
    if problem.graph.frozen and not decision.masks and state.control is None:
        layer, why = next(iter(problem.graph.frozen.items()))
        log.info(
            "prune: %d of %d layers keep all of their outputs, such as %s, which %s; plan.json names each",
            len(problem.graph.frozen), len(problem.graph.layers), layer, why,
        )  # fmt: skip
    if not budget["met"] and state.control is None:
        got = budget["achieved"][problem.budget.kind]
        log.warning("prune: the budget %s was missed: %s=%.4g was achieved", problem.budget, problem.budget.kind, got)
    thresholds = decision.own.get("thresholds", {})
    told = {"thresholds": thresholds} if 0 < len(thresholds) < 3 else {}  # plan.json has those of every layer
    return {"budget": budget, **told, "masked_equals_cut": apart, "frozen": dict(problem.graph.frozen)}


def _check(problem: Problem, small: nn.Module, plan: Plan) -> float:
    """The laws of surgery, on held-out images: our own error if one does not hold."""
    images, _ = next(iter(problem.data.ordered("held_out", 8, torch.device("cpu"))))
    apart = difference(problem.model, small, problem.graph, plan, images)
    assert apart < SAME, f"masked and cut networks differ by {apart:.2e}"
    counted, priced = count_macs(small, problem.data.shape), problem.cost.macs(plan)
    assert counted == priced, f"the pruned network has {counted} MACs, the cost model says {priced}"
    return apart


def _plan_json(problem: Problem, decision: Decision) -> JSON:
    graph = problem.graph
    kept = graph.kept(decision.plan)
    groups = {
        group.name: {
            "width": group.width,
            "kept_width": len(kept[group.name]),
            "kept": kept[group.name].tolist(),
        }
        for group in graph.groups
    }
    layers = _widths_per_layer(problem, decision.plan, groups)
    uncounted = {layer: list(names) for layer, names in problem.cost.uncounted.items()}
    return {
        "groups": groups,
        "layers": layers,
        "own": decision.own,
        "frozen": dict(graph.frozen),
        "uncounted": uncounted,  # operators that the MACs leave out, by layer ("": forward of the network itself)
    }


def _widths_per_layer(problem: Problem, plan: Plan, groups: JSON) -> JSON:
    """Outputs of every layer, dense and kept, in order; before a layer the selection that it reads through."""
    graph, dropped = problem.graph, problem.graph.dropped(plan)
    selections = {g.name: g for g in graph if not any(layer.out_axis in g.positions for layer in graph.layers)}
    widths: JSON = {}
    for layer in graph.layers:
        for name in [name for name, group in selections.items() if layer.name in group.consumers]:
            del selections[name]
            widths[name] = {key: groups[name][key] for key in ("width", "kept_width")} | {"groups": [name]}
        width = problem.model.get_parameter(f"{layer.name}.weight").shape[0]
        widths[layer.name] = {
            "width": width,
            "kept_width": width - len(dropped.get(layer.out_axis, ())),
            "groups": [group.name for group in graph if layer.out_axis in group.positions],
        }
    return widths


def _budget_json(problem: Problem, decision: Decision) -> JSON:
    noise = 1e-9  # a step that is taken whole must count as within it
    budget, got = problem.budget, achieved(problem.graph, problem.cost, decision.plan)
    if decision.percent is not None:
        got["percent"] = decision.percent
    if budget.kind == "percent":
        met = abs(got["percent"] - budget.value) <= max(NEAR_BUDGET, decision.rounding_step) + noise
    else:
        asked = preserve_ratio(budget, problem.cost)
        met = abs(got["preserve_ratio"] - asked) <= max(NEAR_BUDGET * asked, decision.rounding_step) + noise
    return {"asked": {budget.kind: budget.value}, "achieved": got, "met": bool(met)}


def _prune_settings(job: Job) -> JSON:
    return {
        "method": job.asked["method"],
        "budget": job.budget.to_json(),
        "data": _training_images(job),
        "seed": job.seed,
        **_files(job),
    }


# -- finetune --------------------------------------------------------------------------------------------------


def finetune(state: RunState, work: Work) -> JSON:
    """Recover, from the labels and a teacher if one joins."""
    job = state.job
    model, plan = state.network(state.latest())
    recipe: Recipe = job.finetune
    if job.finetune.init == "scratch":
        recipe = scratch_recipe(job, count_macs(model, job.data.shape))
        model = fresh_like(state, model, plan)
        log.info("finetune: from scratch, %d epochs of the recipe of pretrain", recipe.epochs)
    masks = {name: mask.clone() for name, mask in masks_of(model).items()}
    result = _train(state, model, recipe, "finetune", work, plan)
    for name, mask in masks.items():
        weight = model.get_parameter(f"{name}.weight")
        assert not bool(weight[~mask.to(weight.device)].any()), f"masked weights of {name} came back"
    save_network(work.model, model, job.model, plan)
    return {**result, "init": job.finetune.init, "recipe": asdict(recipe)}


def fresh_like(state: RunState, model: nn.Module, plan: Plan) -> nn.Module:
    """The pruned network with new weights: the same channels (selections too) and masks, drawn for its widths."""
    # each draw of a control has weights of its own: without them two would be one network, channels being alike
    torch.manual_seed(derive_seed(state.job.seed, "scratch", str(state.control)))
    new = state.fresh()
    if plan.kept:
        new = cut(new, channel_graph(new, state.job.data.shape), plan)
    if state.job.model.target.startswith(OURS):
        initialise_convolutions(new)  # by the widths they have now; other networks keep what they drew at full width
    set_masks(new, masks_of(model))
    return new


def scratch_recipe(job: Job, macs: int) -> Recipe:
    """How the dense network trains, for as many epochs (E), or for as many multiply-adds (B).

    Liu et al., "Rethinking the Value of Network Pruning", ICLR 2019, arXiv:1810.05270, section 3. The points where
    the rate drops move with the length, to whole epochs.
    """
    recipe = job.pretrain
    if job.finetune.scratch_budget == "E":
        return recipe
    longer = count_macs(job.model.without_pretrained().build(), job.data.shape) / macs
    return replace(
        recipe,
        epochs=int(recipe.epochs * longer),
        hold_epochs=int(recipe.hold_epochs * longer),
        step_epochs=max(1, int(recipe.step_epochs * longer)),
    )


def load_teacher(state: RunState) -> nn.Module:
    job = state.job
    assert job.teacher is not None
    if isinstance(job.teacher, RunTeacher):
        return load_network(job.teacher.file)[0]
    return load_network(state.done["teacher"] / MODEL, job.teacher.spec.without_pretrained().build)[0]


def _finetune_settings(job: Job) -> JSON:
    own = asdict(job.finetune)
    how = {"init": own.pop("init"), "scratch_budget": own.pop("scratch_budget")}
    recipe = {"recipe": asdict(job.pretrain), **how} if how["init"] == "scratch" else {"recipe": own}
    return {
        **recipe,
        "seed": job.seed,
        "data": _training_images(job),
        **_teaching(job, "finetune"),
        **_devices(job),
    }


def _teacher_settings(job: Job) -> Any:
    if isinstance(job.teacher, ZooTeacher):
        return _pretrain_settings(teacher_job(job))
    assert job.teacher is not None
    return job.teacher.digest()


def teacher_job(job: Job) -> Job:
    """The same job with the teacher as its model: its pretrain stage is the teacher's training."""
    assert isinstance(job.teacher, ZooTeacher)
    return Job(**{**vars(job), "model": job.teacher.spec})


# -- eval ------------------------------------------------------------------------------------------------------


def evaluate(state: RunState, work: Work) -> JSON:
    """What each network is worth. The one place that reads the test images, once per network."""
    job = state.job
    rows: JSON = {}
    for one, stage, name in _reported(state):
        if (one.done[stage] / MODEL).is_file():
            model, _ = one.network(stage)
            model.to(job.device)
            top1, top5 = accuracy(model, job.data.ordered("test", job.evaluate.batch_size, job.device))
            latency = measure_latency(
                model,
                job.data.shape,
                job.device,
                seconds=job.evaluate.latency_seconds,
                threads=job.evaluate.latency_threads,
            )
            operators = count_operators(model, job.data.shape)
            if not rows and "prune" not in state.done:  # which has said it
                _say_uncounted("eval", operators.uncounted)
            rows[name] = {
                "weights": "last",  # of the last epoch, never chosen among epochs
                "top1": top1,
                "top5": top5,
                **asdict(counts(model, job.data.shape, operators)),
                "bytes": (one.done[stage] / MODEL).stat().st_size,
                **_sparse_figures(model, one.done[stage] / MODEL, job),
                "epochs": read_json(one.done[stage] / RESULT).get("epochs"),
                "latency_ms": latency.median_ms,
                "latency_spread_ms": latency.spread_ms,
                "latency_threads": latency.threads,
                "latency_device": device_name(job.device),
            }
            work.row(stage="eval", network=name, top1=top1, top5=top5, macs=rows[name]["macs"])
    if not job.evaluate.onnx:
        return {"results": rows}
    model, _ = state.network(state.latest())
    apart = export_onnx(model, work.folder / ONNX, job.data.shape)
    log.info("eval: %s gives torch's logits to %.1e in onnxruntime", ONNX, apart)
    return {"results": rows, "onnx_difference": apart}


def _reported(state: RunState) -> Iterator[tuple[RunState, str, str]]:
    """Every network of a run, those of its controls after its own: the state that has it, its stage, its name."""
    names = NETWORK_NAMES | ({"finetune": FROM_SCRATCH} if state.job.finetune.init == "scratch" else {})
    for stage, name in names.items():
        if stage in state.done:
            yield state, stage, name
    for control, done in state.controls.items():
        for stage in done:
            yield replace(state, done=done), stage, f"{names[stage]}, {control}"


def _sparse_figures(model: nn.Module, file: Path, job: Job) -> JSON:
    """Of a network with masks: what is left, and what it would cost if zeros cost nothing."""
    if not masked_layers(model):
        return {}
    return {
        "sparsity": sparsity_report(model)["prunable"]["share_zero"],
        "nonzero_macs": nonzero_macs(model, job.data.shape),
        "zipped_bytes": zipped_bytes(file),
    }


def device_name(device: torch.device) -> str:
    """The name that a latency belongs to: the GPU's, or the processor's."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _evaluate_settings(job: Job) -> JSON:
    where = [device_name(job.device), platform.node()]  # a latency belongs to a machine
    return {"eval": asdict(job.evaluate), "data": job.data.fingerprint(), "where": where}


# -- all -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Stage:
    run: Callable[[RunState, Work], JSON]
    settings: Callable[[Job], JSON]  # what the result depends on, besides the parent stage
    makes: str  # in a word
    version: int  # goes up when the same settings give another result or other files
    trains: Callable[[Job], bool] = lambda job: False  # whether several devices do it together


def _pretrain_trains(job: Job) -> bool:
    return not job.model.comes_trained


def _always(job: Job) -> bool:
    return True


STAGES = {
    # dense network to its baseline accuracy
    "pretrain": Stage(pretrain, _pretrain_settings, "dense network", 3, _pretrain_trains),
    "sparsify": Stage(sparsify, _sparsify_settings, "knowledge", 5, _sparsify_trains),  # learn what can go
    "prune": Stage(prune, _prune_settings, "plan", 5),  # decide, to the budget, and cut
    "finetune": Stage(finetune, _finetune_settings, "finetuned network", 3, _always),  # recover
    "eval": Stage(evaluate, _evaluate_settings, "measurement", 5),  # accuracy, MACs, params, size, latency
}


def needs(name: str, before: tuple[str, ...], method: Method) -> None:
    """
    Raises:
        InputError: a stage whose input is made by one that is not in the list.
    """
    required = ["pretrain"] if name != "pretrain" else []
    if name == "prune" and method.needs_sparsify:
        required.append("sparsify")
    missing = [stage for stage in required if stage not in before]
    if missing:
        raise InputError(f"stages=[{', '.join((*before, name))}]: {name} needs {missing[0]} before it")
