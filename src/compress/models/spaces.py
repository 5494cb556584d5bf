"""Networks as tables whose widths are to be chosen, and the genes that choose them.

Liu et al., "MetaPruning: Meta Learning for Automatic Neural Network Channel Pruning", ICCV 2019, arXiv:1903.10258.
The networks: Sandler et al., "MobileNetV2: Inverted Residuals and Linear Bottlenecks", CVPR 2018, arXiv:1801.04381,
about 1.4 times as wide as published; He et al., "Deep Residual Learning for Image Recognition", CVPR 2016,
arXiv:1512.03385, with the stride on the 3x3 convolution.

A gene has one entry per width that may be chosen: the stem's and every stage's outputs (shared by the blocks of the
stage, as its additions want), then the middle of every block. An entry is one of 31 options, a tenth of the full
width to all of it; -1 is the last option, and what the classifier reads stays full.

`resnet50_space` and `mobilenetv2_space` are the tables that all the rest follows from: which convolution stands
where, and which entries of a gene are its input and output widths.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from compress.errors import InputError

OPTIONS = 31
FULL = -1


# -- tables ----------------------------------------------------------------------------------------------------


class Stage(NamedTuple):
    width: int
    blocks: int
    stride: int  # of the first block
    expansion: int = 1  # of MobileNetV2: channels of a middle per output or input channel


RESNET50_STEM = 64
RESNET50 = (Stage(256, 3, 1), Stage(512, 4, 2), Stage(1024, 6, 2), Stage(2048, 3, 2))
RESNET50_SHRINK = 4  # outputs of a stage per channel of its middles
MOBILENETV2_STEM, MOBILENETV2_LAST = 44, 1280
MOBILENETV2 = (
    Stage(22, 1, 1, 1), Stage(33, 2, 2, 6), Stage(44, 3, 2, 6), Stage(88, 4, 2, 6), Stage(132, 3, 1, 6),
    Stage(224, 3, 2, 6), Stage(448, 1, 1, 6),
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Conv:
    """A convolution without bias and the BN behind it."""

    name: str  # its role in its block
    source: int | None  # the gene's entry of its inputs; None: the image
    out: int  # the gene's entry of its outputs
    kernel: int = 1
    stride: int = 1
    padding: int = 0
    depthwise: bool = False


@dataclass(frozen=True)
class Block:
    """A bottleneck: its convolutions in order, and the one on its shortcut if it has one."""

    stage: int
    place: int  # in the stage
    convs: tuple[Conv, ...]
    down: Conv | None = None


@dataclass(frozen=True, kw_only=True)
class Space:
    """A network whose widths are to be chosen."""

    outs: tuple[int, ...]  # full widths of the first entries of a gene: stem, stages, last convolution
    mids: tuple[int, ...]  # of the others: the middle of every block
    full: int  # the entry that is never narrowed: what the classifier reads
    stem: Conv
    blocks: tuple[Block, ...]
    last: Conv | None = None
    pooled: bool = False  # 3x3 max-pooling of stride 2 behind the stem

    @property
    def bases(self) -> tuple[int, ...]:
        """Full width of every entry of a gene."""
        return (*self.outs, *self.mids)

    def convs(self) -> Iterator[tuple[str, Conv]]:
        """Every convolution, in order, under the name of its place: stem, stage1.0.conv1, ..., last."""
        yield self.stem.name, self.stem
        for block in self.blocks:
            for conv in (*block.convs, *([block.down] if block.down else [])):
                yield f"stage{block.stage}.{block.place}.{conv.name}", conv
        if self.last:
            yield self.last.name, self.last


def _places(stages: Sequence[Stage]) -> Iterator[tuple[int, int, int, int]]:
    """Of every block: its stage (from 1, as in a gene), its place there, the entry of its inputs, its stride."""
    for s, stage in enumerate(stages, 1):
        for place in range(stage.blocks):
            yield s, place, s if place else s - 1, 1 if place else stage.stride


def resnet50_space(stem_padding: int) -> Space:
    first_mid = 1 + len(RESNET50)
    blocks, mids = [], []
    for i, (s, place, source, stride) in enumerate(_places(RESNET50)):
        mid = first_mid + i
        convs = (
            Conv(name="conv1", source=source, out=mid),
            Conv(name="conv2", source=mid, out=mid, kernel=3, stride=stride, padding=1),
            Conv(name="conv3", source=mid, out=s),
        )
        down = None if place else Conv(name="down", source=source, out=s, stride=stride)
        blocks.append(Block(s, place, convs, down))
        mids.append(RESNET50[s - 1].width // RESNET50_SHRINK)
    return Space(
        outs=(RESNET50_STEM, *(stage.width for stage in RESNET50)),
        mids=tuple(mids),
        full=len(RESNET50),
        stem=Conv(name="stem", source=None, out=0, kernel=7, stride=2, padding=stem_padding),
        blocks=tuple(blocks),
        pooled=True,
    )


def mobilenetv2_space(variant: Literal["paper", "seed"]) -> Space:
    """`paper` widens a block by its inputs; `seed` by its stage's outputs, and ends on half the resolution."""
    outs = (MOBILENETV2_STEM, *(stage.width for stage in MOBILENETV2), MOBILENETV2_LAST)
    blocks, mids = [], []
    for i, (s, place, source, stride) in enumerate(_places(MOBILENETV2)):
        mid = len(outs) + i
        convs = (
            Conv(name="expand", source=source, out=mid),
            Conv(name="dw", source=mid, out=mid, kernel=3, stride=stride, padding=1, depthwise=True),
            Conv(name="project", source=mid, out=s),
        )
        blocks.append(Block(s, place, convs))
        mids.append(MOBILENETV2[s - 1].expansion * outs[s if variant == "seed" else source])
    last = len(outs) - 1
    return Space(
        outs=outs,
        mids=tuple(mids),
        full=last,
        stem=Conv(name="stem", source=None, out=0, kernel=3, stride=2, padding=1),
        blocks=tuple(blocks),
        last=Conv(name="last", source=last - 1, out=last, stride=2 if variant == "seed" else 1),
    )


# -- genes -----------------------------------------------------------------------------------------------------


class Widths(NamedTuple):
    """Channels, in the order of a gene."""

    outs: tuple[int, ...]
    mids: tuple[int, ...]


def ratio(option: int) -> float:
    """Share of the full width: 0.10, 0.13, ..., 1.00; -1 is the last option."""
    return (10 + 3 * (option % OPTIONS)) / 100


def decode(space: Space, gene: Sequence[int]) -> Widths:
    channels = [int(base * ratio(option)) for base, option in zip(space.bases, gene, strict=True)]
    return Widths(tuple(channels[: len(space.outs)]), tuple(channels[len(space.outs) :]))


def resnet50_gene(upstream: Sequence[int]) -> list[int]:
    """From the 20 entries of the authors' own code, which leave the full one out."""
    return [*upstream[:4], FULL, *upstream[4:]]


def mobilenetv2_gene(upstream: Sequence[int]) -> list[int]:
    """From the 35 entries of the authors' own code: outputs of the stem and of every block, then every middle.

    Raises:
        InputError: the outputs of one stage's blocks differ.
    """
    outs, mids = upstream[:18], upstream[18:]
    by_stage: dict[int, list[int]] = {}
    for entry, (s, *_) in zip(outs[1:], _places(MOBILENETV2), strict=True):
        by_stage.setdefault(s, []).append(entry)
    for s, entries in by_stage.items():
        if len(set(entries)) > 1:
            raise InputError(f"{written(upstream)}: stage {s} has outputs {entries}; its blocks must share one")
    return [outs[0], *(entries[0] for entries in by_stage.values()), FULL, *mids]


def written(gene: Sequence[int]) -> str:
    return f"model.gene=[{','.join(map(str, gene))}]"


def checked_gene(
    space: Space, gene: Sequence[int] | None, convert: Callable[[Sequence[int]], list[int]], other: int
) -> list[int]:
    """A gene of this space, from one of it, one of the authors' own code (`other` entries), or none: all full."""
    size = len(space.bases)
    if gene is None:
        return [FULL] * size
    if len(gene) not in (size, other) or not all(type(i) is int and -1 <= i < OPTIONS for i in gene):
        raise InputError(
            f"{written(gene)}: must be {size} whole numbers in [-1, {OPTIONS - 1}] "
            f"(or {other} as the authors' code has them); leave off a trailing top-1 error"
        )
    found = list(gene) if len(gene) == size else convert(gene)
    if ratio(found[space.full]) != 1:
        raise InputError(
            f"{written(gene)}: entry {space.full} must be -1, since the classifier reads all of its inputs"
        )
    return found
