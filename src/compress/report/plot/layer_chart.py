"""A heat map of what every layer kept, runs below each other."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from compress.report.group_by import group_by
from compress.report.plot.axes import name_layers
from compress.report.plot.labels import RunLabels
from compress.report.read.runs import Run

Panels = Mapping[tuple[str, ...], Mapping[str, Sequence[float]]]


def layer_chart(runs: Sequence[Run], labels: RunLabels, shares: Mapping[int, Mapping[str, float]]) -> Any:
    """A row per label and budget (the mean over seeds), a column per layer, a panel per network."""
    from matplotlib import pyplot

    panels = _panels([run for run in runs if id(run) in shares], labels, shares)
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


def _panels(runs: Sequence[Run], labels: RunLabels, shares: Mapping[int, Mapping[str, float]]) -> Panels:
    """By the names of the layers: by label and budget, the mean share of every layer."""
    panels: dict[tuple[str, ...], dict[str, list[float]]] = {}
    for (label, budget), group in labels.groups(runs).items():
        row = f"{label}, {budget}".rstrip(", ")
        for layers, same in group_by(group, lambda run: tuple(shares[id(run)])).items():
            columns = zip(*[shares[id(run)].values() for run in same], strict=True)
            panels.setdefault(layers, {})[row] = [statistics.fmean(column) for column in columns]
    return panels
