"""What `devices=2` costs or brings on a CPU: the seconds of an epoch beside those of one process with both threads.

    python benchmarks/devices.py --epochs 6 --repeats 3

Runs of the command, alternating, with two threads each in all; the median over all epochs but the first of each run.
A number of a machine with two free cores or more; on busy ones it says little.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

WAYS = {"devices=1 threads=2": ("devices=1", "threads=2"), "devices=2 threads=1": ("devices=2", "threads=1")}
SETTINGS = (
    "stages=[pretrain]", "device=cpu", "dataset.image_size=32", "pretrain.batch_size=256", "plots=false",
    "tensorboard=false",
)  # fmt: skip


def epoch_seconds(way: tuple[str, ...], epochs: int) -> list[float]:
    """Of every epoch but the first."""
    with tempfile.TemporaryDirectory() as folder:
        command = [
            sys.executable,
            "-m",
            "compress",
            *SETTINGS,
            *way,
            f"pretrain.epochs={epochs}",
            "hydra.run.dir=run",
        ]
        subprocess.run(command, cwd=folder, check=True, capture_output=True)
        rows = [json.loads(line) for line in (Path(folder) / "run" / "metrics.jsonl").read_text().splitlines()]
    return [row["seconds"] for row in rows if row["stage"] == "pretrain"][1:]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--repeats", type=int, default=3)
    asked = parser.parse_args()
    found: dict[str, list[float]] = {name: [] for name in WAYS}
    for _ in range(asked.repeats):
        for name, way in WAYS.items():
            found[name] += epoch_seconds(way, asked.epochs)
    middle = {name: statistics.median(seconds) for name, seconds in found.items()}
    one, two = middle.values()
    for name, seconds in middle.items():
        print(f"{name}: {seconds:.2f} s an epoch (from {min(found[name]):.2f} to {max(found[name]):.2f})")
    print(f"ratio: {two / one:.2f}")


if __name__ == "__main__":
    main()
