"""A heat map of what every layer kept, runs below each other."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from compress.report.group_by import group_by
from compress.report.plot.axes import name_layers
from compress.report.plot.labels import RunLabels
from compress.report.read.runs import Run

ROW, NAMES = 0.24, 1.7  # inches: of one row, and below each panel for the names of layers

Panels = Mapping[tuple[str, ...], Mapping[str, Sequence[float]]]


def layer_chart(runs: Sequence[Run], labels: RunLabels, shares: Mapping[int, Mapping[str, float]]) -> Any:
    """A row per label and budget (the mean over seeds), a column per layer, a panel per network."""
    from matplotlib import pyplot

    panels = _panels([run for run in runs if id(run) in shares], labels, shares)
    if not panels:
        return None
    heights = [ROW * max(2, sum(1 + row.count("\n") for row in rows)) for rows in panels.values()]
    size = max(6.0, 2 + 0.2 * max(map(len, panels))), sum(heights) + NAMES * len(panels)
    figure, axes = pyplot.subplots(len(panels), 1, figsize=size, squeeze=False, height_ratios=heights)
    for axis, (layers, rows) in zip(axes[:, 0], panels.items(), strict=True):
        image = axis.imshow(list(rows.values()), aspect="auto", vmin=0, vmax=1, cmap="viridis")
        axis.set_yticks(range(len(rows)), list(rows), fontsize=8)
        name_layers(axis, layers)
        figure.colorbar(image, ax=axis, label="kept share", pad=0.02)
    axes[0][0].set_title("What every layer kept")
    # no tight layout, which takes the room of the labels from the map: they stand beside the figure, and are saved
    figure.subplots_adjust(0.01, 1.4 / size[1], 0.99, 1 - 0.3 / size[1], hspace=NAMES * len(heights) / sum(heights))
    return figure


def _panels(runs: Sequence[Run], labels: RunLabels, shares: Mapping[int, Mapping[str, float]]) -> Panels:
    """By the names of the layers: by label and budget, the mean share of every layer."""
    panels: dict[tuple[str, ...], dict[str, list[float]]] = {}
    for (label, budget), group in labels.groups(runs).items():
        row = f"{label}, {budget}".rstrip(", ")
        for layers, same in group_by(group, lambda run: tuple(shares[id(run)])).items():
            columns = zip(*[shares[id(run)].values() for run in same], strict=True)
            panels.setdefault(layers, {})[row] = [statistics.fmean(column) for column in columns]
    return panels
