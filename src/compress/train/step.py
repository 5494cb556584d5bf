"""`Step`: forward, loss, backward and update for one batch. The same function runs step by step and is recorded as a
CUDA graph (`compress.train.graphs`): it waits for no value of the device, and what it changes it changes in place."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from compress.models.masks import zero_masked
from compress.parallel import ddp
from compress.parallel.collectives import Team
from compress.schema.settings import Recipe
from compress.train.objective import Asking, Objective, Tapped, Terms, outputs_of, total, with_heads
from compress.train.optimizer import SGD
from compress.train.tally import Tally

Batch = tuple[Tensor, ...]  # images (B, C, H, W), labels (B,) and, if the objective is told them, views (B,)


@dataclass(frozen=True, kw_only=True)
class Step:
    """One optimizer step. The learning rate is that of the optimizer."""

    tapped: Tapped
    called: nn.Module  # `tapped`, or DDP around it
    objective: Objective
    optimizer: SGD
    recipe: Recipe
    on_gradient: Callable[[nn.Module], None]
    layout: torch.memory_format
    guard: Callable[[], AbstractContextManager[object]]  # around what is trained: see `memory_format.guard`
    device: torch.device
    team: Team
    masked: Sequence[nn.Module]  # the layers with a mask, as of now
    tally: Tally

    def __call__(self, batch: Batch, size: int, at: float) -> None:
        """Train on this rank's shard of a batch of `size` images; `at` is the time in epochs since the start."""
        images, labels, *views = ddp.padded_shard(*batch)
        count = len(batch[1])
        logits, terms = self._terms(images, labels, at, *views)
        loss = total(terms)
        self.optimizer.zero_grad()
        ddp.scaled_loss(self.team, loss, count, size).backward()
        if self.recipe.clip_norm is not None:
            nn.utils.clip_grad_norm_(self.tapped.parameters(), self.recipe.clip_norm)
        self.on_gradient(self.tapped.network)
        self.optimizer.step()
        zero_masked(self.masked)
        self.tally.add(loss, terms, logits, labels, count)

    def _terms(self, images: Tensor, labels: Tensor, at: float, *views: Tensor) -> tuple[Tensor, Terms]:
        """Logits (B, C), and the weighted terms whose sum is minimised."""
        recipe, device = self.recipe, self.device
        images = images.contiguous(memory_format=self.layout)
        objective: Any = self.objective
        with _autocast(recipe, device):
            answer = (objective.ask(images, at, *views),) if isinstance(objective, Asking) else ()
            with self.guard():  # not a teacher, which gets no gradient: it would be a seventh slower
                outputs = outputs_of(*self.called(images))
                terms: Terms = objective(outputs, labels, images, at, *answer)
            return outputs.logits, with_heads(terms, outputs, labels, recipe)


def _autocast(recipe: Recipe, device: torch.device) -> AbstractContextManager[object]:
    return torch.autocast(device.type, torch.bfloat16) if recipe.amp == "bf16" else nullcontext()
