"""Exploration noise that stays inside the action range."""

import math

import torch
from torch import Tensor


def truncated_normal(mean: Tensor, sigma: float, generator: torch.Generator) -> Tensor:
    """Normal around `mean`, cut to [0, 1] by inverting the CDF: any shape in, the same shape out.

    Exact for every mean and width, and one uniform number per entry, so that draws stay in step.
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
    """Width after `rounds` of exploring: initial * decay^rounds."""
    return float(initial * decay**rounds)
