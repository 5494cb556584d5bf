"""Where a teacher comes from: an earlier run, a network of the zoo, or a stage of the same run.

A kind of teacher is one class and one YAML. If the class has a parameter `spec`, `config.build` passes the model of
the YAML, or without one the network that the run compresses.
"""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import torch
from torch import Tensor, nn

from compress.data.base import Data, Normalisation, check_normalisation, normalisation_of
from compress.errors import OWN, InputError, SettingError, settings_under
from compress.io.files import digest_of
from compress.io.paths import MODEL
from compress.io.tensors import read_header
from compress.models.spec import OURS, ModelSpec, spec_from_json
from compress.prune.saved_network import load_network, saved_normalisation
from compress.schema.check import shown
from compress.schema.settings import TeacherSettings

log = logging.getLogger(__name__)

MadeBy = Literal["pretrain", "sparsify"]


class OwnNetworkError(SettingError):
    """A file is of a network that `target` makes, a user's own function."""

    def __init__(self, *lines: str, target: str = "") -> None:
        super().__init__(*lines)
        self.target = target


class Teacher(Protocol):
    """Where the trained teacher network comes from, and how to load it."""

    @property
    def to_train(self) -> ModelSpec | None:
        """A network to train first, by a `pretrain` stage of its own; None: not needed."""

    @property
    def of_stage(self) -> MadeBy | None:
        """The stage of the run whose network is the teacher; None: not of this run."""

    @property
    def normalisation(self) -> Normalisation | None:
        """How the images were normalised that it was trained on; None: as those of this run."""

    def check(self, classes: int, shape: tuple[int, int, int]) -> None:
        """
        Raises:
            SettingError: the teacher is for other images or classes.
        """

    def digest(self) -> str | None:
        """Digest of the files that it is loaded from, for cache keys; None: a stage computes it, whose settings are
        used."""

    def load(self, made: Path | None) -> nn.Module:
        """The network in eval mode; `made` is the folder of the stage that computed it, None if loaded from files."""


@dataclass(frozen=True)
class RunTeacher:
    """The final network of an earlier run."""

    run: str
    normalisation: Normalisation | None = None  # given where the file does not say; then that of the file

    def __post_init__(self) -> None:
        if not self.file.is_file():
            raise self._refused(f"holds no {MODEL}; give the folder of a finished run")
        try:
            saved = saved_normalisation(read_header(self.file))
        except InputError as error:
            raise self._refused("; ".join(error.problems)) from None
        if saved is not None and self.normalisation not in (None, saved):
            raise SettingError(
                f"{OWN}normalisation: {_in_words(self.normalisation)}, but {self.file} says that it was trained on "
                f"images with {_in_words(saved)}; leave it out"
            )
        if saved is not None:
            object.__setattr__(self, "normalisation", saved)

    @property
    def file(self) -> Path:
        return Path(self.run).expanduser() / MODEL

    @property
    def to_train(self) -> None:
        return None

    @property
    def of_stage(self) -> None:
        return None

    def digest(self) -> str:
        return digest_of(self.file)

    def load(self, made: Path | None) -> nn.Module:
        if self.normalisation is None:
            log.warning(
                "%s does not say how its images were normalised, as it is of an older version: the teacher is shown "
                "those of this run as they are", self.file,
            )  # fmt: skip
        return load_network(self.file)[0]

    def check(self, classes: int, shape: tuple[int, int, int]) -> None:
        header = read_header(self.file)["model"]
        target = header.get("target") if isinstance(header, dict) else None
        if isinstance(target, str) and not target.startswith(OURS):
            why = f"is {shown(target)}, a network of your own, which a file may not call"
            raise OwnNetworkError(*self._refused(why).lines, target=target)
        try:
            spec = spec_from_json(header)
        except InputError as error:
            raise self._refused("; ".join(error.problems)) from None
        if (spec.classes, spec.shape) != (classes, shape):
            raise self._refused(
                f"knows {spec.classes} classes of {spec.shape} images, this dataset has {classes} of {shape}"
            )
        if self.normalisation is not None:
            with settings_under("normalisation"):
                check_normalisation(self.normalisation.mean, self.normalisation.std, shape[0])

    def _refused(self, why: str) -> SettingError:
        return SettingError(f"{OWN}run={self.run}: {why}")


@dataclass(frozen=True)
class _DenseTeacher:
    """What a stage computes; kinds of it say which, and of which run."""

    spec: ModelSpec

    def digest(self) -> None:
        return None

    def load(self, made: Path | None) -> nn.Module:
        assert made is not None, "its stage has trained it"
        return load_network(made / MODEL, self.spec.without_pretrained().build)[0]

    def check(self, classes: int, shape: tuple[int, int, int]) -> None:
        assert (self.spec.classes, self.spec.shape) == (classes, shape)


@dataclass(frozen=True)
class ZooTeacher(_DenseTeacher):
    """A network of the zoo, trained (or loaded from a checkpoint) by a `pretrain` stage and cached like any other."""

    normalisation: Normalisation | None = None  # of a checkpoint

    def __post_init__(self) -> None:
        if self.normalisation is None:
            return
        if not self.spec.comes_trained:
            raise SettingError(
                f"{OWN}normalisation: {_in_words(self.normalisation)}, but it is trained here, on the images of this "
                f"run; leave it out, or give {OWN}model.checkpoint"
            )
        with settings_under("normalisation"):
            check_normalisation(self.normalisation.mean, self.normalisation.std, self.spec.shape[0])

    @property
    def to_train(self) -> ModelSpec:
        return self.spec

    @property
    def of_stage(self) -> None:
        return None


@dataclass(frozen=True)
class SelfTeacher(_DenseTeacher):
    """The network of an earlier stage of the same run (self-distillation into its pruned version)."""

    stage: MadeBy = "pretrain"

    @property
    def to_train(self) -> None:
        return None

    @property
    def of_stage(self) -> MadeBy:
        return self.stage

    @property
    def normalisation(self) -> None:
        return None


@dataclass(frozen=True)
class WeightedTeacher:
    """One of the teachers of a run."""

    source: Teacher
    settings: TeacherSettings

    def converts(self, data: Data) -> Normalisation | None:
        """How its images must be normalised where those of `data` are normalised otherwise; None: it sees them as
        they are."""
        own = getattr(self.source, "normalisation", None)  # a kind of the user's may have none
        return own if own != normalisation_of(data) else None

    def check(self, data: Data) -> None:
        """
        Raises:
            SettingError: it is for other images or classes, or for images normalised in a way that those of `data`
                cannot be brought to.
        """
        self.source.check(data.classes, data.shape)
        if self.converts(data) is not None and normalisation_of(data) is None:
            raise SettingError(
                f"{OWN}normalisation: the teacher was trained on images with {_in_words(self.converts(data))}; "
                "those of this dataset do not say how they are normalised, in an attribute `normalisation`"
            )

    def load(self, made: Path | None, data: Data) -> nn.Module:
        """The network in eval mode, for images as `data` gives them; `made` as of `Teacher.load`."""
        network = self.source.load(made)
        if (own := self.converts(data)) is not None:
            given = normalisation_of(data)
            assert given is not None
            log.info("the teacher is shown the images with %s, as it was trained", _in_words(own))
            network.register_forward_pre_hook(_Renormalise(given, own))
        return network


class _Renormalise:
    """Brings the images of a network from one normalisation to another, before its forward pass. A hook, so that the
    modules of the network keep their paths."""

    def __init__(self, given: Normalisation, wanted: Normalisation) -> None:
        mean, std, own_mean, own_std = (
            torch.tensor(values, dtype=torch.float64).view(-1, 1, 1)
            for values in (given.mean, given.std, wanted.mean, wanted.std)
        )
        self._scale, self._shift = std / own_std, (mean - own_mean) / own_std  # (C, 1, 1), of x * std + mean

    def __call__(self, module: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor]:
        (images,) = inputs  # (B, C, H, W)
        if self._scale.device != images.device or self._scale.dtype != images.dtype:  # in the first step alone
            self._scale, self._shift = self._scale.to(images), self._shift.to(images)
        return (images * self._scale + self._shift,)


def _in_words(normalisation: Normalisation | None) -> str:
    assert normalisation is not None
    return f"mean={normalisation.mean} std={normalisation.std}"
