"""The tables at the end of benchmarks/gpu.py, and the file that has all figures."""

import math
from collections.abc import Sequence
from typing import Any

from gpu_quality import LARGEST, Quality
from gpu_results import card, read_or, write
from spread import mean_and_spread
from tabulate import tabulate


def quality_rows(results: Sequence[dict[str, Any]]) -> list[list[Any]]:
    """Of one table, a line for each row that finished for a seed at least, the best first."""
    of_row: dict[str, list[dict[str, Any]]] = {}
    for one in results:
        name = one["row"] if one["row"] == one["method"] else f"{one['method']}, teacher=self"
        of_row.setdefault(name, []).append(one)
    lines = []
    for name, runs in of_row.items():
        size = [f"{runs[0]['macs'] / 1e6:.2f}", runs[0]["epochs"]]
        top1 = [mean_and_spread([run[key] for run in runs]) for key in ("dense_top1", "pruned_top1", "top1")]
        lines.append([name, *size, *top1, len(runs)])
    return sorted(lines, key=lambda line: -float(str(line[5]).split()[0]))


def speed_rows(speed: dict[str, Any]) -> tuple[list[list[str]], list[str]]:
    """Milliseconds of a step by network and way, and of ours the share of the bare loop's."""
    ways = list(dict.fromkeys(one["way"] for one in speed.values()))
    rows = []
    for name in dict.fromkeys(one["network"] for one in speed.values()):
        of = {one["way"]: one for one in speed.values() if one["network"] == name}
        bare = of.get("bare", {}).get("ms", math.nan)
        cells = [f"{of[way]['ms']:.2f} ({of[way]['ms'] / bare:.2f})" if way in of else "" for way in ways]
        best = max(
            (one["images_per_second"] for way, one in of.items() if way not in ("bare", "airbench-style")), default=0
        )
        rows.append([name, *cells, f"{best:,.0f}"])
    return rows, ["a step, ms (x bare)", *ways, "ours, images/s"]


def report(quality: Quality) -> None:
    """Print the tables and write all figures to gpu.json."""
    out, results = quality.out, quality.results()
    parts = {name: read_or(out / f"{name}.json", {}) for name in ("tests", "speed", "search", "tau", "parts")}
    write(out / "gpu.json", {**parts, "quality": results, **card(quality.device)})
    measured = [*parts["speed"].values(), *parts["search"].values(), *results, card(quality.device)]
    print("\n" + "\n".join(dict.fromkeys(f"{one['card']}, torch {one['torch']}" for one in measured)))
    if parts["tests"]:
        print("\n".join([f"pytest -m gpu: {parts['tests']['told']}", *parts["tests"]["failed"][:10]]))
    if parts["speed"]:
        rows, heads = speed_rows(parts["speed"])
        print(f"\n{tabulate(rows, heads, tablefmt='github')}")
    for name, one in parts["search"].items():
        unit = "episodes" if name == "amc" else "candidates"
        print(f"{name}: {one['evaluations'] / one['seconds']:.2f} {unit} a second ({one['evaluations']} of them)")
    heads = ["", "MACs, M", "epochs", "dense", "pruned", "top-1", "seeds"]
    for table in quality.preset.tables:
        rows = quality_rows([one for one in results if one["table"] == table.name])
        if rows:
            print(f"\n{table.name}\n{tabulate(rows, heads, tablefmt='github', disable_numparse=True)}")
            if (why := quality.no_peer(table)) is not None:
                print(f"no row of torch-pruning: {why}")
    for name in ("tau", "grid"):
        if parts["parts"].get(name, {}).get("complete"):
            print(f"\n{name}\n" + "\n".join((out / "logs" / f"{name}.log").read_text().strip().splitlines()[-14:]))
    large = [path for path in out.rglob("*") if path.is_file() and path.stat().st_size > LARGEST]
    for path in large:
        print(f"larger than 16 MiB: {path.relative_to(out)}")
