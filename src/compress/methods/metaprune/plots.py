"""Figures of a supernet: what fixed genes score while it trains, and its search."""

from collections.abc import Mapping, Sequence
from typing import Any

from compress.io.files import JSON
from compress.methods import search_plots
from compress.report.plot.axes import whole_numbers

FIXED = "top1_"  # columns of the fixed genes begin so


def plots(rows: Sequence[JSON], plan: JSON | None, sparsify_report: JSON | None) -> Mapping[str, Any]:
    """Figures by file name; that of the training only where this run has its rows."""
    trained = [row for row in rows if any(key.startswith(FIXED) for key in row)]
    figures = {"supernet.png": _training(trained)} if trained else {}
    return figures | dict(search_plots.plots(rows, plan, sparsify_report))


def _training(rows: Sequence[JSON]) -> Any:
    from matplotlib import pyplot

    figure, axis = pyplot.subplots(figsize=(7, 3.8))
    for key in (key for key in rows[0] if key.startswith(FIXED)):
        top1 = [row[key] for row in rows]
        axis.plot([row["epoch"] for row in rows], top1, marker=".", label=key.removeprefix(FIXED).replace("_", " "))
    axis.set(
        xlabel="epoch", ylabel="held-out top-1 (%)", title="Supernet: five fixed genes, batch norms recalibrated"
    )
    axis.legend(fontsize=8)
    whole_numbers(axis)
    return figure
