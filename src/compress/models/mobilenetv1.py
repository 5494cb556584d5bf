"""MobileNetV1.

Howard et al., "MobileNets: Efficient Convolutional Neural Networks for Mobile Vision Applications", 2017,
arXiv:1704.04861, table 1: 568.7 M multiply-adds at 224 px. The same strides are used at 32 px (11.6 M).
"""

from typing import Annotated, Literal

from torch import Tensor, nn

from compress.models.layers import initialise_convolutions
from compress.schema.bounds import Bound

# (output channels, stride) of the thirteen depthwise-separable blocks
BLOCKS = [(64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *[(512, 1)] * 5, (1024, 2), (1024, 1)]


def conv_bn(c_in: int, c_out: int, kernel: int, stride: int, groups: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(c_in, c_out, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(c_out), nn.ReLU(inplace=True))


class MobileNetV1(nn.Module):
    """(B, C, H, W) -> (B, classes)."""

    def __init__(self, width: float, stem_stride: int, in_channels: int, num_classes: int) -> None:
        super().__init__()
        c_in = max(8, int(32 * width))
        blocks: list[nn.Module] = [conv_bn(in_channels, c_in, 3, stem_stride)]
        for channels, stride in BLOCKS:
            c_out = max(8, int(channels * width))
            blocks.append(nn.Sequential(conv_bn(c_in, c_in, 3, stride, groups=c_in), conv_bn(c_in, c_out, 1, 1)))
            c_in = c_out
        self.features = nn.Sequential(*blocks)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(c_in, num_classes)
        initialise_convolutions(self)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.pool(self.features(x)).flatten(1))  # type: ignore[no-any-return]


def mobilenetv1(
    *, width: Annotated[float, Bound(gt=0, most=64)], stem_stride: Literal[1, 2], in_channels: int, num_classes: int
) -> MobileNetV1:
    return MobileNetV1(width, stem_stride, in_channels, num_classes)
