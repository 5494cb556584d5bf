"""What every layer kept, runs below each other."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from compress.report.plot.one_run import name_layers
from compress.report.plot.series import Series
from compress.report.read.runs import Run

Panels = Mapping[tuple[str, ...], Mapping[str, Sequence[float]]]


def layer_chart(runs: Sequence[Run], series: Series, ratios: Mapping[int, Mapping[str, float]]) -> Any:
    """A row per series and budget (the mean over seeds), a column per layer; a panel per set of layers."""
    from matplotlib import pyplot

    panels = _panels([run for run in runs if id(run) in ratios], series, ratios)
    if not panels:
        return None
    heights = [0.24 * len(rows) + 1.8 for rows in panels.values()]
    size = max(6.0, 2 + 0.2 * max(map(len, panels))), sum(heights)
    figure, axes = pyplot.subplots(len(panels), 1, figsize=size, squeeze=False, height_ratios=heights)
    for axis, (layers, rows) in zip(axes[:, 0], panels.items(), strict=True):
        image = axis.imshow(list(rows.values()), aspect="auto", vmin=0, vmax=1, cmap="viridis")
        axis.set_yticks(range(len(rows)), list(rows), fontsize=8)
        name_layers(axis, layers)
        figure.colorbar(image, ax=axis, label="kept share", pad=0.02)
    axes[0][0].set_title("What every layer kept")
    figure.tight_layout()
    return figure


def _panels(runs: Sequence[Run], series: Series, ratios: Mapping[int, Mapping[str, float]]) -> Panels:
    panels: dict[tuple[str, ...], dict[str, list[float]]] = {}
    for (name, budget), group in series.groups(runs).items():
        for layers in dict.fromkeys(tuple(ratios[id(run)]) for run in group):
            alike = [list(ratios[id(run)].values()) for run in group if tuple(ratios[id(run)]) == layers]
            label = f"{name}, {budget}".rstrip(", ")
            panels.setdefault(layers, {})[label] = [statistics.fmean(column) for column in zip(*alike, strict=True)]
    return panels
