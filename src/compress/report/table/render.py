"""A table as text: to read, as markdown or LaTeX to paste, as csv or json with plain numbers for other programs."""

import csv
import io
import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from compress.io.files import JSON
from compress.report.table import as_text, latency
from compress.report.table.columns import Column
from compress.report.table.rows import Table, TableRow, number_text, setting_text
from compress.schema.settings import BUDGETS

EXTRA_WIDTH = 2  # of a column beyond its header
FORMATS = ("table", "csv", "json", "markdown", "latex")
# A cell that begins a line with [ or *: LaTeX takes these for options of the \\ or \midrule before it.
LATEX_OPTION = re.compile(r"(?m)^(\s*)(?=[\[*])")


def render(table: Table, style: str, details: bool = False) -> str:
    """In one of `FORMATS`. Footnotes are letters in rows and lines below the table; csv and json hold their text."""
    if style == "json":
        return json.dumps([_finite(_fields(table, row)) for row in table.rows], indent=1, allow_nan=False)
    if style == "csv":
        return _csv([_fields(table, row) for row in table.rows])
    grid = make_grid(table, details)
    lines = [note(line, style) for line in grid.notes]
    return "\n".join([text_table(grid.cells, grid.headers, style, grid.sides), *lines])


@dataclass(frozen=True)
class Grid:
    """A table as its readers see it."""

    headers: Sequence[str]  # of one line or two
    sides: Sequence[str]  # "left" or "right", of every column
    cells: Sequence[Sequence[str]]
    values: Sequence[Sequence[Any]]  # of every cell the plain number to sort by, None where that is its text
    notes: Sequence[str]  # what the letters in the last column mean


def make_grid(table: Table, details: bool = False) -> Grid:
    shown = [column for column in table.columns if _is_shown(column, table, details)]
    with_asked = any(column.key == "asked" for column in shown)
    settings = [header for header in table.settings if not (with_asked and _repeats_budget(header, table))]
    headers = [*settings, *(["n"] if table.by else []), *[_header(column, table) for column in shown]]
    sides = ["left"] * len(settings) + ["right"] * (len(headers) - len(settings))
    cells = [_cells(table, row, settings, shown) for row in table.rows]
    before = len(headers) - len(shown)
    values = [[None] * before + [row.values.get(column.key) for column in shown] for row in table.rows]
    letters = _letters(table.rows)
    if letters:
        headers, sides = [*headers, "marks"], [*sides, "left"]
        for row, line, plain in zip(table.rows, cells, values, strict=True):
            line.append(" ".join(letters[footnote] for footnote in row.footnotes))
            plain.append(None)
    notes = [f"{letter}: {footnote}" for footnote, letter in letters.items()]
    return Grid(headers, sides, cells, values, notes)


def _is_shown(column: Column, table: Table, details: bool) -> bool:
    is_known = any(row.values.get(column.key) is not None for row in table.rows)
    return bool(column.header) and is_known and (details or not column.detail)


def _repeats_budget(header: str, table: Table) -> bool:
    """Whether a column of settings only repeats the column "asked"."""
    known = [row for row in table.rows if row.settings[header] is not None]
    return header in BUDGETS and all(row.values.get("asked") is not None for row in known)


def _header(column: Column, table: Table) -> str:
    return f"asked\n{table.budget_kind}" if column.key == "asked" and table.budget_kind else column.header


def _letters(rows: Sequence[TableRow]) -> dict[str, str]:
    """A letter per footnote, in the order of the rows: a, b, ..., z, a1, b1, ..."""
    footnotes = dict.fromkeys(footnote for row in rows for footnote in row.footnotes)
    return {footnote: chr(ord("a") + at % 26) + str(at // 26 or "") for at, footnote in enumerate(footnotes)}


def _cells(table: Table, row: TableRow, headers: Sequence[str], shown: Sequence[Column]) -> list[str]:
    settings = [table.texts[header][setting_text(row.settings[header])] for header in headers]
    count = [str(len(row.runs))] if table.by else []
    return [*settings, *count, *[number_text(row, column, table.budget_kind is None) for column in shown]]


def text_table(cells: Sequence[Sequence[str]], headers: Sequence[str], style: str, sides: Sequence[str]) -> str:
    """By tabulate; what that leaves to its users is done here: headers on one line, escapes of the format."""
    cells = [[as_text.one_line(cell) for cell in row] for row in cells]
    if style == "table":
        return plain_table(cells, headers, sides)
    from tabulate import tabulate

    headers = [header.replace("\n", " ") for header in headers]
    if style == "markdown":
        escaped = [[cell.replace("|", "\\|") for cell in row] for row in cells]
        return tabulate(escaped, headers, "github", colalign=sides, disable_numparse=True)
    text = tabulate(cells, headers, "latex_booktabs", colalign=sides, disable_numparse=True)
    return LATEX_OPTION.sub(r"\1{}", text).replace("±", r"$\pm$").replace("…", r"\dots{}")


def plain_table(cells: Sequence[Sequence[str]], headers: Sequence[str], sides: Sequence[str]) -> str:
    """As tabulate writes it in a fiftieth of the time: headers of several lines, a rule, columns two spaces apart."""
    lines_of_headers = [header.split("\n") for header in headers]
    height = max(map(len, lines_of_headers), default=0)
    columns = [list(column) for column in zip(*cells, strict=True)] or [[] for _ in headers]
    texts = []
    for header, column, side in zip(lines_of_headers, columns, sides, strict=True):
        width = max(max(map(len, header)) + EXTRA_WIDTH, *map(len, column), 0)
        place = f"{{:{'<' if side == 'left' else '>'}{width}}}".format
        padded = [place(line) for line in [*header, *[""] * (height - len(header))]]
        texts.append([*padded, "-" * width, *map(place, column)])
    return "\n".join(map(str.rstrip, map("  ".join, zip(*texts, strict=True))))


def note(line: str, style: str) -> str:
    """A line of text beside a table: a comment in LaTeX, a paragraph in markdown."""
    line = as_text.one_line(line)
    return {"latex": f"% {line}", "markdown": f"\n{line}"}.get(style, line)


# -- csv and json ----------------------------------------------------------------------------------------------


def _fields(table: Table, row: TableRow) -> JSON:
    """A row as one flat object: settings, numbers in plain units (top-1 in %, MACs as counted), footnotes, folder."""
    found: JSON = {name: value for name, value in row.settings.items() if name != "run" or name in table.by}
    if table.by:
        found["n"] = len(row.runs)
    found["budget"] = row.budget_kind
    for column in table.columns:
        found[column.key] = row.values.get(column.key)
        if table.by:
            found[f"{column.key}_sd"] = row.deviations.get(column.key)
    if not table.by:
        run = row.runs[0]
        found |= {"met": run.budget.get("met"), "started": run.started, "run": str(run.folder)}
    else:
        found["runs"] = [str(run.folder) for run in row.runs]
    return {**found, "marks": list(row.footnotes)}


def _finite(value: Any) -> Any:
    """Infinity and NaN as text, since JSON has neither."""
    if isinstance(value, dict):
        return {key: _finite(inside) for key, inside in value.items()}
    if isinstance(value, list):
        return [_finite(inside) for inside in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def _csv(rows: Sequence[JSON]) -> str:
    file = io.StringIO()
    writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows({key: _csv_field(value) for key, value in row.items()} for row in rows)
    return file.getvalue().rstrip("\n")


def _csv_field(value: Any) -> Any:
    return "; ".join(map(as_text.setting, value)) if isinstance(value, list) else value


def legend(table: Table) -> str:
    """A line that explains the columns."""
    runs = [run for row in table.rows for run in row.runs]
    rows = [run.results[run.final] for run in runs]
    rows = [row for row in rows if {"latency_threads", "latency_device"} <= row.keys()]
    where = dict.fromkeys(map(latency.measured_in, rows))
    parts = ["top-1: test images, %"]
    if where:
        parts.append(f"latency: {latency.batches(rows)}, median, {' or '.join(where)}")
    parts.append("seconds: of all stages, reused ones too, and of this run alone")
    if table.by:
        parts.append("±: standard deviation over n runs, left out where all are equal")
    return "; ".join(parts)


def shared_settings(table: Table) -> str:
    """A line with the number of runs, and what they have in common of the settings that readers ask for first."""
    runs = [run for row in table.rows for run in row.runs]
    keys = ("dataset", "model", "method", "teacher", "distill", "quick", "seed")
    values = {key: {as_text.setting(run.settings.get(key)) for run in runs} for key in keys}
    common = {key: found.pop() for key, found in values.items() if len(found) == 1}
    named = [f"{key} {value}" for key, value in common.items() if value not in ("null", "false")]
    return f"{len(runs)} run{'s' if len(runs) > 1 else ''}" + (f"; all: {', '.join(named)}" if named else "")
