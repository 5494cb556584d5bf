"""A teacher in a training stage: cross entropy on the labels plus weighted terms on the teacher's logits."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from compress.errors import InputError
from compress.schema.bounds import NonNegative, Positive
from compress.schema.settings import Recipe
from compress.train.loop import Loss, cross_entropy

# (student logits (B, C), teacher logits (B, C), labels (B,)) -> scalar
Term = Callable[[Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True, kw_only=True)
class WeightedTerm:
    weight: Positive
    loss: Term


@dataclass(frozen=True, kw_only=True)
class Distill:
    """Which stages the teacher joins, and the loss there: ce_weight * CE + sum of weight * term."""

    stages: list[Literal["sparsify", "finetune"]]
    ce_weight: NonNegative
    terms: Mapping[str, WeightedTerm]

    def __post_init__(self) -> None:
        for name, value in (("terms", self.terms), ("stages", self.stages)):
            if not value:
                raise InputError(f"distill.{name}={value}: must name at least one, such as distill=kd does")

    def loss(self, recipe: Recipe, teacher: nn.Module) -> Loss:
        """The teacher answers in eval mode, without gradient; all terms are computed in float32."""
        on_labels = cross_entropy(recipe)
        teacher.eval().requires_grad_(False)

        def total(logits: Tensor, labels: Tensor, images: Tensor) -> Tensor:
            with torch.no_grad():
                wanted = teacher(images)
            with torch.autocast(images.device.type, enabled=False):
                student, wanted = logits.float(), wanted.float()
                value = self.ce_weight * on_labels(student, labels, images)
                for term in self.terms.values():
                    value = value + term.weight * term.loss(student, wanted, labels)
            return value

        return total
