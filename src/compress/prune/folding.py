"""Batch norms folded into the convolutions before them: faster evaluation, fewer passes over memory.

In eval mode a batch norm is an affine map per channel, which a convolution before it can absorb:
W' = W * gamma / sqrt(var + eps), b' = (b - mean) * gamma / sqrt(var + eps) + beta. Outputs are equal up to float
rounding. A folded 1x1 convolution of images of a few pixels runs as a matrix product.
"""

from collections import Counter
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_weights

from compress.graph.tape import Tape, users

# Pixels of an image up to which a 1x1 convolution is a product on a CPU: oneDNN reorders the weight at every call.
# 2.3 to 9 times as fast for one pixel, 1.1 to 3 times for four, whatever the channels; from 16 on it depends on them.
MOST_PIXELS = 4
SETTINGS = (
    "in_channels",
    "out_channels",
    "kernel_size",
    "stride",
    "padding",
    "dilation",
    "groups",
    "padding_mode",
)  # that torch's convolution is made with, beside `bias`
Pair = tuple[str, str]  # names of a convolution and of the batch norm that is its only reader


def foldable(model: nn.Module, tape: Tape) -> list[Pair]:
    """The pairs that `fold` may fold; `tape` is that of the network's forward in eval mode."""
    calls = Counter(call.layer for call in tape)
    readers = users(tape)
    owners = Counter(id(parameter) for module in model.modules() for parameter in module._parameters.values())
    pairs = []
    for call in tape:
        at = call.inputs[0] if call.layer and call.inputs else 0
        before = tape[at].layer
        if not before or len(readers[at]) > 1:
            continue
        conv, norm = model.get_submodule(before), model.get_submodule(call.layer)
        plain = _plain(conv, nn.Conv2d) and _plain(norm, nn.BatchNorm2d)
        used_once = calls[before] == calls[call.layer] == 1
        if plain and used_once and owners[id(conv.weight)] == 1 and isinstance(norm.running_mean, Tensor):
            pairs.append((before, call.layer))
    return pairs


def still_foldable(model: nn.Module, pairs: Sequence[Pair]) -> list[Pair]:
    """Those of the pairs of a network that can be folded in what became of it: a block may have lost all of its
    channels, or a convolution have masks."""
    modules = dict(model.named_modules())
    return [
        (conv, norm)
        for conv, norm in pairs
        if _plain(modules.get(conv, model), nn.Conv2d) and _plain(modules.get(norm, model), nn.BatchNorm2d)
    ]


def _plain(module: nn.Module, kind: type[nn.Module]) -> bool:
    """Whether a module is exactly torch's layer: not a subclass, no hooks, `forward` not patched."""
    return (
        type(module) is kind
        and "forward" not in vars(module)
        and not (module._forward_hooks or module._forward_pre_hooks)
    )


class FoldedConv2d(nn.Conv2d):
    """A convolution with the batch norm after it folded in, for evaluation only: (B, C, H, W) -> (B, O, H', W').

    `refresh` reads the two layers, which are kept beside it, outside of the tree of modules.
    """

    def __init__(self, conv: nn.Conv2d, norm: nn.BatchNorm2d) -> None:
        settings = {name: getattr(conv, name) for name in SETTINGS}
        super().__init__(**settings, device="meta")  # neither memory nor random numbers
        self._layers = (conv, norm)
        self.refresh()

    def refresh(self) -> None:
        """Fold the two layers as they are now."""
        conv, norm = self._layers
        assert norm.running_mean is not None
        assert norm.running_var is not None
        self.in_channels, self.out_channels, self.groups = conv.in_channels, conv.out_channels, conv.groups
        with torch.no_grad():
            self.weight, self.bias = fuse_conv_bn_weights(
                conv.weight, conv.bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
            )

    def forward(self, x: Tensor) -> Tensor:
        return product(self, x) if is_product(self, x) else super().forward(x)


def is_product(conv: nn.Conv2d, x: Tensor) -> bool:
    """Whether a convolution of these images (B, C, H, W) is a matrix product and faster as one."""
    pointwise = conv.kernel_size == (1, 1) and conv.stride == (1, 1) and conv.padding == (0, 0) and conv.groups == 1
    return pointwise and x.device.type == "cpu" and x.dim() == 4 and x.shape[2] * x.shape[3] <= MOST_PIXELS


def product(conv: nn.Conv2d, x: Tensor) -> Tensor:
    """What a 1x1 convolution gives, up to float rounding. In channels_last, which is that of the output too, nothing
    is copied."""
    return F.linear(x.permute(0, 2, 3, 1), conv.weight.flatten(1), conv.bias).permute(0, 3, 1, 2)


def fold(model: nn.Module, pairs: Sequence[Pair]) -> list[FoldedConv2d]:
    """Fold in place, for evaluation only; returns the new layers, which stand where the convolutions stood."""
    layers = []
    for conv_name, norm_name in pairs:
        conv, norm = model.get_submodule(conv_name), model.get_submodule(norm_name)
        assert isinstance(conv, nn.Conv2d)
        assert isinstance(norm, nn.BatchNorm2d)
        layers.append(FoldedConv2d(conv, norm))
        model.set_submodule(conv_name, layers[-1])
        model.set_submodule(norm_name, nn.Identity())
    return layers
