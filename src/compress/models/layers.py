"""Layers of this package, which the channel graph knows how to cut."""

from collections.abc import Sequence

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

    def forward(self, input: Tensor) -> Tensor:
        """Under the name that a convolution's argument has, by which some call it."""
        zeros = input.new_zeros(input.shape[0], self.out_channels, *self.size(input))
        return zeros if self.bias is None else zeros + self.bias.to(input.dtype).view(-1, 1, 1)

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


class Attention(nn.Module):
    """What is left of an `nn.MultiheadAttention` with fewer heads or inputs: (B, N, inputs) -> (B, N, outputs).

    torch's module has one width for its inputs and for all heads together. Surgery puts this one in its place, with
    the same tensors under the same names, and it takes the same arguments, but for masks of each head.
    """

    _qkv_same_embed_dim = False  # keeps nn.TransformerEncoderLayer off its fused kernel, which wants torch's widths

    in_proj_weight: Tensor | None
    q_proj_weight: Tensor
    k_proj_weight: Tensor
    v_proj_weight: Tensor
    in_proj_bias: Tensor | None
    out_proj: nn.Module

    def __init__(self, whole: nn.MultiheadAttention) -> None:
        super().__init__()
        for name in ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight", "in_proj_bias"):
            self.register_parameter(name, getattr(whole, name))  # None where the other form is used
        self.out_proj = whole.out_proj
        self.num_heads, self.head_dim = whole.num_heads, whole.head_dim
        self.dropout, self.batch_first = whole.dropout, whole.batch_first
        self.train(whole.training)

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        if not self.batch_first and query.dim() == 3:
            query, key, value = (x.transpose(0, 1) for x in (query, key, value))
        if query is key and key is value and self.in_proj_weight is not None:
            q, k, v = F.linear(query, self.in_proj_weight, self.in_proj_bias).chunk(3, -1)
        else:
            biases = [None] * 3 if self.in_proj_bias is None else self.in_proj_bias.chunk(3)
            weights = self._weights()
            q, k, v = (F.linear(x, w, b) for x, w, b in zip((query, key, value), weights, biases, strict=True))
        q, k, v = (x.unflatten(-1, (self.num_heads, self.head_dim)).transpose(-3, -2) for x in (q, k, v))
        mask = self._mask(attn_mask, key_padding_mask, q.dtype)
        dropout = self.dropout if self.training else 0.0
        weights_of_heads = None
        if need_weights:
            scores = q @ k.transpose(-2, -1) * self.head_dim**-0.5
            weights_of_heads = (scores if mask is None else scores + mask).softmax(-1)
            mixed = F.dropout(weights_of_heads, dropout) @ v
        else:
            mixed = F.scaled_dot_product_attention(q, k, v, mask, dropout)
        out = self.out_proj(mixed.transpose(-3, -2).flatten(-2))
        if not self.batch_first and query.dim() == 3:
            out = out.transpose(0, 1)
        if weights_of_heads is not None and average_attn_weights:
            weights_of_heads = weights_of_heads.mean(-3)
        return out, weights_of_heads

    def _weights(self) -> Sequence[Tensor]:
        """Of q, k and v."""
        apart = (self.q_proj_weight, self.k_proj_weight, self.v_proj_weight)
        return apart if self.in_proj_weight is None else self.in_proj_weight.chunk(3)

    @staticmethod
    def _mask(attn_mask: Tensor | None, padding: Tensor | None, dtype: torch.dtype) -> Tensor | None:
        """One mask that is added to scores (B, heads, N, M): of booleans, True is what may not be attended to."""
        if attn_mask is not None and attn_mask.dim() == 3:
            raise ValueError("attn_mask: must be (queries, keys); a cut layer takes no mask for each head")
        masks = []
        for mask in (attn_mask, None if padding is None else padding[..., None, None, :]):
            if mask is not None and mask.dtype == torch.bool:
                mask = torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill(mask, -torch.inf)
            if mask is not None:
                masks.append(mask)
        return sum(masks[1:], masks[0]) if masks else None

    def extra_repr(self) -> str:
        return f"{self.num_heads} heads of {self.head_dim}"
