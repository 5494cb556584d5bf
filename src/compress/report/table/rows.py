"""The rows of a table: one per run, or one per group of runs with means and standard deviations."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any

from compress.report.read.runs import Run, number
from compress.report.table import as_text
from compress.report.table.columns import Column
from compress.report.table.differences import differing
from compress.report.table.footnotes import footnotes_of, footnotes_of_group
from compress.report.table.query import Keys, group_runs, sort_rows
from compress.report.table.shortened import shortened

MAX_SETTING = 40  # characters of a setting's value in a table, if those of other rows do not differ in more
IN_BUDGET_UNIT = ("asked", "achieved")  # columns


@dataclass(frozen=True)
class TableRow:
    """One run, or a group of runs of which the numbers are means."""

    runs: tuple[Run, ...]
    settings: Mapping[str, Any]  # by header
    values: Mapping[str, Any]  # by the key of a column
    deviations: Mapping[str, float] = field(default_factory=dict)  # sample standard deviations, of groups only
    footnotes: tuple[str, ...] = ()

    @property
    def budget_kind(self) -> str | None:
        """None where its runs have budgets of different kinds."""
        kinds = {run.budget_kind for run in self.runs}
        return kinds.pop() if len(kinds) == 1 else None


@dataclass(frozen=True)
class Table:
    """What `compress compare` shows, whatever the format."""

    rows: Sequence[TableRow]
    settings: Sequence[str]  # headers of the columns of settings, which come first
    columns: Sequence[Column]
    by: Sequence[str] = ()  # keys that the rows are grouped by

    @cached_property
    def texts(self) -> Mapping[str, Mapping[str, str]]:
        """Of every column of settings its values as it shows them: long ones cut, but for folders, which people
        copy."""
        values = {header: [setting_text(row.settings[header]) for row in self.rows] for header in self.settings}
        return {
            header: dict(zip(texts, texts, strict=True)) if header == "run" else shortened(texts, MAX_SETTING)
            for header, texts in values.items()
        }

    @cached_property
    def budget_kind(self) -> str | None:
        """The kind of all budgets that were asked, if it is the same."""
        kinds = {row.budget_kind for row in self.rows if row.values.get("asked") is not None}
        return kinds.pop() if len(kinds) == 1 else None


def make_table(runs: Sequence[Run], keys: Keys, by: Sequence[str] = ()) -> Table:
    """A row per run; with `by`, full keys of columns or settings, a row per group of runs that agree in them."""
    footnotes = dict(zip(map(id, runs), footnotes_of(runs, by), strict=True))
    found = keys.figures_of(runs)
    if not by:
        headers = {key: keys.short[key] for key in differing([run.settings for run in runs])}
        rows = [_row((run,), headers, keys, found, footnotes[id(run)]) for run in runs]
    else:
        headers = {key: keys.short.get(key, key) for key in by}
        rows = [
            _row(group, headers, keys, found, footnotes_of_group(group, [footnotes[id(run)] for run in group], by))
            for group in group_runs(runs, [keys.getter(key) for key in by])
        ]
    if _look_equal(rows):
        rows = [_with_folder(row) for row in rows]
    return Table(rows, list(rows[0].settings), found, by)


def _row(
    runs: tuple[Run, ...], headers: Mapping[str, str], keys: Keys, found: Sequence[Column], footnotes: Sequence[str]
) -> TableRow:
    settings = {header: keys.getter(key)(runs[0]) for key, header in headers.items()}
    if len(runs) == 1:
        return TableRow(runs, settings, {column.key: column.of(runs[0]) for column in found}, {}, tuple(footnotes))
    values, deviations = {}, {}
    for column in found:
        values[column.key], sd = _mean([column.of(run) for run in runs])
        if sd is not None:
            deviations[column.key] = sd
    asked = {str(run.asked) for run in runs}
    if len(asked) > 1:  # a mean over different budgets says nothing
        values |= dict.fromkeys(IN_BUDGET_UNIT)
        deviations = {key: sd for key, sd in deviations.items() if key not in IN_BUDGET_UNIT}
    return TableRow(runs, settings, values, deviations, tuple(footnotes))


def _mean(values: Sequence[Any]) -> tuple[Any, float | None]:
    """Mean and sample standard deviation; None if a run lacks the value, since a mean of the others would mislead.
    Of texts that text, if all are the same."""
    known = [value for value in values if value is not None]
    if not known or len(known) < len(values):
        return None, None
    if isinstance(known[0], str):
        return known[0] if len(set(known)) == 1 else None, None
    mean, sd = as_text.mean_and_sd(known)
    return mean, sd if len(known) > 1 else None


def _look_equal(rows: Sequence[TableRow]) -> bool:
    """Whether a reader could not tell two rows apart by their settings and budgets."""
    shown = [
        (
            *map(setting_text, row.settings.values()),
            row.budget_kind,
            row.values.get("asked"),
            str(row.runs[0].beside),
        )
        for row in rows
    ]
    return len(set(shown)) < len(shown)


def _with_folder(row: TableRow) -> TableRow:
    first, *others = row.runs
    more = f" and {len(others)} more" if others else ""
    return replace(row, settings={**row.settings, "run": f"{first.folder}{more}"})


def setting_text(value: Any) -> str:
    return "" if value is None else as_text.one_line(as_text.setting(value))


def row_value(row: TableRow, keys: Keys, key: str) -> Any:
    """What to sort a row by: its number, or the setting of its runs; the mean of that where they differ."""
    if key in row.values:
        return row.values[key]
    values = [keys.getter(key)(run) for run in row.runs]
    is_same = all(as_text.setting(value) == as_text.setting(values[0]) for value in values)
    return values[0] if is_same else _mean([number(value) for value in values])[0]


def same_or_all(row: TableRow, keys: Keys, key: str) -> Any:
    """The setting of a row's runs, or a text with all its values if they differ: a mean of settings says nothing."""
    values = {as_text.setting(value): value for value in map(keys.getter(key), row.runs)}
    in_order = sort_rows(list(values.items()), [(lambda item: item[1], False)])
    return in_order[0][1] if len(values) == 1 else " | ".join(text for text, _ in in_order)


def number_text(row: TableRow, column: Column, with_budget_kind: bool) -> str:
    """A cell: the number, and its standard deviation where that is not 0."""
    value, sd, text = row.values.get(column.key), row.deviations.get(column.key), column.text
    if value is None:
        return ""
    if column.key in IN_BUDGET_UNIT:
        text = partial(as_text.in_budget_unit, str(row.budget_kind), padded=bool(sd))
    cell = as_text.with_sd(text(value), text(sd)) if sd else text(value)
    return f"{row.budget_kind} {cell}" if with_budget_kind and column.key == "asked" else cell
