"""Two runs side by side: the settings that differ, the numbers with their difference, the layers that differ most."""

from collections.abc import Mapping, Sequence

from compress.errors import InputError
from compress.report.read.plans import kept_shares
from compress.report.read.runs import Run
from compress.report.table import as_text
from compress.report.table.columns import Column
from compress.report.table.differences import differing
from compress.report.table.latency import are_one
from compress.report.table.query import Keys
from compress.report.table.render import note, text_table
from compress.report.table.rows import IN_BUDGET_UNIT, Table, TableRow, number_text

MAX_LAYERS = 10
SIDES = ("left", "right", "right", "right")


def side_by_side(table: Table, keys: Keys, style: str) -> str:
    """A table of two rows as three tables with a column per run."""
    (a,), (b,) = (row.runs for row in table.rows)
    parts = [
        "\n".join(note(f"{name}: {_title(run)}", style) for name, run in (("a", a), ("b", b))),
        _settings(a, b, keys, style),
        _numbers(table, style),
        *[
            note(f"{name}: {text}", style)
            for name, row in zip("ab", table.rows, strict=True)
            for text in row.footnotes
        ],
        _layers(a, b, style),
    ]
    return "\n\n".join(part.strip("\n") for part in parts)


def _title(run: Run) -> str:
    return str(run.folder) + (f", {run.control}" if run.control else "")


def _settings(a: Run, b: Run, keys: Keys, style: str) -> str:
    rows = [
        [keys.short[key], *[as_text.setting(run.settings[key]) if key in run.settings else "" for run in (a, b)]]
        for key in differing([a.settings, b.settings])
    ]
    if not rows:
        but = "" if a.asked == b.asked else " but the budget"
        return note(f"no setting differs{but}", style)
    return text_table(rows, ["setting", "a", "b"], style, SIDES[:3])


def _numbers(table: Table, style: str) -> str:
    lines = []
    kind = table.budget_kind
    for column in (column for column in table.columns if column.header):
        cells = [number_text(row, column, kind is None) for row in table.rows]
        name = f"asked {kind or ''}".strip() if column.key == "asked" else column.header.replace("\n", " ")
        lines.append([name, *cells, _difference(table.rows, column)])
    return text_table(lines, ["figure", "a", "b", "b - a"], style, SIDES)


def _difference(rows: Sequence[TableRow], column: Column) -> str:
    """In the unit of the column; empty for budgets of two kinds."""
    first, second = [row.values.get(column.key) for row in rows]
    if first is None or second is None:
        return ""
    if column.key == "latency" and are_one(*(row.runs[0].results[row.runs[0].final] for row in rows)):
        return "not told apart"
    if column.key not in IN_BUDGET_UNIT:
        return column.difference(first, second)
    kinds = {row.budget_kind for row in rows}
    is_share = kinds.isdisjoint(as_text.BUDGET_SUFFIXES)
    difference = as_text.difference_of_shares if is_share else as_text.difference_in_percent
    return difference(first, second) if len(kinds) == 1 else ""


# -- layers ----------------------------------------------------------------------------------------------------


def _layers(a: Run, b: Run, style: str) -> str:
    try:
        first, second = kept_shares(a), kept_shares(b)
    except InputError as error:
        return note(f"the plans cannot be compared: {error}", style)
    shared = [name for name in first if name in second]
    if not shared:
        return note("the plans share no layer", style)
    rows = [[name, *_shares(first[name], second[name])] for name in most_different(first, second)]
    if not rows:
        return note(f"both plans keep the same share of all {len(shared)} layers", style)
    text = text_table(rows, ["layer", "a keeps", "b keeps", "b - a"], style, SIDES)
    same = sum(first[name] == second[name] for name in shared)
    return f"{text}\n{note(f'of {len(shared)} layers, {same} keep the same share in both', style)}"


def most_different(first: Mapping[str, float], second: Mapping[str, float]) -> list[str]:
    """Layers of both plans with different shares, the largest difference first."""
    shared = [name for name in first if name in second and first[name] != second[name]]
    return sorted(shared, key=lambda name: -abs(first[name] - second[name]))[:MAX_LAYERS]


def _shares(first: float, second: float) -> list[str]:
    return [as_text.share(first), as_text.share(second), as_text.difference_of_shares(first, second)]
