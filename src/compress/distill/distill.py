"""Distillation as the objective of a stage: cross entropy on the labels plus weighted loss terms on the teacher's
logits and feature maps."""

import logging
import math
from collections.abc import Callable, Hashable, Mapping
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
from compress.train.objective import CrossEntropy, MeasuredTerms, Outputs, Terms, cross_entropy, tapped

log = logging.getLogger(__name__)

# (student logits (B, C), teacher logits (B, C), labels (B,)) -> scalar
Term = Callable[[Tensor, Tensor, Tensor], Tensor]
Answering = nn.Module | KeptLogits  # a teacher, or what is kept of it


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
        self,
        recipe: Recipe,
        teachers: Answering | Mapping[str, tuple[Answering, float]],
        student: nn.Module,
        shape: tuple[int, int, int],
    ) -> "Distillation":
        """The objective of a stage; `student` is the network that is trained there, pruned or not. `teachers` is one
        network, or several with their weights, by name; for any of them kept logits may stand, if no term compares
        feature maps.

        The adapters of terms on features are made for the student as it is, at the image `shape` (C, H, W), and with
        random weights; each teacher has its own.

        Raises:
            SettingError: as `pairings`.
        """
        given = {"": (teachers, 1.0)} if isinstance(teachers, nn.Module | KeptLogits) else teachers
        guides = {}
        for called, (network, weight) in given.items():
            if isinstance(network, KeptLogits):
                guides[called] = Guide(network, weight)
                continue
            pairings = self.pairings(student, network, shape)
            for name, pairing in pairings.items():
                log.info("%s: compares %s", beside(name, called), pairing)
            still = network.eval().requires_grad_(False).to(memory_format=LAYOUT)
            guides[called] = Guide(still, weight, pairings)
        return Distillation(guides, cross_entropy(recipe), self.ce_weight, self.terms)


def beside(name: str, teacher: str) -> str:
    """The name of a term on the answers of one of several teachers."""
    return f"{name} {teacher}" if teacher else name


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
class Guide:
    """A teacher in a training: its network or its kept logits, the weight of all terms on its answers, and where the
    terms on features compare it with the student."""

    network: Answering
    weight: float = 1.0
    pairings: Mapping[str, Pairing] = field(default_factory=dict)  # of the terms on features

    def ask(self, images: Tensor, views: Tensor | None = None) -> Outputs:
        """Its outputs, and its features where a term compares them; kept logits are looked up by the `views` (B,) of
        the images."""
        if isinstance(self.network, KeptLogits):
            assert views is not None, "kept logits are looked up by view"
            return Outputs(self.network.of(views))
        taps = tuple(dict.fromkeys(path for pairing in self.pairings.values() for path in pairing.teacher))
        with torch.no_grad(), tapped(self.network, taps) as features:
            return Outputs(self.network(images.contiguous(memory_format=LAYOUT)), features)


@dataclass(frozen=True)
class Distillation:
    """An `Objective`. The teachers run in eval mode without gradients, in the epochs in which a term needs them,
    unless their logits are kept; all terms, and the adapters of those on features, are computed in float32.

    With several teachers a term is the sum of its losses on the answers of each, times the weights of the teachers.
    Of `kd` the gradient is then that of one teacher whose softened probabilities are the weighted mean (of weights
    that add up to 1), which is how You et al., "Learning from Multiple Teacher Networks", KDD 2017, join teachers; a
    sum of losses has a meaning for any other term as well, such as those on features.

    Figures: `raw_<term>`, a term without its weight; `teacher_agreement`, the share of images on which the student's
    first choice is the teacher's, with several teachers `teacher_agreement_<name>`.
    """

    teachers: Mapping[str, Guide]  # by name; "": the only one
    on_labels: CrossEntropy
    ce_weight: float
    terms: Mapping[str, WeightedTerm | FeatureTerm]
    adapters: nn.ModuleDict = field(init=False)

    def __post_init__(self) -> None:
        modules = {
            beside(name, called): pairing.adapter
            for called, guide in self.teachers.items()
            for name, pairing in guide.pairings.items()
            if pairing.adapter is not None
        }
        object.__setattr__(self, "adapters", nn.ModuleDict(modules))

    def doubts(self) -> list[str]:
        """Warnings about what is compared."""
        found = [
            line.replace(OWN, f"{OWN}terms.{name}.")
            for name, term in self.terms.items()
            if isinstance(term, FeatureTerm)
            for guide in self.teachers.values()
            for line in term.doubts_of(guide.pairings[name])
        ]
        return list(dict.fromkeys(found))

    @property
    def by_view(self) -> bool:
        """Whether it looks a teacher's logits up, by the views of the images."""
        return any(isinstance(guide.network, KeptLogits) for guide in self.teachers.values())

    @property
    def taps(self) -> tuple[str, ...]:
        pairings = [pairing for guide in self.teachers.values() for pairing in guide.pairings.values()]
        return tuple(dict.fromkeys(path for pairing in pairings for path in pairing.student))

    def __call__(
        self,
        outputs: Outputs,
        labels: Tensor,
        images: Tensor,
        epoch: float,
        answers: Mapping[str, Outputs] | None = None,
    ) -> Terms:
        """As `Objective`; `answers` are what `ask` has returned for these images, if it was called before."""
        weights = self._weights(epoch)
        if answers is None:
            answers = self.ask(images, epoch)
        with torch.autocast(images.device.type, enabled=False):
            raw = {name: self._value(name, outputs, answers, labels) for name, weight in weights.items() if weight}
            on_labels = self.on_labels.of(outputs.logits.float(), labels)
            terms = {
                name: weight * raw[name] if weight else self._stopped(name, outputs)
                for name, weight in weights.items()
            }
        figures = {f"raw_{name}": value.detach() for name, value in {"ce": on_labels, **raw}.items()}
        return MeasuredTerms({"ce": self.ce_weight * on_labels, **terms}, figures | _agreements(outputs, answers))

    def phase(self, epoch: float) -> Hashable:
        return tuple(self._weights(epoch).values())

    def _weights(self, epoch: float) -> dict[str, float]:
        return {name: term.weight_in(math.floor(epoch) + 1) for name, term in self.terms.items()}

    def ask(self, images: Tensor, epoch: float, views: Tensor | None = None) -> dict[str, Outputs]:
        """What each teacher answers, by name, in the epochs in which a term needs it; `views` (B,) of the images are
        needed where logits are kept."""
        asked = self.teachers if any(self._weights(epoch).values()) else {}
        return {called: guide.ask(images, views) for called, guide in asked.items()}

    def _value(self, name: str, student: Outputs, answers: Mapping[str, Outputs], labels: Tensor) -> Tensor:
        """A term without its weight, summed over the teachers with theirs."""
        first, *others = [
            self._on_one(name, called, student, answer, labels, self.teachers[called].weight)
            for called, answer in answers.items()
        ]
        return sum(others, first)

    def _on_one(
        self, name: str, called: str, student: Outputs, teacher: Outputs, labels: Tensor, weight: float
    ) -> Tensor:
        term = self.terms[name]
        if isinstance(term, FeatureTerm):
            maps = self.teachers[called].pairings[name].maps(student.features, teacher.features)
            value = term.loss(*maps)
        else:
            value = term.of(student.logits.float(), teacher.logits.float(), labels)
        return value if weight == 1 else weight * value

    def _stopped(self, name: str, student: Outputs) -> Tensor:
        """0, since a stopped term keeps its column. Its adapters stay in the graph: DDP waits for a gradient of every
        parameter that had one in the first step."""
        zero = student.logits.new_zeros((), dtype=torch.float32)
        for called in self.teachers:
            if (adapter := beside(name, called)) in self.adapters:
                for parameter in self.adapters[adapter].parameters():
                    zero = zero + 0.0 * parameter.sum()
        return zero


def _agreements(student: Outputs, answers: Mapping[str, Outputs]) -> dict[str, Tensor]:
    """For every teacher the share of images of its first choice: logits (B, C) of each network -> scalars."""
    choice = student.logits.detach().argmax(1)
    agree = {called: (choice == answer.logits.argmax(1)).float().mean() for called, answer in answers.items()}
    return {f"teacher_agreement_{called}".removesuffix("_"): share for called, share in agree.items()}
