"""`compress compare`: a table over runs that are done, from their folders alone. No torch, no Hydra."""

import argparse
import io
import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NoReturn, TextIO

from compress.errors import BAD_INPUT, INTERRUPTED, InputError
from compress.io.files import printable
from compress.report.read.find import run_folders, without_runs
from compress.report.read.runs import Run, Unfinished, read_runs, with_controls
from compress.report.table.formats import FORMATS, legend, render, shared_settings
from compress.report.table.pair import side_by_side
from compress.report.table.rows import Comparison, Row, compare, row_value
from compress.report.table.select import Keys, condition, front, ordered, sizes, where

EXAMPLES = """\
examples:
  compress compare outputs/sweeps
      every run below a folder: one row each, with the settings that differ
  compress compare outputs --where method=slimming,camc --where 'top1>90' --sort -top1
  compress compare outputs --by method,percent
      mean ± sd over what is left (the seeds), n shown
  compress compare outputs --pareto --sort macs
      only runs that no other beats in both MACs and top-1
  compress compare 'outputs/2026-11-*' --format latex > table.tex
  compress compare outputs/sweeps --plot figures/
  compress compare outputs/2026-11-20/10-00-00-000000 outputs/2026-11-20/11-00-00-000000
      of exactly two runs: settings, figures and layers side by side

keys of --sort, --where and --by are those of csv and json, figures (top1, dense, pruned, finetuned, delta, macs,
macs_share, nonzero_macs, params, latency, asked, achieved, seconds, seconds_run, started), budgets (preserve_ratio,
percent, flops_limit: what was asked) and every setting of the runs, short where one alone is called so (method,
seed, finetune.lr). Figures are in plain units: top1 in %, macs as counted, shares in 0..1.
"""


class Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message}; see compress compare --help")


def parser() -> argparse.ArgumentParser:
    new = Parser(
        prog="compress compare",
        description="A table over finished runs, from their folders alone; what is unfinished is listed below it.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    paths = "run folders, folders above them, globs (default: outputs)"
    where_ = "only runs with key=value (or a,b), !=, <, <=, >, >=; repeatable"
    sort = "by a figure or a setting, descending with -KEY; several with commas"
    new.add_argument("paths", nargs="*", default=["outputs"], metavar="PATH", help=paths)
    new.add_argument("--where", action="append", default=[], metavar="COND", help=where_)
    new.add_argument("--sort", default="", metavar="KEY", help=sort)
    new.add_argument("--by", default="", metavar="KEYS", help="one row per group of runs that share these keys")
    new.add_argument("--pareto", action="store_true", help="only rows on the accuracy/MACs front of their dataset")
    new.add_argument("--controls", action="store_true", help="controls of the runs as rows of their own")
    new.add_argument("--details", action="store_true", help="more columns: thresholds, controls' top-1, file, epochs")
    new.add_argument("--format", choices=FORMATS, default="table", help=", ".join(FORMATS))
    new.add_argument("--plot", metavar="DIR", help="write figures there: fronts, bars, curves, layers, searches")
    return new


def main(argv: Sequence[str]) -> int:
    """Exit code 0, 2 for bad input (one line per mistake)."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a terminal that has no ± shows a question mark
    try:
        options = parser().parse_args(_joined(argv))
        _report(options)
        sys.stdout.flush()
    except InputError as error:
        for problem in error.problems:
            say(f"compress compare: {problem}", file=sys.stderr)
        return BAD_INPUT
    except BrokenPipeError:  # compress compare outputs | head
        _quietly()
    except OSError as error:  # a full disk, or figures where none can be written
        say(f"compress compare: {error.filename or 'the output'}: {error.strerror}", file=sys.stderr)
        _quietly()
        return BAD_INPUT
    except KeyboardInterrupt:
        return INTERRUPTED
    return 0


def say(text: str, file: TextIO | None = None) -> None:
    """Print lines in which names of folders and foreign texts steer no terminal."""
    print("\n".join(map(printable, text.split("\n"))), file=file or sys.stdout)


def _quietly() -> None:
    """Nothing more can be printed, not even at the end of the process."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _joined(argv: Sequence[str]) -> list[str]:
    """`--sort -top1` as argparse wants it, which takes -top1 for an option."""
    words = list(argv)
    for at in range(len(words) - 1, 0, -1):
        if words[at - 1] == "--sort":
            words[at - 1 : at + 1] = [f"--sort={words[at]}"]
    return words


def _report(options: argparse.Namespace) -> None:
    for text in options.where:
        condition(text)  # wrong whatever the runs are
    runs, unfinished = read_runs(run_folders(options.paths))
    unfinished += [Unfinished(Path(path), "no run found in it") for path in without_runs(options.paths)]
    if options.controls:
        runs = with_controls(runs)
    aside = sys.stdout if options.format in ("table", "markdown") else sys.stderr
    if runs:
        keys = Keys(runs)
        runs = where(runs, options.where, keys)
        by = [keys.full(key, "--by") for key in _listed(options.by)]
        compared = compare(runs, keys, by)
        if options.pareto:
            runs = [run for row in on_front(compared, keys) for run in row.runs]
            compared = compare(runs, keys, by)
        compared = _sorted(compared, keys, options.sort)
        figures = None if options.plot is None else _figures_folder(options.plot)
        say(_text(compared, keys, options))
        if figures is not None:
            _plot(runs, figures)
    else:
        if options.plot is not None:
            _figures_folder(options.plot)
        say("no finished run", file=aside)
        if options.format == "json":
            print("[]")
    if unfinished:
        say(f"\n{_listing(unfinished, options.format)}", file=aside)


def _listed(keys: str) -> list[str]:
    return [key.strip() for key in keys.split(",") if key.strip()]


def _sorted(compared: Comparison, keys: Keys, wish: str) -> Comparison:
    wishes = [(keys.full(key.lstrip("-"), "--sort"), key.startswith("-")) for key in _listed(wish)]
    by = [(partial(row_value, keys=keys, key=key), descending) for key, descending in wishes]
    return replace(compared, rows=ordered(compared.rows, by))


def on_front(compared: Comparison, keys: Keys) -> list[Row]:
    """The rows that no other of the same dataset beats, in their order."""
    datasets: dict[str, list[int]] = {}
    for at, row in enumerate(compared.rows):
        datasets.setdefault(str(row_value(row, keys, "dataset")), []).append(at)
    best: set[int] = set()
    for places in datasets.values():
        figures = [compared.rows[place].figures for place in places]
        counted = sizes([(each.get("macs"), each.get("nonzero_macs")) for each in figures])
        best |= {places[at] for at in front(list(zip(counted, [each.get("top1") for each in figures], strict=True)))}
    if not best:
        raise InputError("--pareto: no run has both MACs and top-1")
    return [row for at, row in enumerate(compared.rows) if at in best]


def _text(compared: Comparison, keys: Keys, options: argparse.Namespace) -> str:
    style = options.format
    plain = not (options.by or options.sort or options.pareto or options.details)
    if len(compared.rows) == 2 and plain and style not in ("csv", "json"):
        return side_by_side(compared, keys, style)
    if style in ("csv", "json", "latex"):
        return render(compared, style, options.details)
    below = [shared_settings(compared), legend(compared)]
    gap = "\n\n" if style == "markdown" else "\n"
    return gap.join([render(compared, style, options.details), *below])


def _listing(unfinished: Sequence[Unfinished], style: str) -> str:
    bullet = "- " if style == "markdown" else "  "
    lines = [f"{bullet}{one.folder}: {one.why}" for one in unfinished]
    return "\n".join([f"without results ({len(unfinished)}):", *lines])


def _figures_folder(named: str) -> Path:
    folder = Path(named).expanduser()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--plot {folder}: cannot make the folder ({error.strerror})") from None
    if not os.access(folder, os.W_OK | os.X_OK):
        raise InputError(f"--plot {folder}: cannot write there")
    return folder


def _plot(runs: Sequence[Run], folder: Path) -> None:
    """Figures, and on standard error where they are and what could not be drawn."""
    from compress.report.plot.charts import draw

    drawn, notes = draw(runs, folder)
    for line in [*(f"drawn: {path}" for path in drawn), *notes]:
        say(line, file=sys.stderr)


def sweep_table(folders: Sequence[Path]) -> str:
    """What a sweep ends with: the same table with all details."""
    runs, _ = read_runs(folders)
    if not runs:
        return "no network was measured"
    compared = compare(runs, Keys(runs))
    return "\n".join([render(compared, "table", details=True), shared_settings(compared), legend(compared)])
