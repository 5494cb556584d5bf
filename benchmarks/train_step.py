"""What the training loop costs beside a bare PyTorch loop: epochs of both in turns in one process, in CPU seconds.

    python benchmarks/train_step.py                        # digits, the default network (resnet20)
    python benchmarks/train_step.py --epochs 40 --profile  # and where the difference goes

The bare loop has the same batches, network, memory format, optimizer settings and schedule, and tests on the held-out
images after each epoch as one does: no rows, no sums of loss and accuracy, no check, no saving, no guard of weight
gradients. Printed are the medians of an epoch and of the ratio of neighbours, with the standard error of the median;
then the CPU seconds from `import torch` to the end of the first step of a run, of the smallest of several (others on
the machine can only add to it).
"""

import argparse
import copy
import cProfile
import os
import pstats
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from compress.config.zoo import zoo_spec
from compress.data.digits import digits
from compress.data.memory import MemoryData
from compress.io.stage_folder import StageFolder
from compress.schema.settings import Recipe
from compress.train.loop import Training, _Loop, image_seed
from compress.train.memory_format import training_format
from compress.train.objective import cross_entropy
from compress.train.schedule import learning_rate

CPU = torch.device("cpu")
RECIPE = Recipe(
    epochs=100_000, batch_size=128, lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4, schedule="cosine",
    hold_epochs=0, step_epochs=1, step_factor=0.1, warmup_epochs=1, label_smoothing=0.0, clip_norm=None,
    early_stop_epochs=None, amp="off", channels_last="auto", graphs="auto", checkpoint_seconds=10.0,
)  # fmt: skip
FIRST_STEP = """
import os, sys, time
import torch
began = time.process_time()
from compress.train import step
whole = step.Step.__call__
def first(self, *arguments):
    whole(self, *arguments)
    print("first step", time.process_time() - began, flush=True)
    os._exit(0)
step.Step.__call__ = first
from compress.__main__ import main
main()
"""


def bare(model: nn.Module, data: MemoryData) -> Callable[[int], None]:
    """An epoch as one writes it."""
    layout = training_format(model, RECIPE, CPU)
    model.to(memory_format=layout)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4, nesterov=True)
    steps = -(-len(data.split()["train"]) // RECIPE.batch_size)

    def epoch(number: int) -> None:
        model.train()
        for at, (images, labels) in enumerate(data.shuffled(RECIPE.batch_size, image_seed(0, "s", number), CPU)):
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(RECIPE, number - 1 + (at + 0.5) / steps)
            loss = F.cross_entropy(model(images.contiguous(memory_format=layout)), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        model.eval()
        with torch.no_grad():
            sum(int((model(x).argmax(1) == y).sum()) for x, y in data.ordered("held_out", 512, CPU))

    return epoch


def ours(model: nn.Module, data: MemoryData, folder: Path) -> Callable[[int], Any]:
    training = Training(
        model=model, data=data, recipe=RECIPE, objective=cross_entropy(RECIPE), work=StageFolder(folder), stage="s",
        seed=0, device=CPU,
    )  # fmt: skip
    return _Loop(training)._epoch


def timed(action: Callable[[int], Any], number: int) -> float:
    began = time.process_time()
    action(number)
    return time.process_time() - began


def spread(values: list[float]) -> str:
    return f"{statistics.median(values):.4f} +- {1.2533 * statistics.stdev(values) / len(values) ** 0.5:.4f}"


def first_step(folder: Path) -> float:
    """CPU seconds of a run up to its first step, after `import torch`."""
    arguments = ["device=cpu", "threads=1", "stages=[pretrain]", "tensorboard=false", "plots=false"]
    done = subprocess.run(
        [sys.executable, "-c", FIRST_STEP, *arguments], cwd=folder, capture_output=True, text=True, check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    line = next((text for text in done.stdout.splitlines() if text.startswith("first step")), None)
    if line is None:
        raise SystemExit(done.stdout + done.stderr)
    return float(line.split()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="resnet20")
    parser.add_argument("--epochs", type=int, default=15, help="of each loop")
    parser.add_argument("--starts", type=int, default=3, help="runs up to their first step")
    parser.add_argument("--profile", action="store_true", help="the functions of our loop by their own time")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    data = digits(image_size=None, mean=[0.3053], std=[0.376], pad=1, flip=False, held_out=0.2, split_seed=0)
    model = zoo_spec(asked.model, (1, 8, 8), 10).build(check_forward=False)
    with TemporaryDirectory() as place:
        loops = {"bare": bare(copy.deepcopy(model), data), "ours": ours(model, data, Path(place))}
        seconds: dict[str, list[float]] = {name: [] for name in loops}
        for number in range(1, asked.epochs + 2):
            for name in sorted(loops, reverse=number % 2 == 0):
                taken = timed(loops[name], number)
                if number > 1:  # the first warms up
                    seconds[name].append(taken)
        for name, values in seconds.items():
            print(f"{name:6} {spread(values)} s of CPU an epoch")
        ratios = [mine / its for mine, its in zip(seconds["ours"], seconds["bare"], strict=True)]
        print(f"ours / bare {spread(ratios)}", flush=True)
        if asked.profile:
            profile = cProfile.Profile()
            profile.runcall(lambda: [loops["ours"](asked.epochs + 1 + number) for number in range(1, 4)])
            pstats.Stats(profile).sort_stats("tottime").print_stats(25)
    for _ in range(1 if asked.starts else 0):
        with TemporaryDirectory() as place:
            taken = min(first_step(Path(place)) for _ in range(asked.starts))
        print(f"first step of a run, after import torch: {taken:.2f} s of CPU (least of {asked.starts})")


if __name__ == "__main__":
    main()
