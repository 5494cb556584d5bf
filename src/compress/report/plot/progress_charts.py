"""Accuracy over the epochs of every stage that trains, and over the episodes of a search."""

from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any

from compress.io.files import JSON
from compress.report.plot.one_run import whole_epochs
from compress.report.plot.series import Series, budget_name, budget_order, colours, legend_beside
from compress.report.read.runs import Run

Stroke = str | tuple[int, tuple[float, ...]]
STROKES: tuple[Stroke, ...] = (
    "-", "--", ":", "-.",
    *((0, dashes) for dashes in (
        (12, 3), (1, 5), (10, 2, 2, 2, 2, 2), (4, 7), (1, 1.5, 1, 7), (18, 3, 2, 3), (4, 1.5, 4, 8), (8, 7, 1, 7),
    )),
)  # fmt: skip
TRAINING = ("pretrain", "sparsify", "finetune")
SHARED = "0.5"  # grey: what several series have in common, such as the dense network

Rows = Mapping[int, Sequence[JSON]]
Line = tuple[str, str, list[float], list[float]]  # series and budget, "" for several; epochs, top-1


def training_curves(runs: Sequence[Run], series: Series, rows: Rows) -> Any:
    """A panel per stage; a training that several runs share is one line."""
    from matplotlib import pyplot

    found = {stage: _lines(runs, series, rows, stage) for stage in TRAINING}
    panels = {stage: lines for stage, lines in found.items() if lines}
    if not panels:
        return None
    budgets = sorted({budget for lines in panels.values() for _, budget, *_ in lines if budget}, key=budget_order)
    figure, axes = pyplot.subplots(1, len(panels), figsize=(4 * len(panels) + 1, 4), squeeze=False)
    for axis, (stage, lines) in zip(axes[0], panels.items(), strict=True):
        for name, budget, epochs, top1 in lines:
            stroke = STROKES[budgets.index(budget) % len(STROKES)] if budget else "-"
            colour = series.colours.get(name, SHARED)
            dots = "." if len(epochs) < 30 else ""
            look = {"linestyle": stroke, "color": colour, "alpha": 0.75, "linewidth": 1.2}
            axis.plot(epochs, top1, marker=dots, markersize=4, **look)
        axis.set(xlabel="epoch", title=stage)
        whole_epochs(axis)
        axis.grid(alpha=0.25)
    axes[0][0].set_ylabel("held-out top-1, %")
    shared = any(not name for lines in panels.values() for name, *_ in lines)
    legend_beside(figure, axes[0][-1], _handles(series, budgets, shared), handlelength=6)
    return figure


def _lines(runs: Sequence[Run], series: Series, rows: Rows, stage: str) -> list[Line]:
    trained: dict[Any, list[Run]] = {}
    for run in (run for run in runs if id(run) in rows):
        trained.setdefault(run.stages.get(stage, {}).get("key", id(run)), []).append(run)
    lines = []
    for group in trained.values():
        named = stage if group[0].control is None or stage != "finetune" else f"{stage} {group[0].control}"
        mine = [row for row in rows[id(group[0])] if row.get("stage") == named and "held_out_top1" in row]
        if mine:
            name, budget = _only({series.name(run) for run in group}), _only({budget_name(run) for run in group})
            lines.append((name, budget, [row["epoch"] for row in mine], [row["held_out_top1"] for row in mine]))
    return lines


def _only(names: set[str]) -> str:
    return names.pop() if len(names) == 1 else ""


def _handles(series: Series, budgets: Sequence[str], shared: bool) -> list[Any]:
    """Colours are series, strokes are budgets."""
    from matplotlib.lines import Line2D

    handles = [Line2D([], [], color=colour, label=name) for name, colour in series.colours.items()]
    if shared:
        handles.append(Line2D([], [], color=SHARED, label="shared by several"))
    if len(budgets) > 1:
        handles += [
            Line2D([], [], color="0.2", linestyle=STROKES[at % len(STROKES)], linewidth=1, label=budget)
            for at, budget in enumerate(budgets)
        ]
    return handles


def search_curves(runs: Sequence[Run], series: Series, rows: Rows) -> Any:
    """The best held-out accuracy so far of every search, per target; single candidates as faint points."""
    from matplotlib import pyplot

    curves = _searches(runs, series, rows)
    if not curves:
        return None
    figure, axis = pyplot.subplots(figsize=(7.5, 4.5))
    for name, colour in colours(list(curves)).items():
        for at, (steps, accuracy) in enumerate(curves[name]):
            axis.plot(steps, accuracy, ".", color=colour, alpha=0.25, markersize=3)
            best = list(accumulate(accuracy, max))
            axis.plot(steps, best, color=colour, drawstyle="steps-post", label=name if at == 0 else None)
    axis.set(xlabel="episode", ylabel="held-out accuracy, %", title="Searches: the best so far")
    axis.grid(alpha=0.25)
    legend_beside(figure, axis)
    return figure


def _searches(runs: Sequence[Run], series: Series, rows: Rows) -> dict[str, list[tuple[list[float], list[float]]]]:
    """Episodes and accuracies of every search that was computed, one curve per target, by series and target."""
    curves: dict[str, list[tuple[list[float], list[float]]]] = {}
    seen = set()
    for run in (run for run in runs if id(run) in rows and run.control is None):
        by_target: dict[float | None, list[JSON]] = {}
        for row in rows[id(run)]:
            if "accuracy" in row and _step(row) is not None:
                by_target.setdefault(row.get("target"), []).append(row)
        for target, mine in by_target.items():
            search = run.stages.get("sparsify", {}).get("key", id(run)), target
            if search not in seen:
                name = series.name(run) + (f", target {target:g}" if target is not None else "")
                curves.setdefault(name, []).append(([_step(row) or 0 for row in mine], [r["accuracy"] for r in mine]))
            seen.add(search)
    return curves


def _step(row: JSON) -> float | None:
    step: float | None = row.get("episode", row.get("generation"))
    return step
