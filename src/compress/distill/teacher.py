"""Where a teacher comes from: an earlier run, a network of the zoo, or the run's own dense network.

A kind of teacher is one class and one YAML. If the class has a parameter `spec`, `config.build` passes the model of
the YAML, or without one the network that the run compresses.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from torch import nn

from compress.errors import OWN, InputError, SettingError
from compress.io.files import digest_of
from compress.io.paths import MODEL
from compress.io.tensors import read_header
from compress.models.spec import OURS, ModelSpec, spec_from_json
from compress.prune.saved_network import load_network
from compress.schema.check import shown


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
    def of_stage(self) -> Literal["pretrain"] | None:
        """The stage of the run whose network is the teacher; None: not of this run."""

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

    def __post_init__(self) -> None:
        if not self.file.is_file():
            raise self._refused(f"holds no {MODEL}; give the folder of a finished run")
        read_header(self.file)

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

    def _refused(self, why: str) -> SettingError:
        return SettingError(f"{OWN}run={self.run}: {why}")


@dataclass(frozen=True)
class _DenseTeacher:
    """What a `pretrain` stage computes; kinds of it say of which run."""

    spec: ModelSpec

    def digest(self) -> None:
        return None

    def load(self, made: Path | None) -> nn.Module:
        assert made is not None, "the pretrain stage has trained it"
        return load_network(made / MODEL, self.spec.without_pretrained().build)[0]

    def check(self, classes: int, shape: tuple[int, int, int]) -> None:
        assert (self.spec.classes, self.spec.shape) == (classes, shape)


@dataclass(frozen=True)
class ZooTeacher(_DenseTeacher):
    """A network of the zoo, trained (or loaded from a checkpoint) by a `pretrain` stage and cached like any other."""

    @property
    def to_train(self) -> ModelSpec:
        return self.spec

    @property
    def of_stage(self) -> None:
        return None


@dataclass(frozen=True)
class SelfTeacher(_DenseTeacher):
    """The dense network of the same run (self-distillation into its pruned version)."""

    @property
    def to_train(self) -> None:
        return None

    @property
    def of_stage(self) -> Literal["pretrain"]:
        return "pretrain"
