"""SGD as a recipe has it: fused into few kernels on a GPU, and such that a recorded step can be replayed."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.sgd import sgd

from compress.schema.settings import Recipe


class SGD:
    """Takes the steps of `torch.optim.SGD` by the function that the class calls too. The class itself loads torch's
    compiler, which is half of what a run does before its first step, and asks it to keep out of every step.

    Momenta are zeros from the start, with which the first step is the one without: a recorded step needs them where
    they stay. So does a `rate` that is a tensor, which a replayed step reads.
    """

    def __init__(
        self, parameters: Iterable[nn.Parameter], recipe: Recipe, device: torch.device, recorded: bool = False
    ) -> None:
        self.parameters = list(parameters)
        self.momenta = [torch.zeros_like(one) for one in self.parameters] if recipe.momentum > 0 else []
        self._rate: float | Tensor = torch.tensor(recipe.lr, device=device) if recorded else recipe.lr
        self._recipe = recipe
        self._fused = recorded or device.type == "cuda"

    def set_rate(self, rate: float) -> None:
        if isinstance(self._rate, Tensor):
            self._rate.fill_(rate)
        else:
            self._rate = rate

    def zero_grad(self) -> None:
        for parameter in self.parameters:
            parameter.grad = None

    @torch.no_grad()
    def step(self) -> None:
        """Parameters without a gradient, such as those of a part that was not used, stay as they are."""
        used = [number for number, parameter in enumerate(self.parameters) if parameter.grad is not None]
        gradients = [parameter.grad for parameter in self.parameters if parameter.grad is not None]
        sgd(
            [self.parameters[number] for number in used],
            gradients,
            [self.momenta[number] for number in used] if self.momenta else [],
            has_sparse_grad=any(gradient.is_sparse for gradient in gradients),
            foreach=not self._fused,
            fused=self._fused,
            lr=self._rate,
            momentum=self._recipe.momentum,
            weight_decay=self._recipe.weight_decay,
            dampening=0.0,
            nesterov=self._recipe.nesterov and self._recipe.momentum > 0,
            maximize=False,
        )

    def state_dict(self) -> dict[str, Any]:
        """In the form of `torch.optim.SGD`, without settings: the training may go on on another device."""
        return {"state": {number: {"momentum_buffer": momentum} for number, momentum in enumerate(self.momenta)}}

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """
        Raises:
            ValueError: it is of other parameters.
        """
        for number, state in saved["state"].items():
            momentum = state["momentum_buffer"]
            if momentum is None:
                continue
            if number >= len(self.momenta) or momentum.shape != self.momenta[number].shape:
                raise ValueError(f"momentum {number}, of shape {tuple(momentum.shape)}, is of another network")
            self.momenta[number].copy_(momentum)
