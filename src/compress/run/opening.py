"""What a run tells once at its beginning: the device, the images, the recipe of each training."""

from collections.abc import Iterator

import torch

from compress.measure.latency import device_name
from compress.prune.method import recipes_of
from compress.run.job import Job
from compress.schema.settings import Recipe


def opening(job: Job) -> list[str]:
    """Lines of at most 80 columns for common settings."""
    return [_device(job), _images(job), *job.notes, *(f"{name}: {told(recipe)}" for name, recipe in _recipes(job))]


def _device(job: Job) -> str:
    many = f"{job.devices} x " if job.devices > 1 else ""
    threads = f", {torch.get_num_threads()} thread(s)" if job.device.type == "cpu" else ""
    return f"device: {many}{job.device} ({device_name(job.device)}){threads}"


def _images(job: Job) -> str:
    parts = job.data.split()
    sizes = ", ".join(f"{len(indices):,} {name.replace('_', '-')}" for name, indices in parts.items())
    shape = "x".join(map(str, job.data.shape))
    return f"images: {sizes}; {shape}, {job.data.classes} classes ({job.data.name})"


def _recipes(job: Job) -> Iterator[tuple[str, Recipe]]:
    """Of the stages of the job that train."""
    if "pretrain" in job.stages and not job.model.comes_trained:
        yield "pretrain", job.pretrain
    if "sparsify" in job.stages:
        yield from (("sparsify", recipe) for recipe in recipes_of(job.method).values())
    if "finetune" in job.stages:
        scratch = job.finetune.init == "scratch"
        yield ("finetune, from scratch", job.pretrain) if scratch else ("finetune", job.finetune)


def told(recipe: Recipe) -> str:
    """14 epochs, batch 64, lr 0.1 cosine, warm-up 1, weight decay 0.0005."""
    warmup = f", warm-up {recipe.warmup_epochs:g}" if recipe.warmup_epochs else ""
    plural = "" if recipe.epochs == 1 else "s"
    more = "" if recipe.amp == "off" else f", {recipe.amp}"
    return (
        f"{recipe.epochs} epoch{plural}, batch {recipe.batch_size}, lr {recipe.lr:g} {recipe.schedule}{warmup}, "
        f"weight decay {recipe.weight_decay:g}{more}"
    )
