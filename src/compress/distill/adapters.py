"""Modules that bring a student's feature maps to the shape of its teacher's: trained beside the student, saved for
resuming, dropped in the end.

A builder gets the shapes (C, H, W) of the student's maps and of the teacher's, pair by pair from the shallowest to
the deepest, as they are in the network that is trained. The module takes the list of the student's maps (B, C, H, W)
and returns the list of maps for the loss of the same name.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from compress.errors import InputError

MOST_FUSED = 512  # channels between the levels of ReviewKD's fusion, at most


class Shape(NamedTuple):
    """Of one image's map."""

    channels: int
    height: int
    width: int

    @property
    def size(self) -> tuple[int, int]:
        return self.height, self.width

    def __str__(self) -> str:
        return f"{self.channels} x {self.height} x {self.width}"


Shapes = Sequence[Shape]


def hint(student: Shapes, teacher: Shapes) -> nn.Module:
    """One regressor for each pair: convolution, batch norm, ReLU.

    The convolution is that of Tian et al., "Contrastive Representation Distillation", ICLR 2020, arXiv:1910.10699:
    1x1 with a bias where the maps have one size, 3x3 with stride 2 where the student's is twice as large, 4x4
    transposed where it is half.

    Raises:
        InputError: two maps whose sizes differ in another way.
    """
    return _Each([_regressor(s, t) for s, t in zip(student, teacher, strict=True)])


class _Each(nn.ModuleList):
    """One module for each map."""

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        return [module(one) for module, one in zip(self, maps, strict=True)]


def _regressor(student: Shape, teacher: Shape) -> nn.Sequential:
    ours, theirs = student.size, teacher.size
    conv: nn.Module
    if ours == theirs:
        conv = nn.Conv2d(student.channels, teacher.channels, 1)
    elif tuple((side + 1) // 2 for side in ours) == theirs:
        conv = nn.Conv2d(student.channels, teacher.channels, 3, stride=2, padding=1)
    elif tuple(2 * side for side in ours) == theirs:
        conv = nn.ConvTranspose2d(student.channels, teacher.channels, 4, stride=2, padding=1)
    else:
        raise InputError(
            f"brings maps to the same, twice or half the height and width, not {student} to the teacher's {teacher}"
        )
    return nn.Sequential(conv, nn.BatchNorm2d(teacher.channels), nn.ReLU())


def reviewkd(student: Shapes, teacher: Shapes) -> nn.Module:
    """The review of a student's maps from the deepest to the shallowest; see `Review`."""
    return Review(student, teacher)


class Review(nn.Module):
    """Chen et al., "Distilling Knowledge via Knowledge Review", CVPR 2021, arXiv:2104.09044, section 3.2.

    The levels are the maps and, deepest, the means over the pixels of the last one, so one more than there are maps.
    Each is fused with what came of the deeper levels and gives one map of the teacher's shape.
    """

    def __init__(self, student: Shapes, teacher: Shapes) -> None:
        super().__init__()
        student, teacher = ([*shapes, Shape(shapes[-1].channels, 1, 1)] for shapes in (student, teacher))
        fused = min(MOST_FUSED, student[-1].channels)
        self.levels = nn.ModuleList(
            Level(s, t, fused, is_deepest=number == len(student))
            for number, (s, t) in enumerate(zip(student, teacher, strict=True), 1)
        )

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        found: list[Tensor] = []
        deeper = None
        inputs = [*maps, F.adaptive_avg_pool2d(maps[-1], 1)]
        for level, one in zip(reversed(self.levels), reversed(inputs), strict=True):
            answer, deeper = level(one, deeper)
            found.append(answer)
        return found[::-1]


class Level(nn.Module):
    """Fuses the student's map with that of the deeper levels, weighted pixel by pixel, and brings it to the teacher's
    shape (the "attention based fusion" of the paper)."""

    def __init__(self, student: Shape, teacher: Shape, fused: int, is_deepest: bool) -> None:
        super().__init__()
        self.size = teacher.size
        self.enter = _conv_bn(student.channels, fused, 1)
        self.gate = None if is_deepest else nn.Conv2d(2 * fused, 2, 1)
        self.leave = _conv_bn(fused, teacher.channels, 3)

    def forward(self, own: Tensor, deeper: Tensor | None) -> tuple[Tensor, Tensor]:
        """For the loss (B, teacher's C, H, W), and for the next level (B, fused, H, W)."""
        own = self.enter(own)
        if self.gate is not None:
            assert deeper is not None
            deeper = F.interpolate(deeper, own.shape[2:], mode="nearest")
            gates = self.gate(torch.cat([own, deeper], 1)).sigmoid()
            own = own * gates[:, :1] + deeper * gates[:, 1:]
        if own.shape[2:] != self.size:
            own = F.interpolate(own, self.size, mode="nearest")
        return self.leave(own), own


def _conv_bn(c_in: int, c_out: int, kernel: int) -> nn.Sequential:
    conv = nn.Conv2d(c_in, c_out, kernel, padding=kernel // 2, bias=False)
    nn.init.kaiming_uniform_(conv.weight, a=1)  # as published
    return nn.Sequential(conv, nn.BatchNorm2d(c_out))
