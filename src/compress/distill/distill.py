"""Distillation as the objective of a stage: cross entropy on the labels plus weighted loss terms on the teacher's
logits."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn

from compress.errors import OWN, SettingError
from compress.schema.bounds import NonNegative, Positive
from compress.schema.settings import Recipe
from compress.train.objective import CrossEntropy, Outputs, Terms, cross_entropy

# (student logits (B, C), teacher logits (B, C), labels (B,)) -> scalar
Term = Callable[[Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True, kw_only=True)
class WeightedTerm:
    weight: Positive
    loss: Term


@dataclass(frozen=True, kw_only=True)
class Distill:
    """The stages whose training uses the teacher, and the loss there: ce_weight * CE + sum of weight * term."""

    stages: list[Literal["sparsify", "finetune"]]
    ce_weight: NonNegative
    terms: Mapping[str, WeightedTerm]

    def __post_init__(self) -> None:
        for name, value in (("terms", self.terms), ("stages", self.stages)):
            if not value:
                raise SettingError(f"{OWN}{name}={value}: must name at least one, as kd does")
        if "ce" in self.terms:
            raise SettingError(f"{OWN}terms.ce: is the name of the cross entropy on the labels; take another")

    def objective(
        self, recipe: Recipe, teacher: nn.Module, student: nn.Module, shape: tuple[int, int, int]
    ) -> "Distillation":
        """The objective of a stage; `student` is the network that is trained there, pruned or not.

        Objectives on features would use `student` and the image `shape` (C, H, W) to size their adapters; terms on
        logits need neither.
        """
        return Distillation(teacher.eval().requires_grad_(False), cross_entropy(recipe), self.ce_weight, self.terms)


@dataclass(frozen=True)
class Distillation:
    """An `Objective`. The teacher runs in eval mode without gradients; all terms are computed in float32."""

    teacher: nn.Module
    on_labels: CrossEntropy
    ce_weight: float
    terms: Mapping[str, WeightedTerm]
    taps: tuple[str, ...] = ()
    adapters: nn.Module = field(default_factory=nn.ModuleDict)

    def __call__(self, outputs: Outputs, labels: Tensor, images: Tensor, epoch: float) -> Terms:
        with torch.no_grad():
            teacher_logits = self.teacher(images)
        with torch.autocast(images.device.type, enabled=False):
            student, teacher_logits = outputs.logits.float(), teacher_logits.float()
            terms = {
                name: term.weight * term.loss(student, teacher_logits, labels) for name, term in self.terms.items()
            }
            return {"ce": self.ce_weight * self.on_labels.of(student, labels), **terms}
