"""A schematic: the stages of runs in order, and which of them the teacher joins."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

from compress.report.group_by import group_by
from compress.report.plot.axes import literal
from compress.report.plot.labels import RunLabels
from compress.report.read.runs import Run, number
from compress.report.table import as_text
from compress.schema.settings import FROM_SCRATCH, STAGE_ORDER

COLUMN, ROW = 1.9, 1.5  # inches
BELOW_TEACHER, BESIDE_BOX = 0.14, 0.3  # where arrows end, in rows and columns from the middle of a box
MAX_LABELS = 4  # named beside one row


class Pipeline(NamedTuple):
    """The stages of a run with what is written in their boxes, the stages that the teacher joins, and its name."""

    boxes: tuple[tuple[str, str], ...]
    joined: tuple[str, ...]
    teacher: str


def pipeline(run: Run) -> Pipeline:
    boxes = tuple((stage, _box(run, stage)) for stage in STAGE_ORDER if stage in run.stages)
    stages = run.settings.get("distill.stages") or []
    joined = tuple(stage for stage, _ in boxes if run.settings.get("teacher") is not None and stage in stages)
    network = run.settings.get("teacher.model", run.settings.get("teacher"))
    teacher = f"teacher {network}\n{as_text.setting(run.settings.get('distill'))}" if joined else ""
    return Pipeline(boxes, joined, literal(teacher))


def _box(run: Run, stage: str) -> str:
    done = run.stages[stage]
    name = FROM_SCRATCH if stage == "finetune" and done.get("init") == "scratch" else stage
    epochs = number(done.get("epochs"))
    return name if epochs is None else f"{name}\n{epochs:g} epoch{'s' if epochs != 1 else ''}"


def stage_chart(runs: Sequence[Run], labels: RunLabels) -> Any:
    """A row per pipeline, beside it the labels of its runs; None if no teacher joins any run."""
    from matplotlib import pyplot

    rows = group_by(sorted(runs, key=labels.label), pipeline)
    if not any(each.joined for each in rows):
        return None
    columns = [stage for stage in STAGE_ORDER if any(stage in dict(each.boxes) for each in rows)]
    figure, axis = pyplot.subplots(figsize=(COLUMN * (len(columns) + 1), ROW * len(rows) + 0.4))
    for at, (each, members) in enumerate(rows.items()):
        _draw(axis, each, columns, -at)
        named = list(dict.fromkeys(labels.label(run) for run in members))
        more = [f"and {len(named) - MAX_LABELS} more"] if len(named) > MAX_LABELS else []
        axis.text(-0.6, -at, "\n".join([*named[:MAX_LABELS], *more]), ha="right", va="center", fontsize=8)
    axis.set(xlim=(-0.6, len(columns) - 0.4), ylim=(0.4 - len(rows), 0.75))
    axis.set_title("Stages, and those that the teacher joins")
    axis.set_axis_off()
    return figure


def _draw(axis: Any, each: Pipeline, columns: Sequence[str], y: float) -> None:
    box = {"boxstyle": "round,pad=0.4", "facecolor": "white", "edgecolor": "0.3"}
    places = [float(columns.index(stage)) for stage, _ in each.boxes]
    for x, (stage, text) in zip(places, each.boxes, strict=True):
        colour = {"facecolor": "C0", "alpha": 0.25} if stage in each.joined else {}
        axis.text(x, y, text, ha="center", va="center", fontsize=8, bbox={**box, **colour})
    for first, second in pairwise(places):
        _arrow(axis, (first + BESIDE_BOX, y), (second - BESIDE_BOX, y), "0.3")
    if each.joined:
        targets = [columns.index(stage) for stage in each.joined]
        x, top = sum(targets) / len(targets), y + 0.5
        axis.text(x, top, each.teacher, ha="center", va="center", fontsize=8, bbox={**box, "edgecolor": "C0"})
        for target in targets:
            _arrow(axis, (x, top - BELOW_TEACHER), (target, y + BELOW_TEACHER), "C0")


def _arrow(axis: Any, start: tuple[float, float], end: tuple[float, float], colour: str) -> None:
    axis.annotate("", end, start, arrowprops={"arrowstyle": "->", "color": colour})
