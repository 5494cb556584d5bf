"""Two runs side by side: the settings that differ, the figures with their difference, the layers that differ most."""

from collections.abc import Mapping, Sequence

from compress.report.differing import differing, setting_text
from compress.report.formats import text_table
from compress.report.rows import Comparison, Row, figure_text
from compress.report.runs import Run
from compress.report.select import Keys
from compress.report.traces import kept_ratios
from compress.settings import InputError

MOST_LAYERS = 10
SIDES = ("left", "right", "right", "right")


def side_by_side(compared: Comparison, keys: Keys, style: str) -> str:
    """Three tables, of the two rows of a comparison."""
    (a,), (b,) = (row.runs for row in compared.rows)
    parts = [
        f"a: {_called(a)}\nb: {_called(b)}",
        _settings(a, b, keys, style),
        _figures(compared, style),
        *[f"{name}: {mark}" for name, row in zip("ab", compared.rows, strict=True) for mark in row.marks],
        _layers(a, b, style),
    ]
    return "\n\n".join(parts)


def _called(run: Run) -> str:
    return str(run.folder) + (f", {run.control}" if run.control else "")


def _settings(a: Run, b: Run, keys: Keys, style: str) -> str:
    rows = [
        [keys.short[key], *[setting_text(run.settings[key]) if key in run.settings else "" for run in (a, b)]]
        for key in differing([a.settings, b.settings])
    ]
    if not rows:
        return "no setting differs" + ("" if a.budget.get("asked") == b.budget.get("asked") else " but the budget")
    return text_table(rows, ["setting", "a", "b"], style, SIDES[:3])


def _figures(compared: Comparison, style: str) -> str:
    rows = []
    for measure in (measure for measure in compared.measures if measure.header):
        texts = [figure_text(row, measure, compared.kind is None) for row in compared.rows]
        first, second = [row.figures.get(measure.key) for row in compared.rows]
        apart = "" if first is None or second is None else _difference(compared.rows, measure.key, second - first)
        name = f"asked {compared.kind or ''}".strip() if measure.key == "asked" else measure.header.replace("\n", " ")
        rows.append([name, *texts, apart])
    return text_table(rows, ["figure", "a", "b", "b - a"], style, SIDES)


def _difference(rows: Sequence[Row], key: str, apart: float) -> str:
    """Of figures that can be subtracted: shares and top-1 in points, the others in their unit and in percent."""
    kinds = {row.kind for row in rows}
    if key in ("asked", "achieved") and len(kinds) > 1:
        return ""
    if key == "macs_share" or (key in ("asked", "achieved") and kinds != {"flops_limit"}):
        return f"{100 * apart:+.2f} points"
    if abs(apart) >= 1e3 or key in ("latency", "seconds", "seconds_run") or kinds == {"flops_limit"}:
        first = rows[0].figures[key]
        return f"{100 * apart / first:+.1f} %" if first else ""
    return f"{apart:+.2f}" if abs(apart) >= 0.005 or not apart else f"{apart:+.1e}"


# -- layers ----------------------------------------------------------------------------------------------------


def _layers(a: Run, b: Run, style: str) -> str:
    try:
        first, second = kept_ratios(a), kept_ratios(b)
    except InputError as error:
        return f"the plans cannot be compared: {error}"
    shared = [name for name in first if name in second]
    if not shared:
        return "the plans share no layer"
    rows = [[name, *_kept(first[name], second[name])] for name in apart_most(first, second)]
    if not rows:
        return f"both plans keep the same share of all {len(shared)} layers"
    table = text_table(rows, ["layer", "a keeps", "b keeps", "b - a"], style, SIDES)
    same = sum(first[name] == second[name] for name in shared)
    return f"{table}\nof {len(shared)} layers, {same} keep the same share in both"


def apart_most(first: Mapping[str, float], second: Mapping[str, float]) -> list[str]:
    """Layers of both whose shares differ, the largest difference first."""
    shared = [name for name in first if name in second and first[name] != second[name]]
    return sorted(shared, key=lambda name: -abs(first[name] - second[name]))[:MOST_LAYERS]


def _kept(first: float, second: float) -> list[str]:
    return [f"{100 * first:.2f} %", f"{100 * second:.2f} %", f"{100 * (second - first):+.2f} points"]
