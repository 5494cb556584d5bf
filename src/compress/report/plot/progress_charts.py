"""Accuracy over the epochs of every stage that trains, and over the steps of searches."""

from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any, NamedTuple

from compress.io.files import JSON
from compress.report.group_by import group_by
from compress.report.plot.axes import whole_numbers
from compress.report.plot.labels import RunLabels, budget_label, budget_order, colours, legend_beside
from compress.report.read.metrics import EPOCH, step_of
from compress.report.read.runs import Run
from compress.schema.settings import STAGE_ORDER

Stroke = str | tuple[int, tuple[float, ...]]
STROKES: tuple[Stroke, ...] = (
    "-", "--", ":", "-.",
    *((0, dashes) for dashes in (
        (12, 3), (1, 5), (10, 2, 2, 2, 2, 2), (4, 7), (1, 1.5, 1, 7), (18, 3, 2, 3), (4, 1.5, 4, 8), (8, 7, 1, 7),
    )),
)  # fmt: skip
SHARED = "0.5"  # grey: a line that belongs to several labels, such as the training of the dense network

Rows = Mapping[int, Sequence[JSON]]  # of metrics.jsonl, by the id of a run


class TrainingLine(NamedTuple):
    """One training. Label and budget are empty where runs of several share it."""

    label: str
    budget: str
    epochs: list[float]
    top1: list[float]


class SearchLine(NamedTuple):
    """The candidates of one search for one target, in the order in which they were tried."""

    label: str
    steps: list[float]
    accuracies: list[float]
    unit: str  # "episode"


def training_curves(runs: Sequence[Run], labels: RunLabels, rows: Rows) -> Any:
    """A panel per stage; a training that several runs share is one line."""
    from matplotlib import pyplot

    found = {stage: _training_lines(runs, labels, rows, stage) for stage in STAGE_ORDER}
    panels = {stage: lines for stage, lines in found.items() if lines}
    if not panels:
        return None
    budgets = sorted({line.budget for lines in panels.values() for line in lines if line.budget}, key=budget_order)
    figure, axes = pyplot.subplots(1, len(panels), figsize=(4 * len(panels) + 1, 4), squeeze=False)
    for axis, (stage, lines) in zip(axes[0], panels.items(), strict=True):
        for line in lines:
            stroke = STROKES[budgets.index(line.budget) % len(STROKES)] if line.budget else "-"
            colour = labels.colours.get(line.label, SHARED)
            dots = "." if len(line.epochs) < 30 else ""
            look = {"linestyle": stroke, "color": colour, "alpha": 0.75, "linewidth": 1.2}
            axis.plot(line.epochs, line.top1, marker=dots, markersize=4, **look)
        axis.set(xlabel="epoch", title=stage)
        whole_numbers(axis)
        axis.grid(alpha=0.25)
    axes[0][0].set_ylabel("held-out top-1, %")
    some_shared = any(not line.label for lines in panels.values() for line in lines)
    legend_beside(figure, axes[0][-1], _handles(labels, budgets, some_shared), handlelength=6)
    return figure


def _training_lines(runs: Sequence[Run], labels: RunLabels, rows: Rows, stage: str) -> list[TrainingLine]:
    """The trainings of a stage; runs share one if its stages have the same key in the cache."""
    lines = []
    readable = [run for run in runs if id(run) in rows]
    for sharing in group_by(readable, lambda run: run.stages.get(stage, {}).get("key", id(run))).values():
        name = sharing[0].rows_named(stage)
        trained = [row for row in rows[id(sharing[0])] if row.get("stage") == name and "held_out_top1" in row]
        if trained:
            label, budget = _only({labels.label(run) for run in sharing}), _only(set(map(budget_label, sharing)))
            epochs, top1 = [row[EPOCH] for row in trained], [row["held_out_top1"] for row in trained]
            lines.append(TrainingLine(label, budget, epochs, top1))
    return lines


def _only(names: set[str]) -> str:
    """The name that all have, or none."""
    return next(iter(names)) if len(names) == 1 else ""


def _handles(labels: RunLabels, budgets: Sequence[str], some_shared: bool) -> list[Any]:
    """Of the legend: a colour per label, a stroke per budget."""
    from matplotlib.lines import Line2D

    handles = [Line2D([], [], color=colour, label=label) for label, colour in labels.colours.items()]
    if some_shared:
        handles.append(Line2D([], [], color=SHARED, label="shared by several"))
    if len(budgets) > 1:
        handles += [
            Line2D([], [], color="0.2", linestyle=STROKES[at % len(STROKES)], linewidth=1, label=budget)
            for at, budget in enumerate(budgets)
        ]
    return handles


def search_curves(runs: Sequence[Run], labels: RunLabels, rows: Rows) -> Any:
    """The best held-out accuracy so far of every search, per target; single candidates as faint points."""
    from matplotlib import pyplot

    curves = group_by(_search_lines(runs, labels, rows), lambda line: line.label)
    if not curves:
        return None
    figure, axis = pyplot.subplots(figsize=(7.5, 4.5))
    for label, colour in colours(list(curves)).items():
        for at, line in enumerate(curves[label]):
            axis.plot(line.steps, line.accuracies, ".", color=colour, alpha=0.25, markersize=3)
            best = list(accumulate(line.accuracies, max))
            axis.plot(line.steps, best, color=colour, drawstyle="steps-post", label=label if at == 0 else None)
    units = dict.fromkeys(line.unit for lines in curves.values() for line in lines)
    axis.set(xlabel=" or ".join(units), ylabel="held-out accuracy, %", title="Searches: the best so far")
    axis.grid(alpha=0.25)
    legend_beside(figure, axis)
    return figure


def _search_lines(runs: Sequence[Run], labels: RunLabels, rows: Rows) -> list[SearchLine]:
    """One per search and target; a search that several runs share is drawn once."""
    lines = []
    seen = set()
    for run in (run for run in runs if id(run) in rows and run.control is None):
        tried = [row for row in rows[id(run)] if "accuracy" in row and step_of(row) is not None]
        for target, candidates in group_by(tried, lambda row: row.get("target")).items():
            search = run.stages.get("sparsify", {}).get("key", id(run)), target
            if search not in seen:
                label = labels.label(run) + (f", target {target:g}" if target is not None else "")
                steps = [step for row in candidates if (step := step_of(row))]
                accuracies = [row["accuracy"] for row in candidates]
                lines.append(SearchLine(label, [step.value for step in steps], accuracies, steps[0].name))
            seen.add(search)
    return lines
