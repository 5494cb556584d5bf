"""What figures share: files without a screen, text as it is, names of layers and whole epochs at the ticks."""

import logging
import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from compress.io.files import printable
from compress.report.table.differences import endings

LAYERS_PER_ROW = 45  # that can still be read side by side on a page
LONGEST_NAME = 24  # letters of a layer's name at a tick, if a name can be that short


def draw_to_files() -> None:
    """Let matplotlib draw without a screen, whatever the environment says."""
    logging.getLogger("matplotlib").setLevel(logging.WARNING)  # it announces its font cache on first use
    import matplotlib

    matplotlib.use("Agg")


def save(figure: Any, path: Path, bbox_inches: str | None = None) -> Path:
    from matplotlib import pyplot

    figure.savefig(path, dpi=120, bbox_inches=bbox_inches)
    pyplot.close(figure)
    return path


def literal(text: str) -> str:
    """Text escaped so that it is drawn as it is: $ begins a formula, a label that begins with _ is no label, and no
    font has control characters."""
    text = "\n".join(map(printable, text.split("\n")))
    return text.replace("$", r"\$").replace("_", " _", text.startswith("_"))


def rows_of_layers(layers: int, inches: float) -> tuple[Any, list[tuple[Any, slice]]]:
    """A figure for many layers, `inches` wide each: its axes, one below the other, and the layers of each."""
    from matplotlib import pyplot

    rows = math.ceil(layers / LAYERS_PER_ROW)
    per_row = math.ceil(layers / rows)
    size = max(6.0, inches * per_row), 0.6 + 3.6 * rows
    figure, axes = pyplot.subplots(rows, 1, figsize=size, squeeze=False)
    return figure, [(axis, slice(row * per_row, (row + 1) * per_row)) for row, axis in enumerate(axes[:, 0])]


def name_layers(axis: Any, names: Sequence[str], all_names: Sequence[str] = ()) -> None:
    """Label the ticks 0, 1, ... with names, short but unlike any other of the figure's (`all_names`)."""
    labels = layer_labels(all_names or names)
    axis.set_xticks(range(len(names)), [literal(labels[name]) for name in names], rotation=90, fontsize=7)
    axis.margins(x=0.01)


def layer_labels(names: Sequence[str]) -> dict[str, str]:
    """Long names cut to their last parts: as many as fit, and more where another name ends in the same way.

    >>> layer_labels(["stem", "backbone.body.layer1.0.conv1", "backbone.body.layer2.0.conv1"])["stem"]
    'stem'
    >>> layer_labels(["stem", "backbone.body.layer1.0.conv1"])["backbone.body.layer1.0.conv1"]
    '…body.layer1.0.conv1'
    """
    having = Counter(ending for name in names for ending in endings(name))

    def label(name: str) -> str:
        if len(name) <= LONGEST_NAME:
            return name
        unique = [ending for ending in endings(name) if having[ending] == 1] or [name]
        short = [ending for ending in unique if len(ending) <= LONGEST_NAME]
        ending = short[-1] if short else unique[0]
        return ending if ending == name else f"…{ending}"

    return {name: label(name) for name in names}


def whole_numbers(axis: Any) -> None:
    """Ticks of the x axis at whole numbers: epochs have no fractions."""
    from matplotlib.ticker import MaxNLocator

    axis.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
