"""The rows of a comparison: one per run, or one per group of runs with mean and standard deviation."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any

from compress.report.read.runs import Run, number
from compress.report.table.columns import Measure, measures
from compress.report.table.differences import differing, one_line, setting_text
from compress.report.table.footnotes import group_marks, marks_of
from compress.report.table.select import Keys, grouped
from compress.report.table.units import in_unit, mean_and_deviation, with_spread

LONGEST = 40  # characters of a setting's value in a table
KINDLY = ("asked", "achieved")  # in the unit of the budget


@dataclass(frozen=True)
class Row:
    """One run, or several of which figures are means."""

    runs: tuple[Run, ...]
    settings: Mapping[str, Any]  # by the headers of the table
    figures: Mapping[str, Any]  # by key
    spreads: Mapping[str, float] = field(default_factory=dict)  # sample standard deviations, of several runs
    marks: tuple[str, ...] = ()

    @property
    def kind(self) -> str | None:
        """The unit of the budget, if it is one."""
        kinds = {run.budget_kind for run in self.runs}
        return kinds.pop() if len(kinds) == 1 else None


@dataclass(frozen=True)
class Comparison:
    """Rows with the names of their columns."""

    rows: Sequence[Row]
    settings: Sequence[str]  # headers of the settings that stand before the figures
    measures: Sequence[Measure]
    by: Sequence[str] = ()  # what the rows are grouped by

    @cached_property
    def kind(self) -> str | None:
        """The budget's unit in all rows that have one, if it is the same."""
        kinds = {row.kind for row in self.rows if row.figures.get("asked") is not None}
        return kinds.pop() if len(kinds) == 1 else None


def compare(runs: Sequence[Run], keys: Keys, by: Sequence[str] = ()) -> Comparison:
    """A row per run; with `by`, keys of figures or settings, a row per group of runs that share them."""
    marks = dict(zip(map(id, runs), marks_of(runs), strict=True))
    found = measures(runs)
    if not by:
        differ = differing([run.settings for run in runs])
        names = {key: keys.short[key] for key in differ}
        rows = [_row((run,), names, keys, found, marks[id(run)]) for run in runs]
    else:
        names = {key: keys.short.get(key, key) for key in by}
        rows = [
            _row(group, names, keys, found, group_marks(group, [marks[id(run)] for run in group], by))
            for group in grouped(runs, [keys.value(key) for key in by])
        ]
    if _alike(rows):
        rows = [_with_path(row) for row in rows]
    return Comparison(rows, list(rows[0].settings), found, by)


def _row(
    runs: tuple[Run, ...], names: Mapping[str, str], keys: Keys, found: Sequence[Measure], marks: Sequence[str]
) -> Row:
    figures, spreads = {}, {}
    for measure in found:
        values = [measure.of(run) for run in runs]
        figures[measure.key], spread = _mean(values)
        if spread is not None:
            spreads[measure.key] = spread
    asked = {str(run.budget.get("asked")) for run in runs}
    if len(asked) > 1:  # a mean of what was asked for says nothing
        figures |= dict.fromkeys(KINDLY)
        spreads = {key: spread for key, spread in spreads.items() if key not in KINDLY}
    settings = {name: keys.value(key)(runs[0]) for key, name in names.items()}
    return Row(runs, settings, figures, spreads, tuple(marks))


def _mean(values: Sequence[float | None]) -> tuple[float | None, float | None]:
    """Mean and sample deviation; none if a run lacks the figure: a mean over others would be another row's."""
    known = [value for value in values if value is not None]
    if not known or len(known) < len(values):
        return None, None
    mean, deviation = mean_and_deviation(known)
    return mean, deviation if len(known) > 1 else None


def _alike(rows: Sequence[Row]) -> bool:
    """Whether two rows could not be told apart by what a table shows of them."""
    told = [
        (*(cell_text(*item) for item in row.settings.items()), row.kind, row.figures.get("asked")) for row in rows
    ]
    return len(set(told)) < len(told)


def _with_path(row: Row) -> Row:
    first, *others = row.runs
    more = f" and {len(others)} more" if others else ""
    return replace(row, settings={**row.settings, "run": f"{first.folder}{more}"})


def cell_text(name: str, value: Any) -> str:
    """A setting as a table shows it, cut if it is long; a folder is there to be copied."""
    text = "" if value is None else one_line(setting_text(value))
    return text if len(text) <= LONGEST or name == "run" else text[: LONGEST - 1] + "…"


def row_value(row: Row, keys: Keys, key: str) -> Any:
    """What to sort a row by: its figure, or the setting that all of its runs share."""
    if key in row.figures:
        return row.figures[key]
    values = [keys.value(key)(run) for run in row.runs]
    same = all(setting_text(value) == setting_text(values[0]) for value in values)
    return values[0] if same else _mean([number(value) for value in values])[0]


def figure_text(row: Row, measure: Measure, named_kind: bool) -> str:
    """A cell: the mean with its deviation, or the value that all runs share."""
    value, spread, text = row.figures.get(measure.key), row.spreads.get(measure.key), measure.text
    if value is None:
        return ""
    if measure.key in KINDLY:
        text = partial(in_unit, str(row.kind), padded=bool(spread))
    cell = with_spread(text(value), text(spread)) if spread else text(value)
    return f"{row.kind} {cell}" if named_kind and measure.key == "asked" else cell
