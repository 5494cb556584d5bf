"""How long `compress compare` takes over many runs, beside the least that any reader must do.

    python benchmarks/compare.py RUN [--runs 200] [--beside OTHER/src]

RUN is a finished run folder. Its summary.json and plan.json are copied into so many run folders, with other seeds,
rates, budgets and top-1 in each. Timed are whole processes, in turn, best and median, and their CPU seconds: a Python
that only finds the files and calls `json.loads` on each; the table without an index of the summaries, which that
process then writes; the table with it; the same grouped over seeds. With --beside also the table by the code in
another checkout."""

import argparse
import copy
import json
import os
import random
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compress.io.paths import INDEX

ROOT = Path(__file__).resolve().parents[1]
PLAIN = """
import json, pathlib, sys
print(len([json.loads(path.read_text()) for path in pathlib.Path(sys.argv[1]).rglob("summary.json")]))
"""


def varied(summary: dict[str, Any], number: int, draw: random.Random) -> dict[str, Any]:
    """The same run as another seed, rate and budget would have left it."""
    new = copy.deepcopy(summary)
    percent = (0.3, 0.4, 0.5, 0.6)[number // 10 % 4]
    new["config"] |= {"seed": number % 10, "percent": percent}
    new["config"]["finetune"]["lr"] = (0.01, 0.02, 0.05, 0.1, 0.2)[number // 40 % 5]
    new["budget"]["asked"] = {"percent": percent}
    for row in new["results"].values():
        row["top1"] = max(0.0, row["top1"] - draw.random())
    return new


def make(run: Path, folder: Path, runs: int) -> None:
    summary = json.loads((run / "summary.json").read_text())
    draw = random.Random(0)
    for number in range(runs):
        new = folder / f"run-{number}"
        (new / "plots").mkdir(parents=True)
        (new / ".hydra").mkdir()
        (new / "summary.json").write_text(json.dumps(varied(summary, number, draw), indent=1))
        shutil.copy(run / "plan.json", new)


@dataclass(frozen=True)
class Way:
    """A command to time, the code that it runs by, and whether it finds an index."""

    command: Sequence[str]
    code: Path = ROOT / "src"
    with_index: bool = True


def timed(way: Way, folder: Path) -> tuple[float, float]:
    """Wall and CPU seconds of one process."""
    if not way.with_index:
        (folder / INDEX).unlink(missing_ok=True)
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    environment = {**os.environ, "PYTHONPATH": str(way.code)}
    subprocess.run(way.command, check=True, stdout=subprocess.DEVNULL, env=environment)
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="a finished run folder")
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--times", type=int, default=5)
    parser.add_argument("--beside", type=Path, help="src of another checkout")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make(options.run, folder, options.runs)
        compare = [sys.executable, "-m", "compress", "compare", name]
        ways = {
            "json.loads of each": Way([sys.executable, "-c", PLAIN, name]),
            "compress compare, no index": Way(compare, with_index=False),
            "compress compare": Way(compare),
            "compress compare --by percent,finetune.lr": Way([*compare, "--by", "percent,finetune.lr"]),
        }
        if options.beside:
            ways[f"compress compare of {options.beside}"] = Way(compare, options.beside)
        found = [{name: timed(way, folder) for name, way in ways.items()} for _ in range(options.times)]
    for name in ways:
        wall, cpu = zip(*[each[name] for each in found], strict=True)
        print(
            f"{name:42} {options.runs} runs: best {min(wall):.3f} s, median {statistics.median(wall):.3f} s, "
            f"CPU {min(cpu):.3f} s, median {statistics.median(cpu):.3f} s"
        )


if __name__ == "__main__":
    main()
