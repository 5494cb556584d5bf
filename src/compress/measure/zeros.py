"""What zero weights could save: multiply-adds with a zero weight, and bytes of a compressed file.

Neither is time: dense kernels multiply by zero too.
"""

import zlib
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from compress.measure.macs import count_macs, run_with_hooks

HOOKED = (nn.Conv2d, nn.Linear, nn.MultiheadAttention)
CHUNK = 1 << 20  # bytes


def nonzero_macs(model: nn.Module, shape: tuple[int, int, int]) -> int:
    """MACs of one image of `shape` (C, H, W) without those of zero weights of convolutions and linear layers.

    A weight is used once per output position and call of its layer. MACs without weights (scores and weighted sums of
    attention) count in full.

    Raises:
        InputError: the network cannot take such an image.
    """
    dense = count_macs(model, shape)
    idle = 0

    def hook(layer: nn.Module, inputs: tuple[Tensor, ...], output: Any) -> None:
        nonlocal idle
        if isinstance(layer, nn.MultiheadAttention):  # it uses the weight of out_proj without calling the module
            layer, output = layer.out_proj, output[0]
        weight = layer.weight
        assert isinstance(weight, Tensor)
        zeros = weight.numel() - int(weight.count_nonzero())
        idle += zeros * (output.numel() // len(weight))  # (1, C, H, W) or (1, ..., C)

    run_with_hooks(model, [module for module in model.modules() if isinstance(module, HOOKED)], hook, shape)
    return dense - idle


def zipped_bytes(path: Path) -> int:
    """Size in bytes of a file after deflate (zlib, level 6)."""
    deflate = zlib.compressobj(6)
    size = 0
    with open(path, "rb") as file:
        while chunk := file.read(CHUNK):
            size += len(deflate.compress(chunk))
    return size + len(deflate.flush())
