"""SGD as a recipe has it: fused into few kernels on a GPU, and such that a recorded step can be replayed."""

from typing import Any

import torch
from torch import Tensor, nn

from compress.schema.settings import Recipe


def sgd(trained: nn.Module, recipe: Recipe, device: torch.device, recorded: bool = False) -> torch.optim.SGD:
    """The optimizer of a training. If steps may be `recorded`, the learning rate is a tensor, which a replayed step
    reads, and the momenta are there from the start: zeros, with which the first step is that of none."""
    fused = recorded or device.type == "cuda"
    optimizer = torch.optim.SGD(
        trained.parameters(),
        lr=torch.tensor(recipe.lr, device=device) if recorded else recipe.lr,
        momentum=recipe.momentum,
        weight_decay=recipe.weight_decay,
        nesterov=recipe.nesterov and recipe.momentum > 0,
        fused=fused,
        foreach=not fused,
    )
    if fused and recipe.momentum > 0:  # a fused step wants the momenta of all parameters, or of none
        for parameter in trained.parameters():
            optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    return optimizer


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    for group in optimizer.param_groups:
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate


def load_momenta(optimizer: torch.optim.Optimizer, saved: dict[str, Any]) -> None:
    """Load the state of an optimizer's parameters. Its settings stay: the training may go on on another device."""
    optimizer.load_state_dict({**saved, "param_groups": optimizer.state_dict()["param_groups"]})


def momenta(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    return [tensor for state in optimizer.state.values() for tensor in state.values() if isinstance(tensor, Tensor)]
