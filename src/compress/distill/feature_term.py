"""A term of a distillation that compares feature maps of the student with the teacher's."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated

import torch
from torch import Tensor, nn

from compress.distill.adapters import Shape, Shapes
from compress.distill.features import Maps, at, at_doubts
from compress.distill.schedule import Scheduled
from compress.distill.taps import shapes_of, stage_ends
from compress.errors import OWN, InputError, SettingError
from compress.schema.bounds import Bound

FeatureLoss = Callable[[Maps, Maps], Tensor]  # the student's maps and the teacher's, (B, C, H, W) each -> scalar
AdapterBuilder = Callable[[Shapes, Shapes], nn.Module]  # see `compress.distill.adapters`
FromTheEnd = Annotated[int, Bound(lt=0)]


@dataclass(frozen=True)
class Pairing:
    """Which modules of two networks are compared, and by what adapter of the student's maps, if any."""

    student: tuple[str, ...]
    teacher: tuple[str, ...]
    adapter: nn.Module | None
    pixels: tuple[int, ...]  # of each pair's smaller map

    def __str__(self) -> str:
        return f"{_listed(self.student)} of the student with {_listed(self.teacher)} of the teacher"

    def maps(self, student: Mapping[str, Tensor], teacher: Mapping[str, Tensor]) -> tuple[Maps, Maps]:
        """In float32, the student's through the adapter."""
        own = [student[path].float() for path in self.student]
        other = [teacher[path].float() for path in self.teacher]
        return (own if self.adapter is None else self.adapter(own)), other


@dataclass(frozen=True, kw_only=True)
class FeatureTerm(Scheduled):
    """A loss on feature maps, its weight, and where the maps are read: at the modules `student` of the student and
    `teacher` of the teacher, or where these are None at the ends of the stages, matched from the deepest one."""

    loss: FeatureLoss
    adapter: AdapterBuilder | None = None
    student: list[str] | None = None  # module paths
    teacher: list[str] | None = None  # module paths, as many
    ends: list[FromTheEnd] | None = None  # of the ends of stages, -1 is the deepest; None: all that both have

    def check(self) -> None:
        """
        Raises:
            SettingError: the modules are given for one network only, or not as many for both, or none is chosen.
        """
        given = {name: paths for name, paths in (("student", self.student), ("teacher", self.teacher)) if paths}
        if len(given) == 1:
            ((name, paths),) = given.items()
            other = "teacher" if name == "student" else "student"
            raise SettingError(f"{OWN}{name}={_listed(paths)}: needs {OWN}{other} too, the modules that pair with it")
        if len({len(paths) for paths in given.values()}) > 1:
            raise SettingError(
                f"{OWN}teacher={_listed(given['teacher'])}: must be as many modules as {OWN}student, "
                f"{_listed(given['student'])}"
            )
        if self.ends is not None and not self.ends:
            raise SettingError(f"{OWN}ends=[]: must name at least one, such as [-1], or be null for all")

    def pair(self, student: nn.Module, teacher: nn.Module, image: tuple[int, int, int]) -> Pairing:
        """What is compared, of two networks for images (C, H, W); builds the adapter. No network is changed.

        Raises:
            SettingError: no such module, or maps that the adapter cannot bring together.
        """
        paths = self._paths(student, teacher, image)
        shapes = []
        for name, network, taps in zip(("student", "teacher"), (student, teacher), paths, strict=True):
            try:
                shapes.append(shapes_of(network, taps, image))
            except InputError as error:
                raise SettingError(f"{OWN}{name}={_listed(taps)}: {error}") from None
        pixels = tuple(min(s.height, t.height) * min(s.width, t.width) for s, t in zip(*shapes, strict=True))
        return Pairing(tuple(paths[0]), tuple(paths[1]), self._adapter(*shapes), pixels)

    def doubts_of(self, pairing: Pairing) -> list[str]:
        """What of these settings is probably not meant, for what is compared."""
        is_attention = (self.loss.func if isinstance(self.loss, partial) else self.loss) is at
        return at_doubts(self.weight, pairing.pixels) if is_attention else []

    def check_value(self) -> Tensor:
        """The loss of made-up maps of two images; random numbers go on as if nothing had been drawn."""
        count = len(self.student or self.ends or "abc")
        shapes = [Shape(4 * 2**level, size, size) for level, size in enumerate([8] * count)]
        with torch.random.fork_rng(devices=[]):
            adapter = self._adapter(shapes, shapes)
        maps = [torch.linspace(-1, 1, 2 * s.channels * 64).reshape(2, *s) for s in shapes]
        return self.loss(maps if adapter is None else adapter(maps), [one.flip(0) for one in maps])

    def _adapter(self, student: Sequence[Shape], teacher: Sequence[Shape]) -> nn.Module | None:
        if self.adapter is None:
            return None
        try:
            return self.adapter(student, teacher)
        except SettingError:
            raise
        except InputError as error:
            raise SettingError(*(f"{OWN}adapter: {problem}" for problem in error.problems)) from None

    def _paths(
        self, student: nn.Module, teacher: nn.Module, image: tuple[int, int, int]
    ) -> tuple[list[str], list[str]]:
        if self.student and self.teacher:
            return self.student, self.teacher
        own, other = stage_ends(student, image), stage_ends(teacher, image)
        common = min(len(own), len(other))
        wanted = list(range(-common, 0)) if self.ends is None else self.ends
        if not common or -min(wanted) > common:
            raise SettingError(
                f"{OWN}ends={'null' if self.ends is None else self.ends}: the student has the ends of stages "
                f"{_listed(own)}, the teacher {_listed(other)}; give {OWN}student and {OWN}teacher, lists of modules"
            )
        return [own[end] for end in wanted], [other[end] for end in wanted]


def _listed(paths: Sequence[str]) -> str:
    return f"[{', '.join(paths)}]"
