"""Layers of this package, which the channel graph knows how to cut."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def initialise_convolutions(model: nn.Module) -> None:
    """He et al., "Delving Deep into Rectifiers", ICCV 2015, arXiv:1502.01852, section 2.2: by fan-out."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


class EmptyConv(nn.Module):
    """A convolution without weights: (B, any, H, W) -> (B, out_channels, H', W'), zeros plus the bias if there is
    one.

    Surgery puts it in place of a convolution whose input channels are all cut (torch has none of 0 channels); and of
    one whose output channels are all cut, then with one channel of zeros that no layer reads. `margin` is, per
    dimension, padding on both sides minus the dilated kernel's size, so that H' = (H + margin) // stride + 1.
    """

    def __init__(
        self, out_channels: int, stride: tuple[int, int], margin: tuple[int, int], bias: Tensor | None
    ) -> None:
        super().__init__()
        self.out_channels, self.stride, self.margin = out_channels, stride, margin
        self.bias = bias

    def size(self, x: Tensor) -> tuple[int, int]:
        """(H', W') of the output for an input x (B, any, H, W)."""
        height, width = ((x.shape[2 + i] + self.margin[i]) // self.stride[i] + 1 for i in range(2))
        return height, width

    def forward(self, x: Tensor) -> Tensor:
        zeros = x.new_zeros(x.shape[0], self.out_channels, *self.size(x))
        return zeros if self.bias is None else zeros + self.bias.to(x.dtype).view(-1, 1, 1)

    def extra_repr(self) -> str:
        return f"{self.out_channels}, stride={self.stride}, bias={self.bias is not None}"


def empty_conv_for(conv: nn.Conv2d) -> EmptyConv:
    """In place of a convolution that is cut to no input channels, to no output channels, or both."""
    margin = []
    for i, kernel in enumerate(conv.kernel_size):
        reach = conv.dilation[i] * (kernel - 1)
        padded = {"same": reach, "valid": 0}[conv.padding] if isinstance(conv.padding, str) else 2 * conv.padding[i]
        margin.append(int(padded) - reach - 1)
    empty = EmptyConv(
        max(conv.out_channels, 1), (conv.stride[0], conv.stride[1]), (margin[0], margin[1]),
        conv.bias if conv.out_channels else None,
    )  # fmt: skip
    return empty.train(conv.training)


class ChannelPad(nn.Module):
    """Zero channels before and after the given ones: (B, C, H, W) -> (B, before + C + after, H, W).

    `before` and `after` are plain ints: surgery lowers them when it cuts padded channels.
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

    Lets a layer read fewer channels than a residual stream has: the stream keeps its width, and the layer reads it
    through the selection (Liu et al., "Learning Efficient Convolutional Networks through Network Slimming", ICCV
    2017, arXiv:1708.06519, section 3). The indices are an int64 buffer: not trained, but saved with the weights.
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
