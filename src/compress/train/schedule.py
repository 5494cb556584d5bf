"""The learning rate schedule of a training."""

import math

from compress.schema.settings import Recipe


def learning_rate(recipe: Recipe, epoch: float) -> float:
    """The learning rate at `epoch`, the time in epochs since the start of the training; drops fall on whole epochs.

    Linear warm-up to `lr`, then constant until `hold_epochs`, which include the warm-up, are over; then the schedule
    to the end: cosine to 0 (Loshchilov and Hutter, "SGDR", ICLR 2017, arXiv:1608.03983, eq. 5, without restarts),
    linear to 0, or steps: a drop every `step_epochs` after the hold, so that a hold of 120 with steps of 30 drops at
    150, 180, 210, whatever the warm-up (drops that would fall into the warm-up are left out).
    """
    if epoch < recipe.warmup_epochs:
        return recipe.lr * epoch / recipe.warmup_epochs
    if epoch < recipe.hold_epochs or recipe.schedule == "constant":
        return recipe.lr
    if recipe.schedule == "step":
        covered = math.ceil((recipe.warmup_epochs - recipe.hold_epochs) / recipe.step_epochs) - 1
        drops = (epoch - recipe.hold_epochs) // recipe.step_epochs - max(0, covered)
        return recipe.lr * float(recipe.step_factor**drops)
    start = max(recipe.warmup_epochs, recipe.hold_epochs)
    done = min((epoch - start) / max(recipe.epochs - start, 1e-9), 1)
    return recipe.lr * (1 - done if recipe.schedule == "linear" else 0.5 * (1 + math.cos(math.pi * done)))
