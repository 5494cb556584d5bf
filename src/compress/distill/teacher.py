"""Where a teacher comes from: an earlier run, a network of the zoo, or the run's own dense network.

A kind of teacher is one class and one YAML. A parameter `spec` of the class is made by `build`: of the `model` that
stands in the YAML, or else it is the network that the run compresses.
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


class Teacher(Protocol):
    """A trained network that others are taught by."""

    @property
    def to_train(self) -> ModelSpec | None:
        """A network that the run's pretrain stage makes before all else, beside the run's own."""

    @property
    def of_stage(self) -> Literal["pretrain"] | None:
        """The stage of the run whose network it is."""

    def check(self, classes: int, shape: tuple[int, int, int]) -> None:
        """
        Raises:
            SettingError: a teacher for other images or classes.
        """

    def digest(self) -> str | None:
        """Of the files that it is read from; None: a stage of the run makes it, whose settings say what it is."""

    def load(self, made: Path | None) -> nn.Module:
        """In eval mode; `made` is the folder of the stage that made it, if one did."""


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
        written = read_header(self.file)["model"]
        target = written.get("target") if isinstance(written, dict) else None
        if isinstance(target, str) and not target.startswith(OURS):
            raise self._refused(
                f"is {shown(target)}, a network of your own, which a file may not call; "
                f"use teacher=zoo model@teacher.model=custom teacher.model._target_={shown(target)}"
            )
        try:
            spec = spec_from_json(written)
        except InputError as error:
            raise self._refused("; ".join(error.problems)) from None
        if (spec.classes, spec.shape) != (classes, shape):
            raise self._refused(
                f"knows {spec.classes} classes of {spec.shape} images, this dataset has {classes} of {shape}"
            )

    def _refused(self, why: str) -> SettingError:
        return SettingError(f"{OWN}run={self.run}: {why}")


@dataclass(frozen=True)
class ZooTeacher:
    """A network that is trained (or loaded from its checkpoint) by the pretrain stage, cached like any other."""

    spec: ModelSpec

    @property
    def to_train(self) -> ModelSpec:
        return self.spec

    @property
    def of_stage(self) -> None:
        return None

    def digest(self) -> None:
        return None

    def load(self, made: Path | None) -> nn.Module:
        return _made(made, self.spec)

    def check(self, classes: int, shape: tuple[int, int, int]) -> None:
        assert (self.spec.classes, self.spec.shape) == (classes, shape)


@dataclass(frozen=True)
class SelfTeacher:
    """The dense network of the same run, which teaches what becomes of it."""

    spec: ModelSpec

    @property
    def to_train(self) -> None:
        return None

    @property
    def of_stage(self) -> Literal["pretrain"]:
        return "pretrain"

    def digest(self) -> None:
        return None

    def load(self, made: Path | None) -> nn.Module:
        return _made(made, self.spec)

    def check(self, classes: int, shape: tuple[int, int, int]) -> None:
        assert (self.spec.classes, self.spec.shape) == (classes, shape)


def _made(folder: Path | None, spec: ModelSpec) -> nn.Module:
    assert folder is not None, "the pretrain stage has made it"
    return load_network(folder / MODEL, spec.without_pretrained().build)[0]
