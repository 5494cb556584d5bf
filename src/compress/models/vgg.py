"""VGG with batch norm for small images.

Simonyan and Zisserman, "Very Deep Convolutional Networks for Large-Scale Image Recognition", ICLR 2015,
arXiv:1409.1556, table 1, in the form that the pruning literature uses since Li et al., "Pruning Filters for Efficient
ConvNets", ICLR 2017, arXiv:1608.08710: batch norm after every convolution, no fifth max pooling, and one linear layer
after global average pooling. 'M' in a list of widths is a max pooling.
"""

from collections.abc import Sequence
from typing import Literal

from torch import Tensor, nn

from compress.errors import OWN, SettingError
from compress.models.layers import initialise_convolutions
from compress.schema.bounds import MOST_DEPTH, Width
from compress.schema.check import check_value

WIDTHS: dict[int, list[int | str]] = {
    11: [64, "M", 128, "M", 256, 256, "M", 512, 512, "M", 512, 512],
    13: [64, 64, "M", 128, 128, "M", 256, 256, "M", 512, 512, "M", 512, 512],
    16: [64, 64, "M", 128, 128, "M", *[256] * 3, "M", *[512] * 3, "M", *[512] * 3],
    19: [64, 64, "M", 128, 128, "M", *[256] * 4, "M", *[512] * 4, "M", *[512] * 4],
}


class VGG(nn.Module):
    """(B, C, H, W) -> (B, classes)."""

    def __init__(self, cfg: Sequence[int | str], conv_bias: bool, in_channels: int, num_classes: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        c_in = in_channels
        for width in cfg:
            if isinstance(width, str):
                layers.append(nn.MaxPool2d(2, 2))
                continue
            conv = nn.Conv2d(c_in, width, 3, 1, 1, bias=conv_bias)
            layers += [conv, nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
            c_in = width
        self.features = nn.Sequential(*layers)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(c_in, num_classes)
        self._initialise()

    def _initialise(self) -> None:
        initialise_convolutions(self)
        for module in self.modules():
            if isinstance(module, nn.Conv2d) and module.bias is not None:
                nn.init.zeros_(module.bias)
        nn.init.normal_(self.classifier.weight, 0, 0.01)
        nn.init.zeros_(self.classifier.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.pool(self.features(x)).flatten(1))  # type: ignore[no-any-return]


def vgg(
    *,
    depth: Literal[11, 13, 16, 19],
    conv_bias: bool,
    cfg: list[int | str] | None,
    in_channels: int,
    num_classes: int,
) -> VGG:
    """
    Raises:
        SettingError: `cfg` is not a list of positive integers and 'M'.
    """
    widths = WIDTHS[depth] if cfg is None else list(cfg)
    numbers = [width for width in widths if width != "M"]
    sound = 0 < len(numbers) <= MOST_DEPTH and not check_value("cfg", numbers, list[Width])
    if not sound:
        written = ",".join(map(str, widths[:20])) + (",..." if len(widths) > 20 else "")
        raise SettingError(f"{OWN}cfg=[{written}]: must be positive whole numbers and M, such as [64,64,M,128,128,M]")
    return VGG(widths, conv_bias, in_channels, num_classes)
