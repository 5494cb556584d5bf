"""Two runs side by side: the settings that differ, the figures with their difference, the layers that differ most."""

from collections.abc import Mapping, Sequence

from compress.errors import InputError
from compress.report.read.runs import Run
from compress.report.read.traces import kept_ratios
from compress.report.table import units
from compress.report.table.columns import Measure
from compress.report.table.differences import differing, setting_text
from compress.report.table.formats import note, text_table
from compress.report.table.rows import KINDLY, Comparison, Row, figure_text
from compress.report.table.select import Keys

MOST_LAYERS = 10
SIDES = ("left", "right", "right", "right")


def side_by_side(compared: Comparison, keys: Keys, style: str) -> str:
    """Three tables, of the two rows of a comparison."""
    (a,), (b,) = (row.runs for row in compared.rows)
    parts = [
        "\n".join(note(f"{name}: {_called(run)}", style) for name, run in (("a", a), ("b", b))),
        _settings(a, b, keys, style),
        _figures(compared, style),
        *[note(f"{of}: {mark}", style) for of, row in zip("ab", compared.rows, strict=True) for mark in row.marks],
        _layers(a, b, style),
    ]
    return "\n\n".join(part.strip("\n") for part in parts)


def _called(run: Run) -> str:
    return str(run.folder) + (f", {run.control}" if run.control else "")


def _settings(a: Run, b: Run, keys: Keys, style: str) -> str:
    rows = [
        [keys.short[key], *[setting_text(run.settings[key]) if key in run.settings else "" for run in (a, b)]]
        for key in differing([a.settings, b.settings])
    ]
    if not rows:
        but = "" if a.budget.get("asked") == b.budget.get("asked") else " but the budget"
        return note(f"no setting differs{but}", style)
    return text_table(rows, ["setting", "a", "b"], style, SIDES[:3])


def _figures(compared: Comparison, style: str) -> str:
    rows = []
    for measure in (measure for measure in compared.measures if measure.header):
        texts = [figure_text(row, measure, compared.kind is None) for row in compared.rows]
        name = f"asked {compared.kind or ''}".strip() if measure.key == "asked" else measure.header.replace("\n", " ")
        rows.append([name, *texts, _difference(compared.rows, measure)])
    return text_table(rows, ["figure", "a", "b", "b - a"], style, SIDES)


def _difference(rows: Sequence[Row], measure: Measure) -> str:
    """Shares and top-1 in points, amounts in percent; none of budgets in two units."""
    first, second = [row.figures.get(measure.key) for row in rows]
    if first is None or second is None:
        return ""
    if measure.key in KINDLY:
        kinds = {row.kind for row in rows}
        by = units.by_percent if kinds == {"flops_limit"} else units.by_share
        return by(first, second) if len(kinds) == 1 else ""
    return measure.apart(first, second)


# -- layers ----------------------------------------------------------------------------------------------------


def _layers(a: Run, b: Run, style: str) -> str:
    try:
        first, second = kept_ratios(a), kept_ratios(b)
    except InputError as error:
        return note(f"the plans cannot be compared: {error}", style)
    shared = [name for name in first if name in second]
    if not shared:
        return note("the plans share no layer", style)
    rows = [[name, *_kept(first[name], second[name])] for name in apart_most(first, second)]
    if not rows:
        return note(f"both plans keep the same share of all {len(shared)} layers", style)
    table = text_table(rows, ["layer", "a keeps", "b keeps", "b - a"], style, SIDES)
    same = sum(first[name] == second[name] for name in shared)
    return f"{table}\n{note(f'of {len(shared)} layers, {same} keep the same share in both', style)}"


def apart_most(first: Mapping[str, float], second: Mapping[str, float]) -> list[str]:
    """Layers of both whose shares differ, the largest difference first."""
    shared = [name for name in first if name in second and first[name] != second[name]]
    return sorted(shared, key=lambda name: -abs(first[name] - second[name]))[:MOST_LAYERS]


def _kept(first: float, second: float) -> list[str]:
    return [units.share(first), units.share(second), units.by_share(first, second)]
