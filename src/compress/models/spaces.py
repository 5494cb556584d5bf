"""Search spaces of MetaPruning: networks as tables of convolutions, and genes, which choose their widths.

Liu et al., "MetaPruning: Meta Learning for Automatic Neural Network Channel Pruning", ICCV 2019, arXiv:1903.10258.
The networks: Sandler et al., "MobileNetV2: Inverted Residuals and Linear Bottlenecks", CVPR 2018, arXiv:1801.04381,
about 1.4 times as wide as published; He et al., "Deep Residual Learning for Image Recognition", CVPR 2016,
arXiv:1512.03385, with the stride on the 3x3 convolution.

A gene has one entry per width that can be chosen: output channels of the stem and of every stage (the blocks of a
stage share them, since their outputs are added), then the inner channels of every block. An entry is one of 31
options, from a tenth of the full width to all of it, or -1 for the last option; the entry that the classifier reads
is always full.

`resnet50_space` and `mobilenetv2_space` are the tables that everything else is derived from: the convolutions in
order, and which entries of a gene are the input and output widths of each.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from compress.errors import OWN, SettingError

OPTIONS = 31
FULL = -1


# -- tables ----------------------------------------------------------------------------------------------------


class NetworkStage(NamedTuple):
    """Blocks of one output width; one row of the architecture's table in its paper."""

    width: int  # output channels
    blocks: int
    stride: int  # of the first block
    expansion: int = 1  # of MobileNetV2: inner channels of a block per input or output channel


RESNET50_STEM = 64
RESNET50 = (NetworkStage(256, 3, 1), NetworkStage(512, 4, 2), NetworkStage(1024, 6, 2), NetworkStage(2048, 3, 2))
RESNET50_SHRINK = 4  # output channels of a block per inner channel
MOBILENETV2_STEM, MOBILENETV2_LAST = 44, 1280
MOBILENETV2 = (
    NetworkStage(22, 1, 1, 1), NetworkStage(33, 2, 2, 6), NetworkStage(44, 3, 2, 6), NetworkStage(88, 4, 2, 6),
    NetworkStage(132, 3, 1, 6), NetworkStage(224, 3, 2, 6), NetworkStage(448, 1, 1, 6),
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Conv:
    """A convolution without bias, followed by BN."""

    name: str  # within its block
    source: int | None  # index in the gene of its input width; None: the image's channels
    out: int  # index in the gene of its output width
    kernel: int = 1
    stride: int = 1
    padding: int = 0
    depthwise: bool = False


@dataclass(frozen=True)
class Block:
    """A bottleneck."""

    stage: int  # from 1
    index: int  # in the stage, from 0
    convs: tuple[Conv, ...]  # in order
    down: Conv | None = None  # on its shortcut, where the shape changes


@dataclass(frozen=True, kw_only=True)
class Space:
    """A network whose widths can be chosen."""

    outs: tuple[int, ...]  # full widths of the first entries of a gene: stem, stages, last convolution
    mids: tuple[int, ...]  # full widths of the other entries: the inner channels of every block
    full: int  # index of the entry that is never narrowed: the classifier's input
    stem: Conv
    blocks: tuple[Block, ...]
    last: Conv | None = None
    pooled: bool = False  # 3x3 max pooling with stride 2 behind the stem

    @property
    def bases(self) -> tuple[int, ...]:
        """Full width of every entry of a gene."""
        return (*self.outs, *self.mids)

    def convs(self) -> Iterator[tuple[str, Conv]]:
        """Every convolution, in order, with its name in the network: stem, stage1.0.conv1, ..., last."""
        yield self.stem.name, self.stem
        for block in self.blocks:
            for conv in (*block.convs, *([block.down] if block.down else [])):
                yield f"stage{block.stage}.{block.index}.{conv.name}", conv
        if self.last:
            yield self.last.name, self.last


def _blocks(stages: Sequence[NetworkStage]) -> Iterator[tuple[int, int, int, int]]:
    """Of every block: stage (from 1, its outputs' index in a gene), index in it, its inputs' index in a gene,
    stride."""
    for s, stage in enumerate(stages, 1):
        for index in range(stage.blocks):
            yield s, index, s if index else s - 1, 1 if index else stage.stride


def resnet50_space(stem_padding: int) -> Space:
    first_mid = 1 + len(RESNET50)
    blocks, mids = [], []
    for i, (s, index, source, stride) in enumerate(_blocks(RESNET50)):
        mid = first_mid + i
        convs = (
            Conv(name="conv1", source=source, out=mid),
            Conv(name="conv2", source=mid, out=mid, kernel=3, stride=stride, padding=1),
            Conv(name="conv3", source=mid, out=s),
        )
        down = None if index else Conv(name="down", source=source, out=s, stride=stride)
        blocks.append(Block(s, index, convs, down))
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
    """`paper`: inner channels are `expansion` times a block's input channels. `seed`: times its output channels, and
    the last convolution has stride 2."""
    outs = (MOBILENETV2_STEM, *(stage.width for stage in MOBILENETV2), MOBILENETV2_LAST)
    blocks, mids = [], []
    for i, (s, index, source, stride) in enumerate(_blocks(MOBILENETV2)):
        mid = len(outs) + i
        convs = (
            Conv(name="expand", source=source, out=mid),
            Conv(name="dw", source=mid, out=mid, kernel=3, stride=stride, padding=1, depthwise=True),
            Conv(name="project", source=mid, out=s),
        )
        blocks.append(Block(s, index, convs))
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


class GeneWidths(NamedTuple):
    """Numbers of channels that a gene chooses, in its order."""

    outs: tuple[int, ...]
    mids: tuple[int, ...]


def ratio(option: int) -> float:
    """The share of the full width that an option is: 0.10, 0.13, ..., 1.00; -1 is the last one."""
    return (10 + 3 * (option % OPTIONS)) / 100


def decode(space: Space, gene: Sequence[int]) -> GeneWidths:
    """A complete gene of `space` as numbers of channels, rounded down."""
    channels = [int(base * ratio(option)) for base, option in zip(space.bases, gene, strict=True)]
    return GeneWidths(tuple(channels[: len(space.outs)]), tuple(channels[len(space.outs) :]))


def resnet50_gene(upstream: Sequence[int]) -> list[int]:
    """From the 20 entries that the authors' code uses, which leave out the full one."""
    return [*upstream[:4], FULL, *upstream[4:]]


def mobilenetv2_gene(upstream: Sequence[int]) -> list[int]:
    """From the 35 entries that the authors' code uses: outputs of the stem and of every block, then the inner widths.

    Raises:
        SettingError: the outputs of one stage's blocks differ.
    """
    outs, mids = upstream[:18], upstream[18:]
    by_stage: dict[int, list[int]] = {}
    for entry, (s, *_) in zip(outs[1:], _blocks(MOBILENETV2), strict=True):
        by_stage.setdefault(s, []).append(entry)
    for s, entries in by_stage.items():
        if len(set(entries)) > 1:
            raise SettingError(f"{written(upstream)}: stage {s} has outputs {entries}; its blocks must share one")
    return [outs[0], *(entries[0] for entries in by_stage.values()), FULL, *mids]


def written(gene: Sequence[int]) -> str:
    return f"{OWN}gene=[{','.join(map(str, gene))}]"


@dataclass(frozen=True)
class GeneForm:
    """How genes of one network are written: in the order of its table, or as the authors' code has them."""

    space: Space
    other: int  # entries of the authors' form
    convert: Callable[[Sequence[int]], list[int]]  # from the authors' form

    def checked(self, gene: Sequence[int] | None) -> list[int]:
        """A complete gene of the network, in the order of its table; None: of the full network.

        Raises:
            SettingError: another length, an entry that is no option, or a classifier's input that is not full.
        """
        return checked_gene(self.space, gene, self.convert, self.other)


def checked_gene(
    space: Space, gene: Sequence[int] | None, convert: Callable[[Sequence[int]], list[int]], other: int
) -> list[int]:
    """A valid gene of `space`. `gene` is one, or the authors' form (of `other` entries, which `convert` takes), or
    None for the full network.

    Raises:
        SettingError: another length, an entry that is no option, or a classifier's input that is not full.
    """
    size = len(space.bases)
    if gene is None:
        return [FULL] * size
    if len(gene) not in (size, other) or not all(type(i) is int and -1 <= i < OPTIONS for i in gene):
        raise SettingError(
            f"{written(gene)}: must be {size} whole numbers in [-1, {OPTIONS - 1}] "
            f"(or {other} as the authors' code has them); leave off a trailing top-1 error"
        )
    found = list(gene) if len(gene) == size else convert(gene)
    if ratio(found[space.full]) != 1:
        raise SettingError(
            f"{written(gene)}: entry {space.full} must be -1, since the classifier reads all of its inputs"
        )
    return found
