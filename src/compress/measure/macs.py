"""Multiply-adds by fvcore: convolutions, linear layers and matrix products; nothing else.

fvcore calls multiply-adds "flops" and also counts normalisation, pooling and resizing; the papers this project
compares with do not, so those operators are left out of the sum. `compress.measure.counts` has the other conventions.
"""

import logging
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from math import prod
from typing import Any

import torch
from torch import nn

from compress.settings import InputError, first_line

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


def _convolution_mode(inputs: list[Any], outputs: list[Any]) -> int:
    """A convolution with its padding by name ("same"): every weight once per output pixel."""
    from fvcore.nn.jit_handles import get_shape

    return int(prod(get_shape(inputs[1])) * prod(get_shape(outputs[0])[2:]) * get_shape(outputs[0])[0])


def _baddbmm(inputs: list[Any], outputs: list[Any]) -> int:
    from fvcore.nn.jit_handles import get_shape

    batch, rows, inner = get_shape(inputs[1])
    return int(batch * rows * inner * get_shape(inputs[2])[-1])


HANDLES = {
    "aten::scaled_dot_product_attention": _attention,
    "aten::_convolution_mode": _convolution_mode,
    "aten::baddbmm": _baddbmm,
}  # ops that fvcore has no count for


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


@contextmanager
def _hooks_kept(model: nn.Module) -> Iterator[None]:
    """fvcore leaves its hooks behind where a forward fails."""
    kinds = ("_forward_hooks", "_forward_pre_hooks")
    before = [(module, kind, dict(getattr(module, kind))) for module in model.modules() for kind in kinds]
    try:
        yield
    finally:
        for module, kind, hooks in before:
            now = getattr(module, kind)
            for key in [key for key in now if key not in hooks]:
                del now[key]


def count_operators(model: nn.Module, shape: tuple[int, int, int]) -> Counter[str]:
    """What fvcore counts for one image (C, H, W), by operator, and what it has no count for.

    Raises:
        InputError: the network cannot take such an image.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # fvcore still uses torch.jit.script
        from fvcore.nn import FlopCountAnalysis

        example = next(model.parameters(), torch.zeros(()))
        fastpath = torch.backends.mha.get_fastpath_enabled()
        # fvcore and torch's tracer report every op that fvcore has no count for; those are the ones without MACs
        logging.getLogger("fvcore").setLevel(logging.ERROR)
        torch.backends.mha.set_fastpath_enabled(False)  # one opaque op that fvcore cannot see into
        try:
            with in_eval_mode(model), _hooks_kept(model):
                images = torch.zeros(1, *shape, device=example.device, dtype=example.dtype)
                count = FlopCountAnalysis(model, images)
                count.unsupported_ops_warnings(False).uncalled_modules_warnings(False).tracer_warnings("none")
                count.set_op_handle(**HANDLES)
                return Counter({op: int(n) for op, n in count.by_operator().items()})
        except (RuntimeError, ValueError, TypeError, IndexError) as error:
            size = "x".join(map(str, shape))
            raise InputError(f"{type(model).__name__}: cannot run on {size} images ({first_line(error)})") from error
        finally:
            torch.backends.mha.set_fastpath_enabled(fastpath)


def count_macs(model: nn.Module, shape: tuple[int, int, int]) -> int:
    """MACs of one image (C, H, W)."""
    return sum(n for op, n in count_operators(model, shape).items() if op not in UNCOUNTED)


def count_params(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def run_hooked(
    model: nn.Module, modules: Iterable[nn.Module], hook: Callable[..., None], shape: tuple[int, int, int]
) -> None:
    """Run one image (C, H, W) through a network in eval mode, `hook` behind each of these modules of it."""
    example = next(model.parameters(), torch.zeros(()))
    handles = [module.register_forward_hook(hook) for module in modules]
    try:
        with in_eval_mode(model), torch.no_grad():
            model(torch.zeros(1, *shape, device=example.device, dtype=example.dtype))
    finally:
        for handle in handles:
            handle.remove()
