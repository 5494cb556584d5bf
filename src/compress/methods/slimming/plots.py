"""Figures of a sparse training: the distribution of the batch norm scales after the first and last epoch, and its
median by epoch."""

from collections.abc import Mapping, Sequence
from typing import Any

from compress.io.files import JSON
from compress.report.plot.axes import whole_numbers


def plots(rows: Sequence[JSON], plan: JSON | None, sparsify_report: JSON | None) -> Mapping[str, Any]:
    """Figures by file name; none where the scales were not trained in this run."""
    scale_rows = [row for row in rows if "scales" in row]
    return {"scales.png": _scales(scale_rows, (plan or {}).get("own", {}))} if scale_rows else {}


def _scales(rows: Sequence[JSON], plan_report: JSON) -> Any:
    """Left: histograms after the first and the last epoch. Right: the median and the share near 0, by epoch."""
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(10, 3.8))
    for row, colour in ((rows[0], "0.75"), (rows[-1], "C0")):
        edges, counts = row["scales"]["edges"], row["scales"]["counts"]
        label = f"after epoch {row['epoch']}"
        left.stairs(counts, edges, fill=row is rows[-1] or len(rows) == 1, color=colour, alpha=0.8, label=label)
    threshold = plan_report.get("thresholds", {}).get(
        "all"
    )  # thresholds per layer do not fit a histogram of all scales
    if threshold is not None and not plan_report.get("coupled"):  # scores of coupled channels have another range
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
