"""CPU seconds of the command before it computes anything: user + system, of the process and all it starts.

    python benchmarks/startup.py            # the installed compress; PYTHONPATH=... for another checkout
    python benchmarks/startup.py --times 9

Each line is the median of several runs, taken in turns so that a busy moment of the machine falls on all of them, and
stands as a multiple of `import torch` and of the smallest Hydra app (`hydra.main` on an empty config, printing
`--help`). CPU seconds, since wall time on a shared machine says little.
"""

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

QUICK = ["experiment=quick", "device=cpu", "threads=1", "model.depth=8", "model.width=4", "pretrain.epochs=1",
         "stages=[pretrain]", "tensorboard=false", "plots=false"]  # fmt: skip
SMALLEST = "import hydra\n@hydra.main(version_base='1.3', config_path=None)\ndef main(config): pass\nmain()\n"
Command = Callable[[int], list[str]]  # of the number of the turn: a first step must be the first each time


def commands(folder: Path) -> dict[str, Command]:
    """What is measured, by name; the first two are what the others are told as multiples of."""
    (folder / "smallest.py").write_text(SMALLEST)
    compress = [sys.executable, "-m", "compress"]
    return {
        "import torch": lambda turn: [sys.executable, "-c", "import torch"],
        "smallest Hydra app --help": lambda turn: [sys.executable, "smallest.py", "--help"],
        "compress --help": lambda turn: [*compress, "--help"],
        "compress --version": lambda turn: [*compress, "--version"],
        "a refused key": lambda turn: [*compress, "preserve_ration=0.5"],
        "a refused value": lambda turn: [*compress, "preserve_ratio=1.7"],
        "a finished job run again": lambda turn: [*compress, *QUICK, "hydra.run.dir=finished"],
        "cached results, a new run": lambda turn: [*compress, *QUICK, f"hydra.run.dir=cached{turn}"],
        "a first epoch": lambda turn: [*compress, *QUICK, f"hydra.run.dir=first{turn}", f"outputs=outputs{turn}"],
    }


def cpu_seconds(command: list[str], folder: Path) -> float:
    """Of a command, whatever its exit code; what it prints is dropped."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, cwd=folder, capture_output=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def measured(times: int) -> dict[str, float]:
    """The median of each, by name."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        named = commands(folder)
        cpu_seconds(named["a finished job run again"](-1), folder)  # the first time it is not finished yet
        taken: dict[str, list[float]] = {name: [] for name in named}
        for turn in range(times):
            for name, command in named.items():
                taken[name].append(cpu_seconds(command(turn), folder))
    return {name: statistics.median(seconds) for name, seconds in taken.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=5)
    found = measured(parser.parse_args().times)
    torch, smallest = list(found.values())[:2]
    print(f"{'CPU seconds, user + system':<28}{'median':>8}{'x import torch':>16}{'x smallest app':>16}")
    for name, seconds in found.items():
        print(f"{name:<28}{seconds:8.2f}{seconds / torch:16.2f}{seconds / smallest:16.2f}")


if __name__ == "__main__":
    main()
