"""The figures of `compress compare --plot`, from what runs left in their folders."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from compress.errors import InputError
from compress.report.plot.accuracy_charts import budget_bars, size_front
from compress.report.plot.layer_chart import layer_chart
from compress.report.plot.one_run import to_files
from compress.report.plot.progress_charts import search_curves, training_curves
from compress.report.plot.series import series_of
from compress.report.read.runs import Run
from compress.report.read.traces import kept_ratios, rows_of


def draw(runs: Sequence[Run], folder: Path) -> tuple[list[Path], list[str]]:
    """The figures that these runs have something for, and a line for each file that could not be read."""
    to_files()
    notes: list[str] = []
    series = series_of(runs)
    rows = _readable(rows_of, runs, notes)
    ratios = _readable(kept_ratios, [run for run in runs if run.plan.is_file()], notes)
    figures = {
        "front.png": size_front(runs, series),
        "budgets.png": budget_bars(runs, series),
        "training.png": training_curves(runs, series, rows),
        "layers.png": layer_chart(runs, series, ratios),
        "search.png": search_curves(runs, series, rows),
    }
    return [_write(figure, folder / name) for name, figure in figures.items() if figure is not None], notes


def _readable(read: Callable[[Run], Any], runs: Sequence[Run], notes: list[str]) -> dict[int, Any]:
    """What is read of each run, by its id; what cannot be read becomes a note."""
    found = {}
    for run in runs:
        try:
            found[id(run)] = read(run)
        except InputError as error:
            notes.append(f"not drawn: {error}")
    return found


def _write(figure: Any, path: Path) -> Path:
    from matplotlib import pyplot

    figure.savefig(path, dpi=120, bbox_inches="tight")  # legends beside the axes too
    pyplot.close(figure)
    return path
