"""Pre-activation ResNets for small images whose blocks begin with a channel selection.

He et al., "Identity Mappings in Deep Residual Networks", ECCV 2016, arXiv:1603.05027; the selection is that of Liu
et al., "Learning Efficient Convolutional Networks through Network Slimming", ICCV 2017, arXiv:1708.06519. The
residual stream is never narrowed: a block's first BN has the stream's full width, and the selection behind it picks
the channels that the block reads. Where the shape changes, the shortcut is a 1x1 convolution of the block's input,
without BN.

The residual stream is what the shortcuts carry from block to block. Three families are in use; the builders at the
end of this file set their `Design`: `resnet_cs`, two 3x3 convolutions of a quarter of the stage's width;
`resnet_x4_cs`, two of full width; `preresnet`, the 1x1, 3x3, 1x1 bottleneck.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from compress.errors import OWN, SettingError
from compress.models.layers import ChannelSelection, EmptyConv, initialise_convolutions
from compress.schema.bounds import MOST_DEPTH, Bound

WIDTHS_AND_STRIDES = [(64, 1), (128, 2), (256, 2)]  # output channels, stride of the first block


@dataclass(frozen=True)
class BlockWidths:
    """Numbers of channels in one block."""

    stream: int  # of the residual stream that enters it
    entry: int  # of those, the selected ones
    inner: tuple[int, ...]  # between its convolutions
    out: int  # of the residual stream that leaves it


@dataclass(frozen=True, kw_only=True)
class Design:
    """How the families differ."""

    stem: int
    stem_relu: bool
    kernels: tuple[int, ...]  # of the convolutions of a block
    strided: int  # index of the one that has the block's stride
    shrink: int  # the stage's output channels per inner channel
    inner_relu_modules: bool  # nn.ReLU, else F.relu, which counters that hook modules (ptflops) do not see

    def widths(self, blocks: int) -> list[BlockWidths]:
        """The full widths of a network with `blocks` blocks per stage, block by block."""
        found, stream = [], self.stem
        for out, _ in WIDTHS_AND_STRIDES:
            for _ in range(blocks):
                found.append(BlockWidths(stream, stream, (out // self.shrink,) * (len(self.kernels) - 1), out))
                stream = out
        return found


def select_first(channels: int, kept: int) -> ChannelSelection:
    """A selection of the first `kept` of `channels`."""
    selection = ChannelSelection(channels)
    selection.indices = torch.arange(kept)
    return selection


class Block(nn.Module):
    """BN, selection, ReLU, convolution; then BN, ReLU, convolution once per inner width.

    (B, widths.stream, H, W) -> (B, widths.out, H / stride, W / stride).
    """

    def __init__(self, design: Design, widths: BlockWidths, stride: int, selection: bool) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(widths.stream)
        self.select: nn.Module = select_first(widths.stream, widths.entry) if selection else nn.Identity()
        self.relu = nn.ReLU()
        self.inner_relu: Callable[[Tensor], Tensor] = nn.ReLU() if design.inner_relu_modules else F.relu
        shapes = zip(design.kernels, (widths.entry, *widths.inner), (*widths.inner, widths.out), strict=True)
        for i, (kernel, c_in, c_out) in enumerate(shapes):
            if i > 0:
                self.add_module(f"bn{i + 1}", nn.BatchNorm2d(c_in))
            step = stride if i == design.strided else 1
            self.add_module(f"conv{i + 1}", nn.Conv2d(c_in, c_out, kernel, step, kernel // 2, bias=False))
        self.convs = len(design.kernels)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or widths.stream != widths.out:
            self.shortcut = nn.Conv2d(widths.stream, widths.out, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        # A branch whose convolutions are all cut to nothing is exactly zero: the last has no bias, and no BN follows.
        if all(isinstance(self.get_submodule(f"conv{i + 1}"), EmptyConv) for i in range(self.convs)):
            return self.shortcut(x)  # type: ignore[no-any-return]
        out = self.get_submodule("conv1")(self.relu(self.select(self.bn1(x))))
        for i in range(2, self.convs + 1):
            bn, conv = self.get_submodule(f"bn{i}"), self.get_submodule(f"conv{i}")
            out = conv(self.inner_relu(bn(out)))
        return out + self.shortcut(x)  # type: ignore[no-any-return]


class PreResNet(nn.Module):
    """(B, C, H, W) -> (B, classes)."""

    def __init__(
        self,
        design: Design,
        blocks: Sequence[BlockWidths],
        last: int,
        selection: bool,
        in_channels: int,
        num_classes: int,
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, design.stem, 3, 1, 1, bias=False)
        self.stem_relu: nn.Module = nn.ReLU() if design.stem_relu else nn.Identity()
        per_stage = len(blocks) // len(WIDTHS_AND_STRIDES)
        stages = []
        for s, (_, stride) in enumerate(WIDTHS_AND_STRIDES):
            in_stage = blocks[s * per_stage : (s + 1) * per_stage]
            stages.append(
                nn.Sequential(*(Block(design, w, 1 if i else stride, selection) for i, w in enumerate(in_stage)))
            )
        self.layer1, self.layer2, self.layer3 = stages
        stream = WIDTHS_AND_STRIDES[-1][0]
        self.bn = nn.BatchNorm2d(stream)
        self.select: nn.Module = select_first(stream, last) if selection else nn.Identity()
        self.relu = nn.ReLU()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(last, num_classes)
        initialise_convolutions(self)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem_relu(self.conv1(x))
        x = self.layer3(self.layer2(self.layer1(x)))
        x = self.relu(self.select(self.bn(x)))
        return self.fc(self.pool(x).flatten(1))  # type: ignore[no-any-return]


def flat(blocks: Sequence[BlockWidths], last: int) -> list[int]:
    """The list of widths that is published as `cfg`: per block `entry` and `inner`, then the classifier's inputs."""
    return [width for block in blocks for width in (block.entry, *block.inner)] + [last]


def narrowed(full: Sequence[BlockWidths], cfg: Sequence[int], selection: bool) -> tuple[list[BlockWidths], int]:
    """The blocks at the widths of a `cfg`, and the classifier's inputs, its last entry. `full` are the full widths.

    Raises:
        SettingError: `cfg` has another length, or a width is out of bounds, or needs a selection that is off.
    """
    bounds = flat(full, WIDTHS_AND_STRIDES[-1][0])
    written = f"{OWN}cfg=[{','.join(map(str, cfg))}]"
    if len(cfg) != len(bounds):
        raise SettingError(f"{written}: must have {len(bounds)} widths, has {len(cfg)}")
    for i, (width, most) in enumerate(zip(cfg, bounds, strict=True)):
        if type(width) is not int or not 1 <= width <= most:
            raise SettingError(f"{written}: entry {i} is {width}; must be a whole number in [1, {most}]")
    per_block = 1 + len(full[0].inner)
    parts = [cfg[i : i + per_block] for i in range(0, len(cfg) - 1, per_block)]
    blocks = [BlockWidths(w.stream, part[0], tuple(part[1:]), w.out) for w, part in zip(full, parts, strict=True)]
    whole = cfg[-1] == bounds[-1] and all(block.entry == block.stream for block in blocks)
    if not selection and not whole:
        raise SettingError(f"{written}: narrows what a block reads, which needs {OWN}selection=true")
    return blocks, cfg[-1]


def _build(
    design: Design, blocks: int, selection: bool, cfg: list[int] | None, in_channels: int, num_classes: int
) -> PreResNet:
    full = design.widths(blocks)
    chosen, last = narrowed(full, flat(full, WIDTHS_AND_STRIDES[-1][0]) if cfg is None else cfg, selection)
    return PreResNet(design, chosen, last, selection, in_channels, num_classes)


def _blocks(depth: int, period: int, examples: str) -> int:
    """Blocks per stage; a stage of one block adds `period` layers."""
    if (depth - 2) % period:
        raise SettingError(f"{OWN}depth={depth}: must be {period}n + 2, such as {examples}")
    return (depth - 2) // period


def resnet_cs(
    *,
    depth: Annotated[int, Bound(ge=8, most=MOST_DEPTH)],
    selection: bool,
    cfg: list[int] | None,
    in_channels: int,
    num_classes: int,
) -> PreResNet:
    """
    Raises:
        SettingError: the depth is not 6n + 2, or `cfg` does not fit the network.
    """
    design = Design(stem=16, stem_relu=True, kernels=(3, 3), strided=0, shrink=4, inner_relu_modules=True)
    return _build(design, _blocks(depth, 6, "20, 32, 44, 56, 110"), selection, cfg, in_channels, num_classes)


def resnet_x4_cs(
    *,
    depth: Annotated[int, Bound(ge=8, most=MOST_DEPTH)],
    selection: bool,
    cfg: list[int] | None,
    in_channels: int,
    num_classes: int,
) -> PreResNet:
    """
    Raises:
        SettingError: the depth is not 6n + 2, or `cfg` does not fit the network.
    """
    design = Design(stem=32, stem_relu=False, kernels=(3, 3), strided=0, shrink=1, inner_relu_modules=False)
    return _build(design, _blocks(depth, 6, "8, 14, 20, 32"), selection, cfg, in_channels, num_classes)


def preresnet(
    *,
    depth: Annotated[int, Bound(ge=11, most=MOST_DEPTH)],
    selection: bool,
    cfg: list[int] | None,
    in_channels: int,
    num_classes: int,
) -> PreResNet:
    """
    Raises:
        SettingError: the depth is not 9n + 2, or `cfg` does not fit the network.
    """
    design = Design(stem=16, stem_relu=False, kernels=(1, 3, 1), strided=1, shrink=4, inner_relu_modules=True)
    return _build(design, _blocks(depth, 9, "56, 83, 164"), selection, cfg, in_channels, num_classes)
