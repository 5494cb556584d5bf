"""finetune: train the pruned network to recover accuracy, or train it from scratch at the pruned widths.

Cache key: the pruned network (by the key of `prune`), the recipe (with `init: scratch` that of `pretrain`), the seed,
the training images, the teacher if it joins this stage, and the number of processes if above 1.

Writes: model.safetensors (last epoch), best.safetensors (best epoch by held-out top-1), metrics.jsonl.

Version history: 1; 2 adds weight masks and training from scratch, 3 counts the warm-up as part of
`hold_epochs`, 4 saves how the images were normalised, and tells the raw terms and the agreement of a teacher.
"""

import logging
from dataclasses import asdict, replace

import torch
from torch import nn

from compress.data.base import normalisation_of
from compress.graph.build import channel_graph
from compress.graph.plan import Plan
from compress.io.files import JSON
from compress.io.seeds import derive_seed
from compress.io.stage_folder import StageFolder
from compress.measure.macs import count_macs
from compress.models.layers import initialise_convolutions
from compress.models.masks import masks_of, set_masks
from compress.models.spec import OURS
from compress.prune.method import Sparse
from compress.prune.saved_network import save_network
from compress.prune.steps import narrowed
from compress.prune.surgery import cut
from compress.run.job import Job, RunState
from compress.run.stages.stage import Stage
from compress.run.stages.training import devices_settings, teaching, train_network, training_images
from compress.schema.settings import Recipe, of_results
from compress.train.loop import NO_HOOKS, Hooks

log = logging.getLogger(__name__)


def finetune(state: RunState, work: StageFolder) -> JSON:
    """Train the newest network with the `finetune` recipe; weight masks stay in force."""
    job = state.job
    model, plan = state.network(state.latest())
    recipe: Recipe = job.finetune
    if job.finetune.init == "scratch":
        recipe = scratch_recipe(job, count_macs(model, job.data.shape))
        model = fresh_like(state, model, plan)
        log.info("finetune: from scratch, %d epochs of the recipe of pretrain", recipe.epochs)
    masks = {name: mask.clone() for name, mask in masks_of(model).items()}
    result = train_network(state, model, recipe, "finetune", work, plan, _hooks(state, model, plan))
    for name, mask in masks.items():
        weight = model.get_parameter(f"{name}.weight")
        assert not bool(weight[~mask.to(weight.device)].any()), f"masked weights of {name} came back"
    save_network(work.model, model, job.model, plan, normalisation_of(job.data))
    return {**result, "init": job.finetune.init, "recipe": of_results(asdict(recipe))}


def _hooks(state: RunState, model: nn.Module, plan: Plan) -> Hooks:
    """Between the steps of an iterative schedule: those of the penalty that the method trains under, if there is
    one."""
    method = state.job.method
    if state.rung is None or not isinstance(method, Sparse):
        return NO_HOOKS
    problem = state.problem()
    graph = narrowed(problem.graph, plan, problem.model, model)
    return method.penalty(replace(problem, model=model, graph=graph)).hooks(lambda trained: {})


def fresh_like(state: RunState, model: nn.Module, plan: Plan) -> nn.Module:
    """The pruned network with the same channels, channel selections and masks, and new random weights for its
    widths."""
    # a seed per control: with new weights, two random controls of the same widths would be the same network
    torch.manual_seed(derive_seed(state.job.seed, "scratch", str(state.control)))
    new = state.fresh()
    if plan.kept:
        new = cut(new, channel_graph(new, state.job.data.shape), plan)
    if state.job.model.target.startswith(OURS):
        initialise_convolutions(
            new
        )  # by the fan of the pruned layers; networks of users keep what their code drew at full width
    set_masks(new, masks_of(model))
    return new


def scratch_recipe(job: Job, macs: int) -> Recipe:
    """The recipe of `pretrain`, for as many epochs (scratch_budget E) or as many multiply-adds (B) in all.

    Liu et al., "Rethinking the Value of Network Pruning", ICLR 2019, arXiv:1810.05270, section 3. The epochs of
    learning rate drops scale with the length, rounded down to whole epochs.
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


def depends_on(job: Job) -> JSON:
    own = asdict(job.finetune)
    how = {"init": own.pop("init"), "scratch_budget": own.pop("scratch_budget")}
    recipe = {"recipe": asdict(job.pretrain), **how} if how["init"] == "scratch" else {"recipe": own}
    return {
        **recipe,
        "seed": job.seed,
        "data": training_images(job),
        **teaching(job, "finetune"),
        **devices_settings(job),
    }


STAGE = Stage(run=finetune, depends_on=depends_on, makes="finetuned network", version=4, trains=lambda job: True)
