"""Time of one forward pass at batch size 1."""

import logging
from typing import NamedTuple

import torch
from torch import nn

from compress.measure.macs import in_eval_mode


class Latency(NamedTuple):
    median_ms: float
    spread_ms: float  # inter-quartile range
    threads: int


def measure_latency(
    model: nn.Module, shape: tuple[int, int, int], device: torch.device, *, seconds: float, threads: int
) -> Latency:
    """Median time of a forward pass in eval mode for one image of `shape` (C, H, W).

    Repeats blocks of passes for about `seconds` on `threads` CPU threads; CUDA is synchronised around each block. The
    model must be on `device`.
    """
    logging.getLogger("torch.utils.cpp_extension").setLevel(
        logging.ERROR
    )  # warns about missing CUDA compilers on import
    from torch.utils.benchmark import Timer

    image = torch.zeros(1, *shape, device=device)
    with torch.inference_mode(), in_eval_mode(model):
        timer = Timer("model(image)", globals={"model": model, "image": image}, num_threads=threads)
        taken = timer.blocked_autorange(min_run_time=seconds)
    return Latency(taken.median * 1e3, taken.iqr * 1e3, threads)
