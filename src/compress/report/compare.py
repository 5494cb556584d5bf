"""The command `compress compare`: a table of finished runs, from their folders alone, without torch and Hydra."""

import argparse
import gc
import io
import os
import shlex
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NoReturn, TextIO

from compress.errors import BAD_INPUT, INTERRUPTED, InputError
from compress.io.files import atomic, printable
from compress.io.paths import is_step
from compress.report.group_by import group_by
from compress.report.read.run_folders import run_folders, without_runs
from compress.report.read.runs import Run, Unfinished, read_runs, with_controls, with_steps
from compress.report.table.pareto import macs_on_front, pareto_front
from compress.report.table.query import Keys, filtered, parse_condition, sort_rows
from compress.report.table.render import FORMATS, legend, render, shared_settings
from compress.report.table.rows import Table, TableRow, make_table, row_value, same_or_all
from compress.report.table.side_by_side import side_by_side

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
  compress compare outputs/sweeps --by percent --columns achieved,finetuned,params,macs,epochs --format latex
  compress compare outputs/sweeps --plot figures/
  compress compare outputs/sweeps --html report.html
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
    columns = "only these figures and settings, in this order; figures alone stand beside the usual settings"
    new.add_argument("--columns", default="", metavar="KEYS", help=columns)
    new.add_argument("--format", choices=FORMATS, default="table", help=", ".join(FORMATS))
    html = "write a report there: one page with the table, the figures and every run"
    new.add_argument("--html", metavar="FILE", help=html)
    new.add_argument("--plot", metavar="DIR", help="write figures there: fronts, bars, curves, layers, searches")
    return new


def main(argv: Sequence[str]) -> int:
    """Returns the exit code: 0, or 2 after bad input, with one line per mistake."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a terminal that has no ± shows a question mark
    try:
        options = parser().parse_args(_with_descending_keys(argv), argparse.Namespace(argv=list(argv)))
        with _without_gc():
            _report(options)
        sys.stdout.flush()
    except InputError as error:
        for problem in error.problems:
            say(f"compress compare: {problem}", file=sys.stderr)
        return BAD_INPUT
    except BrokenPipeError:  # compress compare outputs | head
        _drop_output()
    except OSError as error:  # a full disk, or figures where none can be written
        say(f"compress compare: {error.filename or 'the output'}: {error.strerror}", file=sys.stderr)
        _drop_output()
        return BAD_INPUT
    except KeyboardInterrupt:
        return INTERRUPTED
    return 0


@contextmanager
def _without_gc() -> Iterator[None]:
    """A table of many runs is made of many objects and no cycles: looking for some takes a fifth of its time."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def say(text: str, file: TextIO | None = None) -> None:
    """Print lines without control characters, which names of folders and texts of others may hold."""
    print("\n".join(map(printable, text.split("\n"))), file=file or sys.stdout)


def _drop_output() -> None:
    """Send the rest of the output nowhere: Python would fail once more when it flushes at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _with_descending_keys(argv: Sequence[str]) -> list[str]:
    """`--sort -top1` as `--sort=-top1`: argparse takes -top1 alone for an option."""
    words = list(argv)
    for at in range(len(words) - 1, 0, -1):
        if words[at - 1] == "--sort":
            words[at - 1 : at + 1] = [f"--sort={words[at]}"]
    return words


def _report(options: argparse.Namespace) -> None:
    for text in options.where:
        parse_condition(text)  # fails whatever runs there are
    runs, unfinished = read_runs(run_folders(options.paths))
    unfinished += [Unfinished(Path(path), "no run found in it") for path in without_runs(options.paths)]
    if options.controls:
        runs = with_controls(runs)
    if not options.by:  # else a mean would be over networks of several sizes
        runs = with_steps(runs)
    beside = sys.stdout if options.format in ("table", "markdown") else sys.stderr  # where remarks go
    if runs:
        keys = Keys(runs)
        runs = filtered(runs, options.where, keys)
        by = [keys.resolve(key, "--by") for key in _split(options.by)]
        table = make_table(runs, keys, by)
        if options.pareto:
            runs = [run for row in on_front(table, keys) for run in row.runs]
            table = make_table(runs, keys, by)
        table = _with_columns(_sorted(table, keys, options.sort), keys, _split(options.columns))
        plots, html = _outputs(options)
        say(_text(table, keys, options))
        if plots is not None:
            _plot(_drawn(runs), plots)
        if html is not None:
            _write_page(table, unfinished, html, options)
    else:
        _outputs(options)
        say("no finished run", file=beside)
        if options.format == "json":
            print("[]")
    if unfinished:
        say(f"\n{_listing(unfinished, options.format)}", file=beside)


def _split(keys: str) -> list[str]:
    return [key.strip() for key in keys.split(",") if key.strip()]


def _sorted(table: Table, keys: Keys, option: str) -> Table:
    wishes = [(keys.resolve(key.lstrip("-"), "--sort"), key.startswith("-")) for key in _split(option)]
    by = [(partial(row_value, keys=keys, key=key), descending) for key, descending in wishes]
    return replace(table, rows=sort_rows(table.rows, by))


def _with_columns(table: Table, keys: Keys, wanted: Sequence[str]) -> Table:
    """The table with these columns alone; unchanged if none is named. If no setting is among them, those by which the
    rows are told apart stay."""
    if not wanted:
        return table
    known = {column.key: column for column in table.columns}
    named = [key if key in known else keys.resolve(key, "--columns") for key in wanted]
    figures = [replace(known[key], header=known[key].header or key, detail=False) for key in named if key in known]
    others = [key for key in named if key not in known and key not in table.by]
    if not any(key not in known for key in named):
        return replace(table, columns=figures)
    settings = {keys.short.get(key, key): key for key in [*table.by, *others]}
    rows = [
        replace(row, settings={header: same_or_all(row, keys, key) for header, key in settings.items()})
        for row in table.rows
    ]
    return replace(table, rows=rows, settings=list(settings), columns=figures)


def on_front(table: Table, keys: Keys) -> list[TableRow]:
    """The rows on the Pareto front of their dataset, in their order."""
    best: set[int] = set()
    for rows in group_by(table.rows, lambda row: str(row_value(row, keys, "dataset"))).values():
        macs = macs_on_front([(row.values.get("macs"), row.values.get("nonzero_macs")) for row in rows])
        top1 = [row.values.get("top1") for row in rows]
        best |= {id(rows[at]) for at in pareto_front(list(zip(macs, top1, strict=True)))}
    if not best:
        raise InputError("--pareto: no run has both MACs and top-1")
    return [row for row in table.rows if id(row) in best]


def _text(table: Table, keys: Keys, options: argparse.Namespace) -> str:
    style = options.format
    plain = not (options.by or options.sort or options.pareto or options.details or options.columns)
    if len(table.rows) == 2 and plain and style not in ("csv", "json"):
        return side_by_side(table, keys, style)
    if style in ("csv", "json", "latex"):
        return render(table, style, options.details)
    gap = "\n\n" if style == "markdown" else "\n"
    return gap.join([render(table, style, options.details), shared_settings(table), legend(table)])


def _listing(unfinished: Sequence[Unfinished], style: str) -> str:
    bullet = "- " if style == "markdown" else "  "
    lines = [f"{bullet}{one.folder}: {one.why}" for one in unfinished]
    return "\n".join([f"without results ({len(unfinished)}):", *lines])


def _outputs(options: argparse.Namespace) -> tuple[Path | None, Path | None]:
    """The folder of --plot and the file of --html, where something can be written."""
    plots, html = [None if named is None else Path(named).expanduser() for named in (options.plot, options.html)]
    if plots is not None:
        _require_folder("--plot", plots)
    if html is not None:
        if html.is_dir():
            raise InputError(f"--html {html}: is a folder; give the file to write, such as {html / 'report.html'}")
        _require_folder("--html", html.parent)
    return plots, html


def _require_folder(option: str, folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{option} {folder}: cannot make the folder ({error.strerror})") from None
    if not os.access(folder, os.W_OK | os.X_OK):
        raise InputError(f"{option} {folder}: cannot write there")


def _plot(runs: Sequence[Run], folder: Path) -> None:
    """Draw the figures; say on standard error where they are and what could not be read."""
    from compress.report.plot.many_runs import draw_runs

    drawn, notes = draw_runs(runs, folder)
    for line in [*(f"drawn: {path}" for path in drawn), *notes]:
        say(line, file=sys.stderr)


def _drawn(runs: Sequence[Run]) -> list[Run]:
    """Without the steps of runs, which would be drawn as methods of their own."""
    return [run for run in runs if not is_step(run.control or "")]


def _write_page(table: Table, unfinished: Sequence[Unfinished], path: Path, options: argparse.Namespace) -> None:
    from compress.report.page.page import Report, page
    from compress.report.plot.many_runs import figures_of

    figures, notes = figures_of(_drawn([run for row in table.rows for run in row.runs]))
    made = f"compress compare {shlex.join(options.argv)}, {time.strftime('%Y-%m-%d %H:%M')}"
    title = f"Runs in {', '.join(options.paths)}"
    content = page(
        Report(
            title=title,
            made=made,
            table=table,
            figures=figures,
            unfinished=unfinished,
            notes=notes,
            details=options.details,
        )
    )
    with atomic(path) as part:
        part.write_text(content, encoding="utf-8")
    say(f"written: {path}", file=sys.stderr)


def sweep_table(folders: Sequence[Path]) -> str:
    """What is printed at the end of a sweep: the table of its runs with --details."""
    runs, _ = read_runs(folders)
    if not runs:
        return "no network was measured"
    table = make_table(runs, Keys(runs))
    return "\n".join([render(table, "table", details=True), shared_settings(table), legend(table)])
