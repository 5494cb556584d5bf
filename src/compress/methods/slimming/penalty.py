"""The L1 penalty on the scales (gamma) of batch norms, and statistics of the scales during training.

Liu et al., ICCV 2017, arXiv:1708.06519, eq. 1: the penalty `l1 * sum |gamma|`. As in the published code, its
subgradient is added to the gradients instead of the penalty to the loss: after the backward pass, the all-reduce over
processes and gradient clipping, so that none of these scales it.
"""

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from compress.io.files import JSON
from compress.prune.scales import norms_of

SMALL = 0.01  # times the largest scale (the median may be zero itself): below it a scale counts as zero
SPARSE = 0.1  # times the median of the kept scales: a pruning threshold above it removes scales not near zero
BINS = 50


def add_l1(model: nn.Module, strength: float, linear: bool, spared: Collection[str] = ()) -> None:
    """Add `strength * sign(gamma)` to the gradient of every scale that is not `spared` (by name of its batch norm) or
    frozen; sign(0) is 0."""
    pull(penalised(model, linear, spared), strength)


@torch.no_grad()
def pull(gammas: Sequence[nn.Parameter], strength: float) -> None:
    """Add `strength * sign(gamma)` to the gradients of scales."""
    for gamma in gammas:
        step = strength * gamma.sign()
        gamma.grad = step if gamma.grad is None else gamma.grad.add_(step)


def penalised(model: nn.Module, linear: bool, spared: Collection[str]) -> list[nn.Parameter]:
    """The scales that `add_l1` pulls at, (C,) of each batch norm."""
    found = {name: module.get_parameter("weight") for name, module in norms_of(model, linear).items()}
    return [gamma for name, gamma in found.items() if name not in spared and gamma.requires_grad]


@dataclass
class Penalty:
    """`add_l1` at every step of a training; over the steps of an epoch, how large the gradient was that it met.

    The penalty is added whatever the loss is, so a loss of larger gradients, such as DIST at temperature 4, makes the
    same strength a weaker one: the two lengths stand in the epoch's row. Both are over the penalised scales.
    """

    strength: float
    linear: bool
    spared: Collection[str] = ()
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    _met: Tensor = field(init=False)  # (2,): sum of the lengths and steps; on the device, which is not waited for
    _scales: int = 0

    def __post_init__(self) -> None:
        self._met = torch.zeros(2, dtype=torch.float64, device=self.device)

    def begin_epoch(self, model: nn.Module, epoch: int) -> None:
        self._met.zero_()

    def state(self) -> Sequence[Tensor]:
        """What `add` changes in place besides the gradients, by the same operations at every step."""
        return (self._met,)

    def add(self, model: nn.Module) -> None:
        gammas = penalised(model, self.linear, self.spared)
        gradients = [gamma.grad for gamma in gammas if gamma.grad is not None]
        self._met[0].add_(nn.utils.get_total_norm(gradients))
        self._met[1].add_(1)
        self._scales = sum(gamma.numel() for gamma in gammas)
        pull(gammas, self.strength)

    def row(self) -> JSON:
        """`task_gradient`, the mean length of the loss's gradient, after clipping; `l1_gradient`, the length of what
        is added, strength * sqrt(scales) where no scale is 0; and the strength `l1`."""
        lengths, steps = self._met.tolist()
        task = lengths / max(steps, 1)
        added = self.strength * math.sqrt(self._scales)
        return {"task_gradient": float(f"{task:.6g}"), "l1_gradient": float(f"{added:.6g}"), "l1": self.strength}


def scale_statistics(gammas: Tensor) -> JSON:
    """The part of a row of metrics on the distribution of |gamma|, (N,): median, share near zero, histogram."""
    median, top = float(gammas.median()), float(gammas.max())
    counts, edges = torch.histogram(gammas, BINS, range=(0.0, top or 1.0))
    return {
        "scale_median": float(f"{median:.6g}"),
        "scale_small_share": round(float((gammas < SMALL * top).float().mean()), 4),
        "scales": {"edges": [round(edge, 6) for edge in edges.tolist()], "counts": [int(n) for n in counts.tolist()]},
    }
