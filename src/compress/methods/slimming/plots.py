"""Figures of a sparse training: how the scales of the batch norms spread, before and after, and over the epochs."""

from collections.abc import Mapping, Sequence
from typing import Any

from compress.io.files import JSON
from compress.report.plot.axes import whole_numbers


def plots(rows: Sequence[JSON], plan: JSON | None, learned: JSON | None) -> Mapping[str, Any]:
    """By file name; none where the scales were trained elsewhere."""
    watched = [row for row in rows if "scales" in row]
    return {"scales.png": _scales(watched, (plan or {}).get("own", {}))} if watched else {}


def _scales(rows: Sequence[JSON], own: JSON) -> Any:
    """On the left histograms after the first and the last epoch, on the right the median and the share near 0."""
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(10, 3.8))
    for row, colour in ((rows[0], "0.75"), (rows[-1], "C0")):
        edges, counts = row["scales"]["edges"], row["scales"]["counts"]
        label = f"after epoch {row['epoch']}"
        left.stairs(counts, edges, fill=row is rows[-1] or len(rows) == 1, color=colour, alpha=0.8, label=label)
    threshold = own.get("thresholds", {}).get("all")  # a threshold per layer has no place in a histogram of all
    if threshold is not None and not own.get("coupled"):  # scores of coupled channels are on another scale
        left.axvline(threshold, color="C3", label=f"threshold {threshold:.3g}")
    left.set(xlabel="|gamma|", ylabel="scales", yscale="symlog", title="Scales of the batch norms")
    left.legend(fontsize=8)
    epochs = [row["epoch"] for row in rows]
    right.plot(epochs, [row["scale_median"] for row in rows], marker=".", label="median |gamma|")
    right.set(xlabel="epoch", ylabel="median |gamma|", ylim=(0, None), title="On the way")
    whole_numbers(right)
    share = right.twinx()
    share.plot(epochs, [100 * row["scale_small_share"] for row in rows], marker=".", color="C1")
    share.set(ylabel="below a hundredth of the largest (%, orange)", ylim=(0, 100))
    return figure
