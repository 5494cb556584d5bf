"""Penalties on weights. Instead of the penalty to the loss, its gradient is added to the gradients: after the
backward pass, the all-reduce over processes and gradient clipping, so that none of these scales it."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from compress.io.files import JSON
from compress.train.loop import Hooks

# What a penalty adds, by parameter, of the parameter's shape
Gradients = Sequence[tuple[nn.Parameter, Tensor]]


def add(gradients: Iterable[tuple[nn.Parameter, Tensor]]) -> None:
    """Add to the gradients of parameters what a penalty adds."""
    for parameter, step in gradients:
        parameter.grad = step if parameter.grad is None else parameter.grad.add_(step)


@dataclass
class Penalty:
    """A penalty at every step of a training; over the steps of an epoch, how large the gradient was that it met.

    The penalty is added whatever the loss is, so a loss of larger gradients, such as DIST at temperature 4, makes the
    same strength a weaker one: the two lengths stand in the epoch's row. Both are over the penalised parameters.
    """

    gradients: Callable[[nn.Module], Gradients]  # waits for no value, the same operations at every step
    strength: float  # for the row: that of `gradients`
    name: str  # of the setting that is the strength
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    _met: Tensor = field(init=False)  # (3,): sums of both lengths, and steps; on the device, which is not waited for

    def __post_init__(self) -> None:
        self._met = torch.zeros(3, dtype=torch.float64, device=self.device)

    def begin_epoch(self, model: nn.Module, epoch: int) -> None:
        self._met.zero_()

    def state(self) -> Sequence[Tensor]:
        """What `add` changes in place besides the gradients, by the same operations at every step."""
        return (self._met,)

    @torch.no_grad()
    def add(self, model: nn.Module) -> None:
        pairs = self.gradients(model)
        met = [parameter.grad for parameter, _ in pairs if parameter.grad is not None]
        self._met[0].add_(nn.utils.get_total_norm(met))
        self._met[1].add_(nn.utils.get_total_norm([step for _, step in pairs]))
        self._met[2].add_(1)
        add(pairs)

    def row(self) -> JSON:
        """`task_gradient`, the mean length of the loss's gradient, after clipping; `<name>_gradient`, that of what is
        added; and the strength under the name of the penalty."""
        task, added, steps = self._met.tolist()
        lengths = {"task_gradient": task, f"{self.name}_gradient": added}
        means = {name: float(f"{length / max(steps, 1):.6g}") for name, length in lengths.items()}
        return {**means, self.name: self.strength}

    def hooks(self, row: Callable[[nn.Module], JSON]) -> Hooks:
        """Those of a training under this penalty; `row` has more entries for the row of an epoch."""
        return Hooks(
            begin_epoch=self.begin_epoch,
            on_gradient=self.add,
            gradient_state=self.state,
            row=lambda trained: {**row(trained), **self.row()},
        )
