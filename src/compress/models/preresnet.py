"""Pre-activation ResNets for small images whose blocks begin with a channel selection.

He et al., "Identity Mappings in Deep Residual Networks", ECCV 2016, arXiv:1603.05027; the selection is that of Liu
et al., "Learning Efficient Convolutional Networks through Network Slimming", ICCV 2017, arXiv:1708.06519. The
residual stream is never narrowed: a block's first BN has the stream's full width, and the block reads some of those
channels through the selection behind it. Where the shape changes, a bare 1x1 convolution of the raw input.

Three families are in use, and what tells them apart stands in the builders at the end: `resnet_cs`, two 3x3
convolutions of a quarter of the stage's width; `resnet_x4_cs`, two of full width; `preresnet`, the 1x1, 3x3, 1x1
bottleneck.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from compress.errors import InputError
from compress.models.layers import ChannelSelection, Nothing, initialise_convolutions
from compress.schema.bounds import MOST_DEPTH, Bound

STAGES = [(64, 1), (128, 2), (256, 2)]  # output channels, stride of the first block


@dataclass(frozen=True)
class Widths:
    """Channels of one block: of the stream before it, those it reads, of its inner BNs, of the stream after it."""

    stream: int
    entry: int
    inner: tuple[int, ...]
    out: int


@dataclass(frozen=True, kw_only=True)
class Design:
    """What the families differ in."""

    stem: int
    stem_relu: bool
    kernels: tuple[int, ...]  # of the convolutions of a block
    strided: int  # which of them has the block's stride
    shrink: int  # stage outputs per inner channel
    inner_relu_modules: bool  # else functions, which counters that hook modules do not see

    def widths(self, blocks: int) -> list[Widths]:
        """Of all blocks at full width."""
        found, stream = [], self.stem
        for out, _ in STAGES:
            for _ in range(blocks):
                found.append(Widths(stream, stream, (out // self.shrink,) * (len(self.kernels) - 1), out))
                stream = out
        return found


def select_first(channels: int, kept: int) -> ChannelSelection:
    selection = ChannelSelection(channels)
    selection.indices = torch.arange(kept)
    return selection


class Block(nn.Module):
    """BN, selection, ReLU, convolution; then BN, ReLU, convolution as often as there are inner widths."""

    def __init__(self, design: Design, widths: Widths, stride: int, selection: bool) -> None:
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
        # A branch that surgery has emptied is zero exactly: its last convolution has no bias, and no BN follows.
        if all(isinstance(self.get_submodule(f"conv{i + 1}"), Nothing) for i in range(self.convs)):
            return self.shortcut(x)  # type: ignore[no-any-return]
        out = self.get_submodule("conv1")(self.relu(self.select(self.bn1(x))))
        for i in range(2, self.convs + 1):
            bn, conv = self.get_submodule(f"bn{i}"), self.get_submodule(f"conv{i}")
            out = conv(self.inner_relu(bn(out)))
        return out + self.shortcut(x)  # type: ignore[no-any-return]


class PreResNet(nn.Module):
    """(B, C, H, W) -> (B, classes)."""

    def __init__(
        self, design: Design, blocks: Sequence[Widths], last: int, selection: bool, in_channels: int, num_classes: int
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, design.stem, 3, 1, 1, bias=False)
        self.stem_relu: nn.Module = nn.ReLU() if design.stem_relu else nn.Identity()
        per_stage = len(blocks) // len(STAGES)
        stages = []
        for s, (_, stride) in enumerate(STAGES):
            mine = blocks[s * per_stage : (s + 1) * per_stage]
            stages.append(
                nn.Sequential(*(Block(design, w, 1 if i else stride, selection) for i, w in enumerate(mine)))
            )
        self.layer1, self.layer2, self.layer3 = stages
        stream = STAGES[-1][0]
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


def flat(blocks: Sequence[Widths], last: int) -> list[int]:
    """The published form of the widths: what each block reads and its inner ones, then what the classifier reads."""
    return [width for block in blocks for width in (block.entry, *block.inner)] + [last]


def narrowed(full: Sequence[Widths], cfg: Sequence[int], selection: bool) -> tuple[list[Widths], int]:
    """The blocks at the widths of a published list, and its last number.

    Raises:
        InputError: the list has another length, or a width is out of its bounds.
    """
    bounds = flat(full, STAGES[-1][0])
    written = f"model.cfg=[{','.join(map(str, cfg))}]"
    if len(cfg) != len(bounds):
        raise InputError(f"{written}: must have {len(bounds)} widths, has {len(cfg)}")
    for i, (width, most) in enumerate(zip(cfg, bounds, strict=True)):
        if type(width) is not int or not 1 <= width <= most:
            raise InputError(f"{written}: entry {i} is {width}; must be a whole number in [1, {most}]")
    per_block = 1 + len(full[0].inner)
    parts = [cfg[i : i + per_block] for i in range(0, len(cfg) - 1, per_block)]
    blocks = [Widths(w.stream, part[0], tuple(part[1:]), w.out) for w, part in zip(full, parts, strict=True)]
    whole = cfg[-1] == bounds[-1] and all(block.entry == block.stream for block in blocks)
    if not selection and not whole:
        raise InputError(f"{written}: narrows what a block reads, which needs model.selection=true")
    return blocks, cfg[-1]


def _build(
    design: Design, blocks: int, selection: bool, cfg: list[int] | None, in_channels: int, num_classes: int
) -> PreResNet:
    full = design.widths(blocks)
    chosen, last = narrowed(full, flat(full, STAGES[-1][0]) if cfg is None else cfg, selection)
    return PreResNet(design, chosen, last, selection, in_channels, num_classes)


def _blocks(depth: int, period: int, examples: str) -> int:
    if (depth - 2) % period:
        raise InputError(f"model.depth={depth}: must be {period}n + 2, such as {examples}")
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
        InputError: the depth is not 6n + 2, or `cfg` does not fit the network.
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
        InputError: the depth is not 6n + 2, or `cfg` does not fit the network.
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
        InputError: the depth is not 9n + 2, or `cfg` does not fit the network.
    """
    design = Design(stem=16, stem_relu=False, kernels=(1, 3, 1), strided=1, shrink=4, inner_relu_modules=True)
    return _build(design, _blocks(depth, 9, "56, 83, 164"), selection, cfg, in_channels, num_classes)
