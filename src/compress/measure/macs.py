"""Multiply-adds by fvcore: convolutions, linear layers and matrix products; nothing else.

fvcore calls multiply-adds "flops" and also counts normalisation and pooling; the papers this project compares
with do not, so those are given a count of zero. (`set_op_handle(op, None)`, fvcore's documented way to leave an
op out, has no effect for ops it has a handle for.)
"""

import logging
import warnings
from math import prod
from typing import Any

import torch
from torch import nn

UNCOUNTED = (
    "batch_norm",
    "layer_norm",
    "group_norm",
    "instance_norm",
    "adaptive_avg_pool2d",
    "upsample_nearest2d",
    "upsample_bilinear2d",
    "grid_sampler",
)


def _zero(inputs: list[Any], outputs: list[Any]) -> int:
    return 0


def _attention(inputs: list[Any], outputs: list[Any]) -> int:
    """q (..., L, E), k (..., S, E), v (..., S, V): L*S*E for the scores and L*S*V for the mix."""
    from fvcore.nn.jit_handles import get_shape

    q, k, v = (get_shape(value) for value in inputs[:3])
    return int(prod(q[:-1]) * k[-2] * (q[-1] + v[-1]))


def count_macs(model: nn.Module, shape: tuple[int, int, int]) -> int:
    """MACs of one image (C, H, W)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # fvcore still uses torch.jit.script
        from fvcore.nn import FlopCountAnalysis

        example = next(model.parameters())
        was_training, fastpath = model.training, torch.backends.mha.get_fastpath_enabled()
        # fvcore and torch's tracer report every op that fvcore has no count for; those are the ones without MACs
        logging.getLogger("fvcore").setLevel(logging.ERROR)
        torch.backends.mha.set_fastpath_enabled(False)  # one opaque op that fvcore cannot see into
        try:
            images = torch.zeros(1, *shape, device=example.device, dtype=example.dtype)
            count = FlopCountAnalysis(model.eval(), images)
            count.unsupported_ops_warnings(False).uncalled_modules_warnings(False).tracer_warnings("none")
            for op in UNCOUNTED:
                count.set_op_handle(f"aten::{op}", _zero)
            count.set_op_handle("aten::scaled_dot_product_attention", _attention)
            return int(count.total())
        finally:
            torch.backends.mha.set_fastpath_enabled(fastpath)
            model.train(was_training)


def count_params(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())
