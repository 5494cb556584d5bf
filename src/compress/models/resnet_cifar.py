"""ResNets for small images, depth 6n + 2.

He et al., "Deep Residual Learning for Image Recognition", CVPR 2016, arXiv:1512.03385, section 4.2. Two shortcuts
where the shape changes: `pad` is the paper's option A (every second pixel, zero channels on both sides; no weights,
state dicts as in the widely used public checkpoints), `conv` a 1x1 convolution without BN. With `expansion` 4 the
residual stream is four times as wide as the channels between a block's two 3x3 convolutions, as in channel-pruning
studies ("resnet20(w)").
"""

from typing import Annotated, Literal

from torch import Tensor, nn
from torch.nn import functional as F

from compress.errors import OWN, SettingError
from compress.models.layers import ChannelPad, initialise_convolutions
from compress.schema.bounds import MOST_DEPTH, Bound, Width

Shortcut = Literal["conv", "pad"]


class EverySecondPixel(nn.Module):
    """(B, C, H, W) -> (B, C, ceil(H / 2), ceil(W / 2))."""

    def forward(self, x: Tensor) -> Tensor:
        return x[:, :, ::2, ::2]


def make_shortcut(c_in: int, c_out: int, stride: int, kind: Shortcut) -> nn.Module:
    if stride == 1 and c_in == c_out:
        return nn.Identity()
    if kind == "conv":
        return nn.Conv2d(c_in, c_out, 1, stride, bias=False)
    before = (c_out - c_in) // 2
    pad = ChannelPad(before, c_out - c_in - before)
    return nn.Sequential(EverySecondPixel(), pad) if stride == 2 else pad


class Block(nn.Module):
    def __init__(self, c_in: int, inner: int, c_out: int, stride: int, shortcut: Shortcut) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(c_in, inner, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(inner)
        self.conv2 = nn.Conv2d(inner, c_out, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(c_out)
        self.shortcut = make_shortcut(c_in, c_out, stride, shortcut)

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(out)) + self.shortcut(x))


class ResNet(nn.Module):
    """Three stages of `blocks` blocks: (B, C, H, W) -> (B, classes).

    The inner channels of the stages are `width`, 2 * `width` and 4 * `width`, their outputs `expansion` times that.
    """

    def __init__(
        self, blocks: int, width: int, expansion: int, shortcut: Shortcut, in_channels: int, num_classes: int
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, width, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        outs = [width * expansion, 2 * width * expansion, 4 * width * expansion]
        self.layer1 = self._stage(width, width, outs[0], blocks, 1, shortcut)
        self.layer2 = self._stage(outs[0], 2 * width, outs[1], blocks, 2, shortcut)
        self.layer3 = self._stage(outs[1], 4 * width, outs[2], blocks, 2, shortcut)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.linear = nn.Linear(outs[2], num_classes)
        initialise_convolutions(self)

    @staticmethod
    def _stage(c_in: int, inner: int, c_out: int, blocks: int, stride: int, shortcut: Shortcut) -> nn.Sequential:
        first = Block(c_in, inner, c_out, stride, shortcut)
        return nn.Sequential(first, *(Block(c_out, inner, c_out, 1, shortcut) for _ in range(blocks - 1)))

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.linear(self.pool(x).flatten(1))  # type: ignore[no-any-return]


def resnet(
    *,
    depth: Annotated[int, Bound(ge=8, most=MOST_DEPTH)],
    width: Width,
    expansion: Annotated[int, Bound(ge=1, most=64)] = 1,
    shortcut: Shortcut,
    in_channels: int,
    num_classes: int,
) -> ResNet:
    """
    Raises:
        SettingError: the depth is not 6n + 2.
    """
    if (depth - 2) % 6:
        raise SettingError(f"{OWN}depth={depth}: must be 6n + 2, such as 20, 32, 44, 56, 110")
    return ResNet((depth - 2) // 6, width, expansion, shortcut, in_channels, num_classes)
