"""The figures of `compress compare --plot` and `--html`, from what runs left in their folders."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from compress.errors import InputError
from compress.report.plot.accuracy_charts import budget_bars, pareto_chart
from compress.report.plot.axes import draw_to_files, save
from compress.report.plot.labels import labels_of
from compress.report.plot.layer_chart import layer_chart
from compress.report.plot.progress_charts import search_curves, training_curves
from compress.report.plot.stage_chart import stage_chart
from compress.report.read.metrics import read_metrics
from compress.report.read.plans import kept_shares
from compress.report.read.runs import Run


def draw_runs(runs: Sequence[Run], folder: Path) -> tuple[list[Path], list[str]]:
    """Draw what these runs have data for; returns the files, and a note on each file that could not be read."""
    figures, notes = figures_of(runs)
    # tight: legends that stand beside the axes are saved too
    return [save(figure, folder / f"{name}.png", "tight") for name, figure in figures.items()], notes


def figures_of(runs: Sequence[Run]) -> tuple[dict[str, Any], list[str]]:
    """What these runs have data for, by name, and a note on each file that could not be read."""
    draw_to_files()
    notes: list[str] = []
    labels = labels_of(runs)
    rows = _readable(read_metrics, runs, notes)
    shares = _readable(kept_shares, [run for run in runs if run.plan.is_file()], notes)
    figures = {
        "front": pareto_chart(runs, labels),
        "budgets": budget_bars(runs, labels),
        "training": training_curves(runs, labels, rows),
        "layers": layer_chart(runs, labels, shares),
        "search": search_curves(runs, labels, rows),
        "stages": stage_chart([run for run in runs if run.control is None], labels),
    }
    return {name: figure for name, figure in figures.items() if figure is not None}, notes


def _readable(read: Callable[[Run], Any], runs: Sequence[Run], notes: list[str]) -> dict[int, Any]:
    """What is read of each run, by the run's id; a run that cannot be read is left out, with a note."""
    found = {}
    for run in runs:
        try:
            found[id(run)] = read(run)
        except InputError as error:
            notes.append(f"not drawn: {error}")
    return found
