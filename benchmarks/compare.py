"""How long `compress compare` takes over many runs, beside the least that any reader must do.

    python benchmarks/compare.py RUN [--runs 200]

RUN is a finished run folder. Its summary.json and plan.json are copied into so many run folders, with other seeds,
rates, budgets and top-1 in each. Timed are whole processes, best and median of nine, and their CPU seconds: the
table, the same grouped over seeds, and a Python that only finds the files and calls `json.loads` on each.
"""

import argparse
import copy
import json
import random
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

PLAIN = """
import json, pathlib, sys
print(len([json.loads(path.read_text()) for path in pathlib.Path(sys.argv[1]).rglob("summary.json")]))
"""
TIMES = 9


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


def seconds(command: list[str]) -> tuple[list[float], float]:
    """Wall seconds of every time, and the mean CPU seconds."""
    found = []
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    for _ in range(TIMES):
        start = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        found.append(time.perf_counter() - start)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return found, (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime) / TIMES


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="a finished run folder")
    parser.add_argument("--runs", type=int, default=200)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        make(options.run, Path(folder), options.runs)
        compare = [sys.executable, "-m", "compress", "compare", folder]
        commands = {
            "json.loads of each": [sys.executable, "-c", PLAIN, folder],
            "compress compare": compare,
            "compress compare --by percent,finetune.lr": [*compare, "--by", "percent,finetune.lr"],
        }
        plain = 0.0
        for name, command in commands.items():
            times, cpu = seconds(command)
            plain = plain or cpu
            print(
                f"{name:42} {options.runs} runs: best {min(times):.3f} s, median {statistics.median(times):.3f} s, "
                f"CPU {cpu:.3f} s, {cpu / plain:.1f} times json.loads"
            )


if __name__ == "__main__":
    main()
