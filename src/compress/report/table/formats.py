"""A comparison as text: a table to read, markdown or LaTeX to paste, csv or json with raw figures to go on with."""

import csv
import io
import json
import math
import re
from collections.abc import Sequence
from typing import Any

from tabulate import tabulate

from compress.io.files import JSON
from compress.report.table.columns import Measure
from compress.report.table.differences import one_line, setting_text
from compress.report.table.rows import Comparison, Row, cell_text, figure_text
from compress.schema.settings import BUDGETS

FORMATS = ("table", "csv", "json", "markdown", "latex")
STARTS = re.compile(r"(?m)^(\s*)(?=[\[*])")  # what \\ and \midrule before it take for their own option


def render(compared: Comparison, style: str, details: bool = False) -> str:
    """In one of `FORMATS`; marks are letters with footnotes, in csv and json whole sentences."""
    if style == "json":
        return json.dumps([_finite(_raw(compared, row)) for row in compared.rows], indent=1, allow_nan=False)
    if style == "csv":
        return _csv([_raw(compared, row) for row in compared.rows])
    shown = [measure for measure in compared.measures if _is_shown(measure, compared, details)]
    letters = _letters(compared.rows)
    names = [name for name in compared.settings if not _is_budget(name, compared)]
    headers = [*names, *(["n"] if compared.by else []), *[_header(m, compared) for m in shown]]
    cells = [_cells(compared, row, names, shown) for row in compared.rows]
    if letters:
        headers.append("marks")
        cells = [
            [*mine, " ".join(letters[mark] for mark in row.marks)]
            for mine, row in zip(cells, compared.rows, strict=True)
        ]
    sides = ["left"] * len(names) + ["right"] * (len(headers) - len(names))
    if letters:
        sides[-1] = "left"
    table = text_table(cells, headers, style, sides)
    notes = [f"{letter}: {mark}" for mark, letter in letters.items()]
    return "\n".join([table, *[note(line, style) for line in notes]])


def _is_shown(measure: Measure, compared: Comparison, details: bool) -> bool:
    some = any(row.figures.get(measure.key) is not None for row in compared.rows)
    return bool(measure.header) and some and (details or not measure.detail)


def _is_budget(name: str, compared: Comparison) -> bool:
    """Whether a column of settings only says again what is in the column of the budget asked."""
    known = [row for row in compared.rows if row.settings[name] is not None]
    return name in BUDGETS and all(row.figures.get("asked") is not None for row in known)


def _header(measure: Measure, compared: Comparison) -> str:
    return f"asked\n{compared.kind}" if measure.key == "asked" and compared.kind else measure.header


def _letters(rows: Sequence[Row]) -> dict[str, str]:
    """A letter per mark, in the order of the rows: a, b, ..., z, a1, b1, ..."""
    marks = dict.fromkeys(mark for row in rows for mark in row.marks)
    return {mark: chr(ord("a") + at % 26) + str(at // 26 or "") for at, mark in enumerate(marks)}


def _cells(compared: Comparison, row: Row, names: Sequence[str], shown: Sequence[Measure]) -> list[str]:
    settings = [cell_text(name, row.settings[name]) for name in names]
    count = [str(len(row.runs))] if compared.by else []
    return [*settings, *count, *[figure_text(row, measure, compared.kind is None) for measure in shown]]


def text_table(cells: Sequence[Sequence[str]], headers: Sequence[str], style: str, sides: Sequence[str]) -> str:
    """tabulate's, with what it leaves to its users: a header on one line, and what a format cannot hold."""
    cells = [[one_line(cell) for cell in row] for row in cells]
    if style == "table":
        return tabulate(cells, headers, colalign=sides, disable_numparse=True)
    headers = [header.replace("\n", " ") for header in headers]
    if style == "markdown":
        escaped = [[cell.replace("|", "\\|") for cell in row] for row in cells]
        return tabulate(escaped, headers, "github", colalign=sides, disable_numparse=True)
    text = tabulate(cells, headers, "latex_booktabs", colalign=sides, disable_numparse=True)
    return STARTS.sub(r"\1{}", text).replace("±", r"$\pm$").replace("…", r"\dots{}")


def note(line: str, style: str) -> str:
    """A line below a table."""
    line = one_line(line)
    return {"latex": f"% {line}", "markdown": f"\n{line}"}.get(style, line)


# -- raw -------------------------------------------------------------------------------------------------------


def _raw(compared: Comparison, row: Row) -> JSON:
    """One flat object: settings, figures in plain units (top-1 in %, MACs as counted, seconds), marks, folders."""
    found: JSON = {name: value for name, value in row.settings.items() if name != "run" or name in compared.by}
    if compared.by:
        found["n"] = len(row.runs)
    found["budget"] = row.kind
    for measure in compared.measures:
        found[measure.key] = row.figures.get(measure.key)
        if compared.by:
            found[f"{measure.key}_sd"] = row.spreads.get(measure.key)
    if not compared.by:
        run = row.runs[0]
        found |= {"met": run.budget.get("met"), "started": run.started, "run": str(run.folder)}
    else:
        found["runs"] = [str(run.folder) for run in row.runs]
    return {**found, "marks": list(row.marks)}


def _finite(value: Any) -> Any:
    """JSON has no infinity and no NaN: as text."""
    if isinstance(value, dict):
        return {key: _finite(inside) for key, inside in value.items()}
    if isinstance(value, list):
        return [_finite(inside) for inside in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def _csv(rows: Sequence[JSON]) -> str:
    file = io.StringIO()
    writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows({key: _field(value) for key, value in row.items()} for row in rows)
    return file.getvalue().rstrip("\n")


def _field(value: Any) -> Any:
    return "; ".join(map(setting_text, value)) if isinstance(value, list) else value


def legend(compared: Comparison) -> str:
    """What the columns mean, in one line."""
    runs = [run for row in compared.rows for run in row.runs]
    where = dict.fromkeys(
        f"{run.results[run.final]['latency_threads']} thread(s) on {run.results[run.final]['latency_device']}"
        for run in runs
        if {"latency_threads", "latency_device"} <= run.results[run.final].keys()
    )
    parts = ["top-1: test images, %"]
    if where:
        parts.append(f"latency: batch 1, median, {' or '.join(where)}")
    parts.append("seconds: of all stages, reused ones too, and of this run alone")
    if compared.by:
        parts.append("±: standard deviation over n runs, left out where all are equal")
    return "; ".join(parts)


def shared_settings(compared: Comparison) -> str:
    """What all rows have in common, of the choices that a reader asks for first."""
    runs = [run for row in compared.rows for run in row.runs]
    asked = ("dataset", "model", "method", "teacher", "distill", "quick", "seed")
    values = {key: {setting_text(run.settings.get(key)) for run in runs} for key in asked}
    same = [f"{key} {values[key].copy().pop()}" for key in asked if len(values[key]) == 1]
    told = [text for text in same if not text.endswith((" null", " false"))]
    return f"{len(runs)} run{'s' if len(runs) > 1 else ''}" + (f"; all: {', '.join(told)}" if told else "")
