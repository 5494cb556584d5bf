"""Whether a strength of the L1 penalty can make scales sparse in a training, before it begins.

The penalty adds `strength * sign(gamma)` to every gradient, so that in a whole training it moves a scale by no more
than strength x learning rate x steps (more with momentum), whatever the loss asks. Ours; the published strengths are
for trainings of 160 epochs (Liu et al., ICCV 2017, arXiv:1708.06519).
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from compress.errors import OWN
from compress.schema.settings import Recipe
from compress.train.schedule import learning_rate

POINTS = 8  # of an epoch at which the learning rate is looked at


def distance(recipe: Recipe, steps: int) -> float:
    """How far a constant gradient of 1 moves a parameter in a whole training of `steps` steps an epoch: the sum of
    the learning rates, over 1 - momentum."""
    rates = [learning_rate(recipe, (at + 0.5) / POINTS) for at in range(POINTS * recipe.epochs)]
    return steps * sum(rates) / POINTS / (1 - recipe.momentum)


def least_strength(scale: float, recipe: Recipe, steps: int) -> float:
    """The strength with which a scale would just reach 0 in a training, were the loss indifferent to it: that of
    `d scale = -(strength + weight decay * scale)` over the `distance`."""
    way, decay = distance(recipe, steps), recipe.weight_decay
    return scale / way if decay * way < 1e-9 else decay * scale / math.expm1(min(decay * way, 700.0))


def doubt(strength: float, gammas: Sequence[Tensor], recipe: Recipe, steps: int) -> str:
    """Why this strength cannot make half of the scales (C,) small, and one that may; "" if it may."""
    if not (gammas and strength and recipe.epochs):
        return ""
    median = float(torch.cat([gamma.detach().flatten().abs() for gamma in gammas]).median())
    least = least_strength(median, recipe, steps)
    if strength >= least:
        return ""
    way = strength * distance(recipe, steps)
    return (
        f"{OWN}l1={strength:g} cannot make the scales sparse here: times the learning rates of "
        f"{steps * recipe.epochs:,} steps it moves a scale by {way:.2g}, and the median |gamma| "
        f"is {median:.2g}; it takes {OWN}l1={rounded_up(least)} at least, or a longer training"
    )


def rounded_up(value: float) -> str:
    """To one significant digit, upwards: 0.00123 -> 0.002."""
    power = 10.0 ** math.floor(math.log10(value))
    return f"{math.ceil(round(value / power, 6)) * power:.1g}"
