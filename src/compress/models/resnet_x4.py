"""ResNets for small images with four times the channels, depth 6n + 2: resnet8x4, resnet32x4.

Tian et al., "Contrastive Representation Distillation", ICLR 2020, arXiv:1910.10699, appendix: the teachers and
students of the distillation literature on CIFAR-100. The first block of every stage has a projection shortcut (1x1
convolution and BN); parameters are named as in the checkpoints that its authors published.
"""

from typing import Annotated

from torch import Tensor, nn
from torch.nn import functional as F

from compress.errors import OWN, SettingError
from compress.models.layers import initialise_convolutions
from compress.schema.bounds import MOST_DEPTH, Bound

STEM = 32
WIDTHS_AND_STRIDES = [(64, 1), (128, 2), (256, 2)]  # output channels, stride of the first block


class Block(nn.Module):
    def __init__(self, c_in: int, c_out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(c_in, c_out, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(c_out)
        self.conv2 = nn.Conv2d(c_out, c_out, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(c_out)
        self.downsample: nn.Module = nn.Identity()
        if c_in != c_out:
            self.downsample = nn.Sequential(nn.Conv2d(c_in, c_out, 1, stride, bias=False), nn.BatchNorm2d(c_out))

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(out)) + self.downsample(x))


class ResNetX4(nn.Module):
    """(B, C, H, W) -> (B, classes)."""

    def __init__(self, blocks: int, in_channels: int, num_classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, STEM, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(STEM)
        stages, c_in = [], STEM
        for c_out, stride in WIDTHS_AND_STRIDES:
            first = Block(c_in, c_out, stride)
            stages.append(nn.Sequential(first, *(Block(c_out, c_out, 1) for _ in range(blocks - 1))))
            c_in = c_out
        self.layer1, self.layer2, self.layer3 = stages
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(c_in, num_classes)
        initialise_convolutions(self)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.fc(self.pool(x).flatten(1))  # type: ignore[no-any-return]


def resnet_x4(*, depth: Annotated[int, Bound(ge=8, most=MOST_DEPTH)], in_channels: int, num_classes: int) -> ResNetX4:
    """
    Raises:
        SettingError: the depth is not 6n + 2.
    """
    if (depth - 2) % 6:
        raise SettingError(f"{OWN}depth={depth}: must be 6n + 2, such as 8, 14, 20, 32")
    return ResNetX4((depth - 2) // 6, in_channels, num_classes)
