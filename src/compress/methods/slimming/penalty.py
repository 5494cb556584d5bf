"""The L1 penalty on the scales (gamma) of batch norms.

Liu et al., ICCV 2017, arXiv:1708.06519, eq. 1: the penalty `l1 * sum |gamma|`. As in the published code, its
subgradient is added to the gradients instead of the penalty to the loss (`compress.train.penalty`).
"""

from collections.abc import Collection

import torch
from torch import nn

from compress.prune.scales import norms_of
from compress.train.penalty import Gradients, Penalty, add


@torch.no_grad()
def add_l1(model: nn.Module, strength: float, linear: bool, spared: Collection[str] = ()) -> None:
    """Add `strength * sign(gamma)` to the gradient of every scale that is not `spared` (by name of its batch norm) or
    frozen; sign(0) is 0."""
    add(_gradients(model, strength, linear, spared))


def l1_penalty(
    strength: float, linear: bool, spared: Collection[str] = (), device: torch.device | None = None
) -> Penalty:
    """`add_l1` at every step of a training."""
    device = torch.device("cpu") if device is None else device
    return Penalty(lambda model: _gradients(model, strength, linear, spared), strength, "l1", device)


def _gradients(model: nn.Module, strength: float, linear: bool, spared: Collection[str]) -> Gradients:
    return [(gamma, strength * gamma.sign()) for gamma in penalised(model, linear, spared)]


def penalised(model: nn.Module, linear: bool, spared: Collection[str]) -> list[nn.Parameter]:
    """The scales that `add_l1` pulls at, (C,) of each batch norm."""
    found = {name: module.get_parameter("weight") for name, module in norms_of(model, linear).items()}
    return [gamma for name, gamma in found.items() if name not in spared and gamma.requires_grad]
