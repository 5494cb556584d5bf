"""Distillation as the objective of a stage: cross entropy on the labels plus weighted loss terms on the teacher's
logits."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from compress.distill import relations
from compress.distill.losses import standardised
from compress.errors import OWN, InputError, SettingError, first_line
from compress.schema.bounds import Count, Natural, NonNegative, Positive
from compress.schema.settings import Recipe
from compress.train.objective import CrossEntropy, Outputs, Terms, cross_entropy

# (student logits (B, C), teacher logits (B, C), labels (B,)) -> scalar
Term = Callable[[Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True, kw_only=True)
class WeightedTerm:
    """A loss, its weight, and the epochs in which it counts."""

    weight: Positive
    loss: Term
    standardise: bool = False  # the logits of both networks first: mean 0, deviation 1 in each image
    warmup_epochs: Natural = 0  # the weight grows to its whole: epoch e of n has e / n of it
    stop_epoch: Count | None = None  # the last epoch with this term

    def weight_in(self, epoch: int) -> float:
        """The weight in an epoch, counted from 1; constant within it, as published (DKD)."""
        if self.stop_epoch is not None and epoch > self.stop_epoch:
            return 0.0
        return self.weight * min(epoch / max(self.warmup_epochs, 1), 1.0)

    def of(self, student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
        """The loss without its weight: (B, C), (B, C), (B,) -> scalar."""
        if self.standardise:
            student, teacher = standardised(student), standardised(teacher)
        return self.loss(student, teacher, labels)

    def doubts(self, classes: int, epochs: int) -> list[str]:
        """What of these settings is probably not meant, in a training of so many epochs."""
        found = []
        if self.warmup_epochs > epochs:
            found.append(
                f"{OWN}warmup_epochs={self.warmup_epochs}: this stage trains for {epochs} only, so the term never "
                "has its whole weight"
            )
        if isinstance(self.loss, partial) and self.loss.func is relations.dist:
            lines = relations.doubts(self.loss.keywords, classes)
            found += [line.replace(OWN, f"{OWN}loss.") for line in lines]
        return found


@dataclass(frozen=True, kw_only=True)
class Distill:
    """The stages whose training uses the teacher, and the loss there: ce_weight * CE + sum of weight * term.

    No stages: the teacher joins none, so that a sweep over `stages` has an arm without it.
    """

    stages: list[Literal["sparsify", "finetune"]]
    ce_weight: NonNegative
    terms: Mapping[str, WeightedTerm]

    def __post_init__(self) -> None:
        if not self.terms:
            raise SettingError(f"{OWN}terms={self.terms}: must name at least one, as kd does")
        if "ce" in self.terms:
            raise SettingError(f"{OWN}terms.ce: is the name of the cross entropy on the labels; take another")
        stops = [term.stop_epoch for term in self.terms.values() if term.stop_epoch is not None]
        if self.ce_weight == 0 and len(stops) == len(self.terms):
            raise SettingError(
                f"{OWN}ce_weight=0: nothing would be left to train by after epoch {max(stops)}, the last stop_epoch"
            )

    def check(self, classes: int) -> None:
        """Compute every term once, of made-up logits of two images.

        Raises:
            SettingError: a term refuses so few classes, cannot be computed, or is no scalar.
        """
        logits = torch.linspace(-1, 1, 2 * classes).reshape(2, classes)
        labels = torch.tensor([0, classes - 1])
        found = {name: _problems_of(term, logits, labels) for name, term in self.terms.items()}
        lines = [f"{OWN}terms.{name}: {problem}" for name, problems in found.items() for problem in problems]
        if lines:
            raise SettingError(*lines)

    def doubts(self, classes: int, epochs: int) -> list[str]:
        """Warnings about a stage of so many epochs."""
        return [
            line.replace(OWN, f"{OWN}terms.{name}.")
            for name, term in self.terms.items()
            for line in term.doubts(classes, epochs)
        ]

    def objective(
        self, recipe: Recipe, teacher: nn.Module, student: nn.Module, shape: tuple[int, int, int]
    ) -> "Distillation":
        """The objective of a stage; `student` is the network that is trained there, pruned or not.

        Objectives on features would use `student` and the image `shape` (C, H, W) to size their adapters; terms on
        logits need neither.
        """
        return Distillation(teacher.eval().requires_grad_(False), cross_entropy(recipe), self.ce_weight, self.terms)


def _problems_of(term: WeightedTerm, logits: Tensor, labels: Tensor) -> list[str]:
    try:
        value = term.of(logits, logits.flip(0), labels)
    except InputError as error:
        return list(error.problems)
    except Exception as error:  # a function of the user's can raise anything
        return [f"cannot be computed ({type(error).__name__}: {first_line(error)})"]
    is_scalar = isinstance(value, Tensor) and value.dim() == 0
    return [] if is_scalar else [f"must be a scalar tensor, not {_kind(value)}"]


def _kind(value: object) -> str:
    return f"one of shape {tuple(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"


@dataclass(frozen=True)
class Distillation:
    """An `Objective`. The teacher runs in eval mode without gradients, in the epochs in which a term needs it; all
    terms are computed in float32."""

    teacher: nn.Module
    on_labels: CrossEntropy
    ce_weight: float
    terms: Mapping[str, WeightedTerm]
    taps: tuple[str, ...] = ()
    adapters: nn.Module = field(default_factory=nn.ModuleDict)

    def __call__(self, outputs: Outputs, labels: Tensor, images: Tensor, epoch: float) -> Terms:
        weights = {name: term.weight_in(math.floor(epoch) + 1) for name, term in self.terms.items()}
        with torch.no_grad():
            teacher_logits = self.teacher(images) if any(weights.values()) else outputs.logits  # which no term sees
        with torch.autocast(images.device.type, enabled=False):
            student, teacher_logits = outputs.logits.float(), teacher_logits.float()
            terms = {
                name: weight * self.terms[name].of(student, teacher_logits, labels)
                if weight
                else student.new_zeros(())  # a stopped term keeps its column
                for name, weight in weights.items()
            }
            return {"ce": self.ce_weight * self.on_labels.of(student, labels), **terms}
