"""Times of forward passes, side by side.

A machine is busier at one moment than at the next, so times that were taken one after the other do not compare. Here
all passes take turns in short blocks (A B C A B C ...), on a fixed number of threads: each gets the median of its
blocks and their spread. Figures whose spreads overlap are not told apart.

On one thread of a CPU the time is that of the thread, without what it waits for a core that others use: on a quiet
machine the same as by the clock on the wall, on a busy one still that of the passes.
"""

import math
import platform
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

LEAST_BLOCKS = 5  # of each pass, however long they take
MOST_BLOCKS = 1000
BLOCK_SECONDS = 0.004  # of passes that take less are timed together: far above the resolution of the clock

Pass = Callable[[], object]
Clock = Callable[[], float]  # seconds


class Latency(NamedTuple):
    median_ms: float
    spread_ms: float  # inter-quartile range of the blocks
    threads: int


def interleaved(
    passes: Mapping[str, Pass], device: torch.device, *, seconds: float, threads: int
) -> dict[str, Latency]:
    """The time of each pass in turns, about `seconds` on each, on `threads` CPU threads; CUDA is synchronised around
    each block. A pass must run on `device`, or wait for what it runs on."""
    clock = _clock(device, threads)
    blocks: dict[str, list[float]] = {name: [] for name in passes}
    with on_threads(threads), torch.inference_mode():
        counts = {name: _passes_per_block(run, device, clock) for name, run in passes.items()}
        spent, rounds = 0.0, 0
        while rounds < LEAST_BLOCKS or (rounds < MOST_BLOCKS and spent < seconds * len(passes)):
            for name, run in passes.items():
                blocks[name].append(_timed(run, counts[name], device, clock))
                spent += counts[name] * blocks[name][-1]
            rounds += 1
    return {name: _latency(times, threads) for name, times in blocks.items()}


def _clock(device: torch.device, threads: int) -> Clock:
    is_fine = time.get_clock_info("thread_time").resolution < 1e-6
    return time.thread_time if device.type == "cpu" and threads == 1 and is_fine else time.perf_counter


def _latency(seconds: Sequence[float], threads: int) -> Latency:
    first, median, third = (1e3 * np.percentile(seconds, (25, 50, 75))).tolist()
    return Latency(median, third - first, threads)


def _passes_per_block(run: Pass, device: torch.device, clock: Clock) -> int:
    """After passes that warm up."""
    _timed(run, 1, device, clock)
    return max(1, math.ceil(BLOCK_SECONDS / max(_timed(run, 2, device, clock), 1e-7)))


def _timed(run: Pass, count: int, device: torch.device, clock: Clock) -> float:
    """Seconds per pass."""
    _wait(device)
    began = clock()
    for _ in range(count):
        run()
    _wait(device)
    return (clock() - began) / count


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@contextmanager
def on_threads(count: int) -> Iterator[None]:
    """Within the block torch computes on so many CPU threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def device_name(device: torch.device) -> str:
    """The name of the GPU, or of the CPU."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
