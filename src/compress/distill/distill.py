"""Distillation as the objective of a stage: cross entropy on the labels plus weighted loss terms on the teacher's
logits and feature maps."""

import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from compress.distill import relations
from compress.distill.feature_term import FeatureTerm, Pairing
from compress.distill.kept_logits import LAYOUT, KeptLogits
from compress.distill.losses import standardised
from compress.distill.schedule import Scheduled
from compress.errors import OWN, InputError, SettingError, first_line, settings_under
from compress.schema.bounds import NonNegative, Positive
from compress.schema.settings import Recipe
from compress.train.objective import CrossEntropy, Outputs, Terms, cross_entropy, tapped

log = logging.getLogger(__name__)

# (student logits (B, C), teacher logits (B, C), labels (B,)) -> scalar
Term = Callable[[Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True, kw_only=True)
class WeightedTerm(Scheduled):
    """A loss on logits, its weight, and the epochs in which it counts."""

    loss: Term
    standardise: bool = False  # the logits of both networks first: mean 0, deviation 1 in each image

    def of(self, student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
        """The loss without its weight: (B, C), (B, C), (B,) -> scalar."""
        if self.standardise:
            student, teacher = standardised(student), standardised(teacher)
        return self.loss(student, teacher, labels)

    def doubts(self, classes: int, epochs: int) -> list[str]:
        found = super().doubts(classes, epochs)
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
    terms: Mapping[str, WeightedTerm | FeatureTerm]
    # Whether the teacher's logits are kept, for all students: off; on: of every view; auto: where that costs no more
    # than asking the teacher.
    cache: Literal["auto", "on", "off"] = "off"
    cache_limit_gb: Positive = 1.0  # larger tables are not kept

    def __post_init__(self) -> None:
        if not self.terms:
            raise SettingError(f"{OWN}terms={self.terms}: must name at least one, as kd does")
        if "ce" in self.terms:
            raise SettingError(f"{OWN}terms.ce: is the name of the cross entropy on the labels; take another")
        for name, term in self.on_features.items():
            if "." in name or hasattr(nn.ModuleDict, name):
                raise SettingError(f"{OWN}terms.{name}: cannot name a term on features, whose adapter is called so")
            with settings_under(f"terms.{name}"):
                term.check()
        stops = [term.stop_epoch for term in self.terms.values() if term.stop_epoch is not None]
        if self.ce_weight == 0 and len(stops) == len(self.terms):
            raise SettingError(
                f"{OWN}ce_weight=0: nothing would be left to train by after epoch {max(stops)}, the last stop_epoch"
            )

    def check(self, classes: int) -> None:
        """Compute every term once, of made-up logits or feature maps of two images.

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

    def asks(self, epochs: int) -> int:
        """How many of the first epochs need the teacher."""
        return max(
            epochs if term.stop_epoch is None else min(epochs, term.stop_epoch) for term in self.terms.values()
        )

    @property
    def on_features(self) -> dict[str, FeatureTerm]:
        """The terms that compare feature maps."""
        return {name: term for name, term in self.terms.items() if isinstance(term, FeatureTerm)}

    def pairings(self, student: nn.Module, teacher: nn.Module, shape: tuple[int, int, int]) -> dict[str, Pairing]:
        """What these terms compare in two networks for images of `shape` (C, H, W), with new adapters.

        Raises:
            SettingError: the modules are not there, or their maps do not fit each other.
        """
        found = {}
        for name, term in self.on_features.items():
            with settings_under(f"terms.{name}"):
                found[name] = term.pair(student, teacher, shape)
        return found

    def objective(
        self, recipe: Recipe, teacher: nn.Module | KeptLogits, student: nn.Module, shape: tuple[int, int, int]
    ) -> "Distillation":
        """The objective of a stage; `student` is the network that is trained there, pruned or not. With kept logits
        no term may compare feature maps.

        The adapters of terms on features are made for the student as it is, at the image `shape` (C, H, W), and with
        random weights.

        Raises:
            SettingError: as `pairings`.
        """
        if isinstance(teacher, KeptLogits):
            return Distillation(teacher, cross_entropy(recipe), self.ce_weight, self.terms)
        pairings = self.pairings(student, teacher, shape)
        for name, pairing in pairings.items():
            log.info("%s: compares %s", name, pairing)
        teacher = teacher.eval().requires_grad_(False).to(memory_format=LAYOUT)
        return Distillation(teacher, cross_entropy(recipe), self.ce_weight, self.terms, pairings)


def _problems_of(term: WeightedTerm | FeatureTerm, logits: Tensor, labels: Tensor) -> list[str]:
    try:
        value = term.check_value() if isinstance(term, FeatureTerm) else term.of(logits, logits.flip(0), labels)
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
    """An `Objective`. The teacher runs in eval mode without gradients, in the epochs in which a term needs it, unless
    its logits are kept; all terms, and the adapters of those on features, are computed in float32."""

    teacher: nn.Module | KeptLogits
    on_labels: CrossEntropy
    ce_weight: float
    terms: Mapping[str, WeightedTerm | FeatureTerm]
    pairings: Mapping[str, Pairing] = field(default_factory=dict)  # of the terms on features
    adapters: nn.ModuleDict = field(init=False)

    def __post_init__(self) -> None:
        modules = {name: pairing.adapter for name, pairing in self.pairings.items() if pairing.adapter is not None}
        object.__setattr__(self, "adapters", nn.ModuleDict(modules))

    def doubts(self) -> list[str]:
        """Warnings about what is compared."""
        return [
            line.replace(OWN, f"{OWN}terms.{name}.")
            for name, term in self.terms.items()
            if isinstance(term, FeatureTerm)
            for line in term.doubts_of(self.pairings[name])
        ]

    @property
    def by_view(self) -> bool:
        """Whether it looks the teacher's logits up, by the views of the images."""
        return isinstance(self.teacher, KeptLogits)

    @property
    def taps(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(path for pairing in self.pairings.values() for path in pairing.student))

    def __call__(
        self, outputs: Outputs, labels: Tensor, images: Tensor, epoch: float, answer: Outputs | None = None
    ) -> Terms:
        """As `Objective`; `answer` is what `ask` has returned for these images, if it was called before."""
        weights = self._weights(epoch)
        if answer is None:
            answer = self.ask(images, epoch)
        with torch.autocast(images.device.type, enabled=False):
            terms = {
                name: weight * self._value(name, outputs, answer, labels) if weight else self._stopped(name, outputs)
                for name, weight in weights.items()
            }
            return {"ce": self.ce_weight * self.on_labels.of(outputs.logits.float(), labels), **terms}

    def _weights(self, epoch: float) -> dict[str, float]:
        return {name: term.weight_in(math.floor(epoch) + 1) for name, term in self.terms.items()}

    def ask(self, images: Tensor, epoch: float, views: Tensor | None = None) -> Outputs:
        """The teacher's outputs, and its features where a term compares them; kept logits are looked up by the views
        (B,) of the images. Where no term needs it, the images, which no term sees."""
        if not any(self._weights(epoch).values()):
            return Outputs(images)
        if isinstance(self.teacher, KeptLogits):
            assert views is not None, "kept logits are looked up by view"
            return Outputs(self.teacher.of(views))
        taps = tuple(dict.fromkeys(path for pairing in self.pairings.values() for path in pairing.teacher))
        with torch.no_grad(), tapped(self.teacher, taps) as features:
            return Outputs(self.teacher(images.contiguous(memory_format=LAYOUT)), features)

    def _value(self, name: str, student: Outputs, teacher: Outputs, labels: Tensor) -> Tensor:
        """A term without its weight."""
        term = self.terms[name]
        if isinstance(term, FeatureTerm):
            return term.loss(*self.pairings[name].maps(student.features, teacher.features))
        return term.of(student.logits.float(), teacher.logits.float(), labels)

    def _stopped(self, name: str, student: Outputs) -> Tensor:
        """0, since a stopped term keeps its column. Its adapter stays in the graph: DDP waits for a gradient of every
        parameter that had one in the first step."""
        zero = student.logits.new_zeros((), dtype=torch.float32)
        if name in self.adapters:
            for parameter in self.adapters[name].parameters():
                zero = zero + 0.0 * parameter.sum()
        return zero
