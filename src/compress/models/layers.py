"""Layers of our own that the channel graph knows by name."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def initialise_convolutions(model: nn.Module) -> None:
    """He et al., "Delving Deep into Rectifiers", ICCV 2015, arXiv:1502.01852, section 2.2: by fan-out."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


class ChannelPad(nn.Module):
    """Zero channels before and after the given ones: (B, C, H, W) -> (B, before + C + after, H, W).

    Two plain numbers, so that surgery can lower them when it takes padded channels out.
    """

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.before, self.after = before, after

    def forward(self, x: Tensor) -> Tensor:
        return F.pad(x, (0, 0, 0, 0, self.before, self.after))

    def extra_repr(self) -> str:
        return f"before={self.before}, after={self.after}"


class ChannelSelection(nn.Module):
    """Some of the channels, by index: (B, channels, H, W) -> (B, len(indices), H, W).

    Stands where a layer wants fewer channels than a residual stream carries: the stream keeps its width, and what
    reads it does so through the selection (Liu et al., "Learning Efficient Convolutional Networks through Network
    Slimming", ICCV 2017, arXiv:1708.06519, section 3). The indices are whole numbers in a buffer: no gradient
    reaches them, and they are saved with the weights.
    """

    indices: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels
        self.register_buffer("indices", torch.arange(channels))

    def forward(self, x: Tensor) -> Tensor:
        return x if len(self.indices) == self.channels else x.index_select(1, self.indices)

    def extra_repr(self) -> str:
        return f"{len(self.indices)} of {self.channels}"
