"""Multiply-adds by fvcore: convolutions, linear layers and matrix products; nothing else.

fvcore calls multiply-adds "flops" and also counts normalisation, pooling and resizing; the papers this project
compares with do not, so those operators are left out of the sum. `compress.measure.counts` has the other conventions.
"""

import logging
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
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


def _attention(inputs: list[Any], outputs: list[Any]) -> int:
    """q (..., L, E), k (..., S, E), v (..., S, V): L*S*E for the scores and L*S*V for the mix."""
    from fvcore.nn.jit_handles import get_shape

    q, k, v = (get_shape(value) for value in inputs[:3])
    return int(prod(q[:-1]) * k[-2] * (q[-1] + v[-1]))


@contextmanager
def in_eval_mode(model: nn.Module) -> Iterator[None]:
    """Every module in eval mode; afterwards each in the mode it had."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def count_operators(model: nn.Module, shape: tuple[int, int, int]) -> Counter[str]:
    """What fvcore counts for one image (C, H, W), by operator; attention, which it has no count for, is added."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # fvcore still uses torch.jit.script
        from fvcore.nn import FlopCountAnalysis

        example = next(model.parameters())
        fastpath = torch.backends.mha.get_fastpath_enabled()
        # fvcore and torch's tracer report every op that fvcore has no count for; those are the ones without MACs
        logging.getLogger("fvcore").setLevel(logging.ERROR)
        torch.backends.mha.set_fastpath_enabled(False)  # one opaque op that fvcore cannot see into
        try:
            with in_eval_mode(model):
                images = torch.zeros(1, *shape, device=example.device, dtype=example.dtype)
                count = FlopCountAnalysis(model, images)
                count.unsupported_ops_warnings(False).uncalled_modules_warnings(False).tracer_warnings("none")
                count.set_op_handle("aten::scaled_dot_product_attention", _attention)
                return Counter({op: int(n) for op, n in count.by_operator().items()})
        finally:
            torch.backends.mha.set_fastpath_enabled(fastpath)


def count_macs(model: nn.Module, shape: tuple[int, int, int]) -> int:
    """MACs of one image (C, H, W)."""
    return sum(n for op, n in count_operators(model, shape).items() if op not in UNCOUNTED)


def count_params(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())
