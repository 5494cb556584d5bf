"""One command for a GPU: are the device paths right, how fast is a step, what are the methods worth.

    python benchmarks/gpu.py --cifar10 DATA --checkpoint resnet56-4bfd9763.th --out OUT          # ten minutes
    python benchmarks/gpu.py --cifar10 DATA --checkpoint resnet56-4bfd9763.th --out OUT          # again: goes on
    python benchmarks/gpu.py --cifar10 DATA --cifar100 DATA --out OUT --minutes 600              # the whole table
    python benchmarks/gpu.py --dataset digits --device cpu --minutes 3 --out OUT                 # does it all run?

tests     pytest -m gpu
speed     a training step beside a bare loop and one in the style of airbench (gpu_speed.py)
search    episodes of AMC and candidates of a supernet per second, on the network of the first table
quality   accuracy of every method at the same MACs, by one recipe (gpu_quality.py); several processes side by side
tau       which score foretells the retrained network (metaprune.py tau)
grid      a teacher in none, one or both trainings, on CIFAR-100 (distill_grid.py); needs --cifar100

The plan of what runs is printed first, the tables last; --out/gpu.json has all figures with card and torch, also of
earlier runs of this folder. What has a result is not run again; what the end of the time interrupts goes on from its
last saved epoch if --out/store is still there, else it begins anew. What did not finish is in no table. Further
settings of the command line are given to all rows of the quality table: finetune.amp=bf16.
"""

import argparse
import math
import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import torch
from gpu_plan import Job, Part, time_shares
from gpu_processes import COMPRESS, ROOT, run_until, script, side_by_side
from gpu_quality import Quality
from gpu_report import report
from gpu_results import card, read_or, write
from gpu_rows import PRESETS
from gpu_speed import OUT_OF_TIME
from tabulate import tabulate

from compress.errors import TERMINATED

PYTEST = (sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider")
RESERVE = 20.0  # seconds for the end: processes that save what they have, and the tables
PARTS = (
    Part("tests", 2, 60, 180),
    Part("speed", 2, 30, 150),
    Part("search", 1, 30, 120),
    Part("quality", 6, 60, math.inf),
    Part("tau", 1, 60, 900),
    Part("grid", 1, 60, math.inf),
)
SMALL = {  # of digits: is it all wired up?
    "speed": ("--networks", "resnet20", "--images", "8", "--batch", "16", "--steps", "2", "--epochs", "1"),
    "tau": ("--genes", "3", "--retrain", "1", "--steps", "5", "--forwards", "40", "--depth", "8"),
    "grid": ("model=resnet20", "model.depth=8", "model.width=4", "model@teacher.model=resnet20",
             "teacher.model.depth=8", "teacher.model.width=6", "threads=1"),
}  # fmt: skip


@dataclass(frozen=True)
class Bench:
    """What was asked for."""

    options: argparse.Namespace
    quality: Quality

    @property
    def out(self) -> Path:
        return self.quality.out

    @property
    def small(self) -> bool:
        return bool(self.options.dataset == "digits")

    def extra(self, part: str) -> tuple[str, ...]:
        return SMALL[part] if self.small else ()

    def log(self, part: str) -> Path:
        return self.out / "logs" / f"{part}.log"

    def not_here(self, part: str) -> str | None:
        """Why a part cannot run."""
        if part == "tests" and not self.options.device.startswith("cuda"):
            return "they need a CUDA device"
        if part == "grid" and not self.small and self.options.cifar100 is None:
            return "no --cifar100"
        return None

    # -- the parts: True if there is nothing left to do -------------------------------------------------------------

    def tests(self, deadline: float) -> bool:
        command = (*PYTEST, str(ROOT / "tests"))
        self.log("tests").unlink(missing_ok=True)
        code = run_until(deadline, command, self.log("tests"))
        lines = self.log("tests").read_text().strip().splitlines()
        told = "out of time" if code is None else lines[-1]
        failed = [line for line in lines if line.startswith(("FAILED", "ERROR"))]
        write(self.out / "tests.json", {"code": code, "told": told, "failed": failed, **card(self.options.device)})
        return code == 0

    def speed(self, deadline: float) -> bool:
        seconds = str(max(1.0, deadline - time.monotonic() - 10))
        places = ("--out", str(self.out / "speed.json"), "--device", self.options.device, "--seconds", seconds)
        code = run_until(deadline, (*script("gpu_speed.py"), *places, *self.extra("speed")), self.log("speed"))
        if code not in (0, None, OUT_OF_TIME):
            print(f"  something could not be measured; {self.log('speed')}", flush=True)
        return code == 0

    def search(self, deadline: float) -> bool:
        """Alone on the device; the quality table takes the agent from the store."""
        quality, table = self.quality, self.quality.preset.tables[0]
        epochs, found = quality.kept_epochs() or 1, read_or(self.out / "search.json", {})
        supernet = ("method=supernet", "method.training.epochs=1", "method.least_over_chance=0")
        ways = {
            "amc": ("sparsify", (*quality.row_settings(table, "amc", epochs), "stages=[pretrain,sparsify]")),
            "supernet": ("prune", (*supernet, *quality.preset.supernet, "stages=[sparsify,prune]",
                                   f"preserve_ratio={1 / table.times:.5f}")),
        }  # fmt: skip
        for name, (stage, settings) in ways.items():
            if name in found:
                continue
            folder = quality.store / "runs" / f"search-{name}"
            command = (*COMPRESS, *settings, *quality.shared_settings(table, 0, epochs), f"hydra.run.dir={folder}")
            if run_until(deadline, command, self.log(f"search-{name}")) != 0:
                continue
            told = read_or(folder / "summary.json", None)["stages"][stage]
            found[name] = {key: told[key] for key in ("evaluations", "seconds")} | card(self.options.device)
            write(self.out / "search.json", found)
        return len(found) == len(ways)

    def quality_tables(self, deadline: float) -> bool:
        quality, epochs = self.quality, self.quality.epochs(deadline - time.monotonic())
        finished, failed = quality.finished(), set[Job]()
        begin, end = partial(quality.begin, epochs=epochs), partial(quality.end, epochs=epochs)

        def ended(job: Job, seconds: float) -> bool:
            good = end(job, seconds=seconds)
            print(f"  {job.name}: {'done' if good else 'failed'} in {seconds:.0f} s", flush=True)
            return good

        side_by_side(lambda: quality.jobs(failed), begin, ended, finished, failed, quality.workers, deadline)
        for job in sorted(failed, key=lambda job: job.name):
            print(f"  {job.name}: failed; {quality.log_of(job)}", flush=True)
        return not failed and finished >= set(quality.jobs())

    def tau(self, deadline: float) -> bool:
        root = ("--root", self.options.cifar10) if self.options.cifar10 else ()
        places = ("--dataset", self.options.dataset, *root, "--device", self.options.device)
        command = (*script("metaprune.py"), "tau", *places, "--out", str(self.out / "tau.json"), *self.extra("tau"))
        return run_until(deadline, command, self.log("tau")) == 0

    def grid(self, deadline: float) -> bool:
        minutes = (deadline - time.monotonic() - RESERVE) / 60
        places = ["--out", str(self.out / "store" / "grid"), "--device", self.options.device]
        places += ["--minutes", f"{max(minutes, 0):.2f}", "--dataset", "digits" if self.small else "cifar100"]
        places += ["--epochs", "2"] if self.small else ["--root", self.options.cifar100]
        code = run_until(deadline, (*script("distill_grid.py"), *places, *self.extra("grid")), self.log("grid"))
        return code == 0 and "the time is over" not in self.log("grid").read_text()

    def run(self, part: str, deadline: float) -> bool:
        steps: dict[str, Callable[[float], bool]] = {
            "tests": self.tests, "speed": self.speed, "search": self.search, "quality": self.quality_tables,
            "tau": self.tau, "grid": self.grid,
        }  # fmt: skip
        return steps[part](deadline)


def run_parts(bench: Bench, chosen: list[Part], deadline: float) -> None:
    """One after the other; what a part leaves of its time the later ones share."""
    done = read_or(bench.out / "parts.json", {})
    left = list(chosen)
    while left:
        shares = time_shares(left, deadline - time.monotonic())
        part = left.pop(0)
        if "quality" in shares and part.name in ("search", "quality"):  # after `speed`, by which they are planned
            bench.quality.epochs(shares["quality"])
        if part.name in shares:
            print(f"== {part.name}, {shares[part.name]:.0f} s", flush=True)
            began = time.monotonic()
            complete = bench.run(part.name, min(deadline, began + shares[part.name]))
            done[part.name] = {"complete": complete, "seconds": time.monotonic() - began}
            write(bench.out / "parts.json", done)


def printed_plan(bench: Bench, parts: list[Part], seconds: float) -> list[Part]:
    """Print what runs for how long, and why the rest does not; returns what is to run."""
    done, rows, here = read_or(bench.out / "parts.json", {}), [], []
    for part in parts:
        if done.get(part.name, {}).get("complete"):
            rows.append([part.name, "", "done in an earlier run"])
        elif (why := bench.not_here(part.name)) is not None:
            rows.append([part.name, "", f"left out: {why}"])
        else:
            here.append(part)
    shares = time_shares(here, seconds)
    for part in here:
        told = "" if part.name in shares else f"only if the others leave it {part.least:.0f} s"
        if part.name == "quality" and part.name in shares:
            told = "as many of its rows as fit; epochs follow from the measured speed"
            if bench.quality.plan.is_file():
                names = bench.quality.foretold(shares["quality"])
                told = f"{bench.quality.kept_epochs()} epochs; rows that should end: {len(names)}"
        rows.append([part.name, f"{shares[part.name]:.0f} s" if part.name in shares else "", told])
    print(tabulate(rows, ["plan", "time", ""], tablefmt="github"), end="\n\n", flush=True)
    return here


# -- the command ---------------------------------------------------------------------------------------------------


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="results and everything to go on from")
    parser.add_argument("--dataset", choices=PRESETS, default="cifar10")
    parser.add_argument("--cifar10", help="folder of its official files")
    parser.add_argument("--cifar100", help="folder of its official files")
    parser.add_argument("--checkpoint", help="the public ResNet-56; without it the dense network is trained first")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--parts", nargs="+", choices=[part.name for part in PARTS], help="else all")
    parser.add_argument("--workers", type=int, help="processes side by side; default: 5, on a CPU 1")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("settings", nargs="*", help="settings of compress, for the quality table")
    options = parser.parse_args()
    if options.dataset == "cifar10" and options.cifar10 is None:
        parser.error("--cifar10: the folder of its official files is needed")
    if options.device.startswith("cuda") and not torch.cuda.is_available():
        parser.error(f"--device {options.device}: torch {torch.__version__} sees no GPU; --device cpu runs without")
    for name in ("cifar10", "cifar100", "checkpoint"):  # the processes run in the folder of the project
        if getattr(options, name) is not None:
            setattr(options, name, os.path.abspath(getattr(options, name)))
    return options


def end_by_itself(*_: Any) -> NoReturn:
    raise SystemExit(TERMINATED)


def main() -> None:
    began, options = time.monotonic(), parsed()
    signal.signal(signal.SIGTERM, end_by_itself)  # the processes are stopped and the tables printed all the same
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # in the background of a shell: the processes inherit it
        signal.signal(signal.SIGINT, signal.default_int_handler)
    workers = options.workers or (5 if options.device.startswith("cuda") else 1)
    quality = Quality(
        PRESETS[options.dataset], options.out.resolve(), options.device, workers, options.seeds,
        options.cifar10 if options.dataset == "cifar10" else None, options.checkpoint, tuple(options.settings),
    )  # fmt: skip
    bench = Bench(options, quality)
    if (clash := quality.clash()) is not None:
        raise SystemExit(f"--out {options.out}: {clash}; name another folder")
    deadline = began + 60 * options.minutes - RESERVE
    chosen = [part for part in PARTS if options.parts is None or part.name in options.parts]
    try:
        run_parts(bench, printed_plan(bench, chosen, deadline - time.monotonic()), deadline)
    finally:
        report(quality)


if __name__ == "__main__":
    main()
