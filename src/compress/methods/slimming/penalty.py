"""Training that pulls the scales of batch norms to zero, and what it looks like while it does.

Liu et al., ICCV 2017, arXiv:1708.06519, eq. 1: the loss gets `l1 * sum |gamma|`. As published it is not added to the
loss but its subgradient to the gradients: after the backward pass, any averaging over devices and clipping, so that
none of them scales it.
"""

from collections.abc import Collection

import torch
from torch import Tensor, nn

from compress.io.files import JSON
from compress.methods.slimming.scales import norms_of

SMALL = 0.01  # of the largest: a scale below it is as good as gone (of the median it says nothing once that is gone)
SPARSE = 0.1  # of the kept ones' median: a threshold above it cuts into scales that still carry something
BINS = 50


def add_l1(model: nn.Module, strength: float, linear: bool, spared: Collection[str] = ()) -> None:
    """Add `strength * sign(gamma)` to the gradient of every scale that is neither spared nor frozen; sign(0) is 0."""
    with torch.no_grad():
        for name, module in norms_of(model, linear).items():
            gamma = module.weight
            assert isinstance(gamma, Tensor)
            if name in spared or not gamma.requires_grad:
                continue
            step = strength * gamma.sign()
            gamma.grad = step if gamma.grad is None else gamma.grad.add_(step)


def look(gammas: Tensor) -> JSON:
    """Of a row of metrics: how all |gamma| are distributed."""
    median, top = float(gammas.median()), float(gammas.max())
    counts, edges = torch.histogram(gammas, BINS, range=(0.0, top or 1.0))
    return {
        "scale_median": float(f"{median:.6g}"),
        "scale_small_share": round(float((gammas < SMALL * top).float().mean()), 4),
        "scales": {"edges": [round(edge, 6) for edge in edges.tolist()], "counts": [int(n) for n in counts.tolist()]},
    }
