"""The figure of a table of sensitivities: the drop of every group over its kept share."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from compress.io.files import JSON
from compress.report.plot.axes import layer_labels, literal

IN_LEGEND = 12  # groups, at most; of more the colour bar tells the depth


def plots(rows: Sequence[JSON], plan: JSON | None, sparsify_report: JSON | None) -> Mapping[str, Any]:
    """Figures by file name; none of a network that has no group to cut."""
    curves = (sparsify_report or {}).get("sensitivity")
    return {"sensitivity.png": _curves(curves, plan)} if curves else {}


def _curves(curves: Mapping[str, JSON], plan: JSON | None) -> Any:
    """A line per group, coloured by depth, with the width that was chosen of each marked."""
    from matplotlib import pyplot

    names, colours = list(curves), pyplot.get_cmap("viridis")
    labels = layer_labels(names)
    figure, axis = pyplot.subplots(figsize=(8, 4.4))
    for at, (name, curve) in enumerate(curves.items()):
        colour = colours(0.95 * at / max(len(names) - 1, 1))
        shares = [width / curve["width"] for width in [*curve["widths"], curve["width"]]]
        axis.plot(shares, [*curve["drops"], 0.0], ".-", lw=1, color=colour, label=literal(labels[name]))
        if plan is not None:
            share = plan["groups"][name]["kept_width"] / curve["width"]
            drop = np.interp(share, shares, [*curve["drops"], 0.0])
            axis.plot(share, drop, "o", ms=9, mfc="none", mew=1.5, color=colour)
    marked = "; circles: the chosen widths" if plan is not None else ""
    axis.set(
        xlabel="kept share of the group's channels, all other groups whole",
        ylabel="drop in held-out top-1 (points)",
        title=f"Sensitivity of every group{marked}",
        xlim=(0, 1.02),
    )
    axis.set_yscale("symlog", linthresh=1, linscale=1.5)  # most groups lose little until they are narrow
    axis.yaxis.set_major_formatter("{x:g}")
    largest = max(max(curve["drops"]) for curve in curves.values())
    axis.set_ylim(-0.1, 1.4 * max(largest, 1.0))
    _key(figure, axis, names)
    return figure


def _key(figure: Any, axis: Any, names: Sequence[str]) -> None:
    """What the colours mean: the groups by name where they are few, else first to last."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    if len(names) <= IN_LEGEND:
        axis.legend(fontsize=7, loc="upper left", bbox_to_anchor=(1.0, 1.0))
        return
    bar = figure.colorbar(ScalarMappable(Normalize(1, len(names)), "viridis"), ax=axis)
    bar.set_label(f"group, of {len(names)}, from input to output")
