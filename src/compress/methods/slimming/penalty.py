"""The L1 penalty on the scales (gamma) of batch norms, and statistics of the scales during training.

Liu et al., ICCV 2017, arXiv:1708.06519, eq. 1: the penalty `l1 * sum |gamma|`. As in the published code, its
subgradient is added to the gradients instead of the penalty to the loss: after the backward pass, the all-reduce over
processes and gradient clipping, so that none of these scales it.
"""

from collections.abc import Collection

import torch
from torch import Tensor, nn

from compress.io.files import JSON
from compress.methods.slimming.scales import norms_of

SMALL = 0.01  # times the largest scale (the median may be zero itself): below it a scale counts as zero
SPARSE = 0.1  # times the median of the kept scales: a pruning threshold above it removes scales not near zero
BINS = 50


def add_l1(model: nn.Module, strength: float, linear: bool, spared: Collection[str] = ()) -> None:
    """Add `strength * sign(gamma)` to the gradient of every scale that is not `spared` (by name of its batch norm) or
    frozen; sign(0) is 0."""
    with torch.no_grad():
        for name, module in norms_of(model, linear).items():
            gamma = module.weight
            assert isinstance(gamma, Tensor)
            if name in spared or not gamma.requires_grad:
                continue
            step = strength * gamma.sign()
            gamma.grad = step if gamma.grad is None else gamma.grad.add_(step)


def scale_statistics(gammas: Tensor) -> JSON:
    """The part of a row of metrics on the distribution of |gamma|, (N,): median, share near zero, histogram."""
    median, top = float(gammas.median()), float(gammas.max())
    counts, edges = torch.histogram(gammas, BINS, range=(0.0, top or 1.0))
    return {
        "scale_median": float(f"{median:.6g}"),
        "scale_small_share": round(float((gammas < SMALL * top).float().mean()), 4),
        "scales": {"edges": [round(edge, 6) for edge in edges.tolist()], "counts": [int(n) for n in counts.tolist()]},
    }
