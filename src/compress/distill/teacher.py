"""Where a teacher comes from: an earlier run, or a network of the zoo (from a file, or pretrained like any other)."""

from dataclasses import dataclass
from pathlib import Path

from compress.errors import InputError
from compress.io.files import digest_of
from compress.io.paths import MODEL
from compress.io.tensors import read_header
from compress.models.spec import OURS, ModelSpec, spec_from_json
from compress.schema.check import shown


@dataclass(frozen=True)
class RunTeacher:
    """The final network of an earlier run."""

    run: str

    def __post_init__(self) -> None:
        if not self.file.is_file():
            raise InputError(f"teacher.run={self.run}: holds no {MODEL}; give the folder of a finished run")
        read_header(self.file)

    @property
    def file(self) -> Path:
        return Path(self.run).expanduser() / MODEL

    def digest(self) -> str:
        return digest_of(self.file)

    def check(self, classes: int, shape: tuple[int, int, int]) -> None:
        """
        Raises:
            InputError: a teacher for other images or classes.
        """
        written = read_header(self.file)["model"]
        target = written.get("target") if isinstance(written, dict) else None
        if isinstance(target, str) and not target.startswith(OURS):
            raise InputError(
                f"teacher.run={self.run}: is {shown(target)}, a network of your own, which a file may not call; "
                f"use teacher=zoo model@teacher.model=custom teacher.model._target_={shown(target)}"
            )
        try:
            spec = spec_from_json(written)
        except InputError as error:
            raise InputError(*(f"teacher.run={self.run}: {problem}" for problem in error.problems)) from None
        if (spec.classes, spec.shape) != (classes, shape):
            raise InputError(
                f"teacher.run={self.run}: knows {spec.classes} classes of {spec.shape} images, "
                f"this dataset has {classes} of {shape}"
            )


@dataclass(frozen=True)
class ZooTeacher:
    """A network that is trained (or loaded from its checkpoint) by the pretrain stage, cached like any other."""

    spec: ModelSpec


Teacher = RunTeacher | ZooTeacher
