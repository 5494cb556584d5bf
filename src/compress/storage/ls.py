"""The command `compress ls`: runs, sweeps and the cache below a folder, with their sizes; without torch and Hydra."""

import argparse
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from tabulate import tabulate

from compress.io.files import printable
from compress.io.paths import CACHE
from compress.storage.cache import STAGES, Entry, entries, size
from compress.storage.command import Parser, answered, existing, in_bytes, many
from compress.storage.runs import RunFolder, runs_below
from compress.storage.unused import needed

WIDTH = 80
NAME_WIDTH = 38  # of a run folder, where a line may have no more than WIDTH
SWEEP_FILE = "multirun.yaml"  # what Hydra writes into the folder of a sweep


def parser() -> Parser:
    new = Parser(
        prog="compress ls",
        description="Runs, sweeps and the cache of finished stages below a folder, with their sizes.",
        allow_abbrev=False,
    )
    new.add_argument("outputs", nargs="?", default="outputs", metavar="OUTPUTS", help="default: outputs")
    new.add_argument("--wide", action="store_true", help="names in full, whatever the width of the terminal")
    return new


def main(argv: Sequence[str]) -> int:
    return answered(parser(), argv, _list)


def _list(options: argparse.Namespace) -> None:
    print(listing(existing(options.outputs), options.wide))


def listing(outputs: Path, wide: bool = False) -> str:
    """What lies below a folder, as text of at most 80 columns unless `wide`."""
    runs, stages = runs_below([outputs]), entries(outputs)
    of_sweep: dict[Path, list[RunFolder]] = defaultdict(list)
    single: list[RunFolder] = []
    for run in runs:
        sweep = sweep_of(run, outputs)
        (single if sweep is None else of_sweep[sweep]).append(run)
    parts = [
        f"{printable(str(outputs))}\n{many(len(single), 'run')}, {many(len(of_sweep), 'sweep')}, "
        f"{many(len(stages), 'stage')} in the cache; {in_bytes(size(outputs))}",
        _run_table(single, outputs, wide),
        _sweep_table(of_sweep, outputs, wide),
        _cache_table(outputs, stages, runs),
    ]
    return "\n\n".join(part for part in parts if part)


def sweep_of(run: RunFolder, outputs: Path) -> Path | None:
    """The folder of the sweep that a run is a job of: the nearest one above it, up to `outputs`."""
    for folder in run.path.parents:
        if (folder / SWEEP_FILE).is_file():
            return folder
        if folder == outputs:
            break
    return None


def _run_table(runs: Sequence[RunFolder], outputs: Path, wide: bool) -> str:
    rows = [
        [_name(run.path, outputs, wide), run.status, _method(run), in_bytes(size(run.path))]
        for run in sorted(runs, key=lambda run: (run.started, run.path))
    ]
    return _table(["run", "status", "method", "size"], rows)


def _method(run: RunFolder) -> str:
    method = run.config.get("method")
    return printable(str(method.get("name", ""))) if isinstance(method, dict) else ""


def _sweep_table(sweeps: dict[Path, list[RunFolder]], outputs: Path, wide: bool) -> str:
    rows = [
        [_name(folder, outputs, wide), len(jobs), told(Counter(job.status for job in jobs)), in_bytes(size(folder))]
        for folder, jobs in sorted(sweeps.items())
    ]
    return _table(["sweep", "jobs", "of which", "size"], rows)


def told(counts: Mapping[str, int]) -> str:
    """9 done, 1 failed."""
    return ", ".join(f"{count} {what}" for what, count in sorted(counts.items(), key=lambda item: -item[1]))


def _cache_table(outputs: Path, stages: Sequence[Entry], runs: Sequence[RunFolder]) -> str:
    kept = needed(stages, runs)
    rows = []
    for name in STAGES:
        found = [entry for entry in stages if entry.stage == name]
        idle = [entry for entry in found if entry.path not in kept]
        if found:
            counts: Counter[str] = Counter(entry.kind for entry in found)
            whole = f"{counts.pop('whole', 0)}" + (f" ({told(counts)})" if counts else "")
            rows.append([name, whole, in_bytes(sum(entry.bytes for entry in found)), len(idle) or ""])
    scores = [path for path in (outputs / CACHE).glob("scores-*.jsonl") if path.is_file()]
    if scores:
        rows.append(["scores", len(scores), in_bytes(sum(map(size, scores))), ""])
    text = _table(["cache", "stages", "size", "no run needs"], rows)
    idle = [entry for entry in stages if entry.path not in kept]
    if idle:
        freed = in_bytes(sum(entry.bytes for entry in idle))
        text += f"\nno run refers to {many(len(idle), 'stage')} of {freed}; compress clean removes them"
    return text


def _table(headers: list[str], rows: Sequence[Sequence[object]]) -> str:
    if not rows:
        return ""
    aligned = ["right" if header == "size" else "left" for header in headers]
    return tabulate(rows, headers, colalign=aligned, disable_numparse=True)


def _name(path: Path, outputs: Path, wide: bool) -> str:
    """A folder below `outputs`, its middle left out where it is too long."""
    name = printable(str(path.relative_to(outputs)) if path.is_relative_to(outputs) else str(path))
    if wide or len(name) <= NAME_WIDTH:
        return name
    head = NAME_WIDTH // 2
    return f"{name[:head]}...{name[head + 3 - NAME_WIDTH :]}"
