"""Exploration noise within the action range [0, 1]."""

import math

import torch
from torch import Tensor


def truncated_normal(mean: Tensor, sigma: float, generator: torch.Generator) -> Tensor:
    """A sample of the normal distribution with this mean and standard deviation, truncated to [0, 1]; any shape.

    Sampled by the inverse of the distribution function, not by rejection: this draws exactly one random number per
    element, so that the generator's state afterwards does not depend on the values.
    """
    uniform = torch.rand(mean.shape, generator=generator, dtype=torch.float64)
    if sigma <= 0:
        return mean.clamp(0, 1)
    center = mean.double()
    low, high = (_cdf((bound - center) / sigma) for bound in (0.0, 1.0))
    draw = center + sigma * math.sqrt(2) * torch.erfinv((2 * (low + uniform * (high - low)) - 1).clamp(-1, 1))
    return draw.clamp(0, 1).to(mean.dtype)


def _cdf(x: Tensor) -> Tensor:
    return 0.5 * (1 + torch.erf(x / math.sqrt(2)))


def decayed_sigma(initial: float, decay: float, rounds: float) -> float:
    """The standard deviation of the noise after `rounds` episodes (may be fractional)."""
    return float(initial * decay**rounds)
