"""Figures of a sparse training: the distribution of what it makes sparse after the first and last epoch, and its
median by epoch."""

from collections.abc import Mapping, Sequence
from typing import Any

from compress.io.files import JSON
from compress.report.plot.axes import whole_numbers


def plots_of(name: str, title: str, label: str) -> Any:
    """The figures of a method whose rows have the distribution of a `name`: <name>s.png, none where none was trained
    in this run. `title` is what they are, `label` one of them."""

    def plots(rows: Sequence[JSON], plan: JSON | None, sparsify_report: JSON | None) -> Mapping[str, Any]:
        rows = [row for row in rows if f"{name}s" in row]
        own = (plan or {}).get("own", {})
        return {f"{name}s.png": _distribution(rows, own, name, title, label)} if rows else {}

    return plots


def _distribution(rows: Sequence[JSON], own: JSON, name: str, title: str, label: str) -> Any:
    """Left: histograms after the first and the last epoch. Right: the median and the share near 0, by epoch."""
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(10, 3.8))
    for row, colour in ((rows[0], "0.75"), (rows[-1], "C0")):
        edges, counts = row[f"{name}s"]["edges"], row[f"{name}s"]["counts"]
        when = f"after epoch {row['epoch']}"
        left.stairs(counts, edges, fill=row is rows[-1] or len(rows) == 1, color=colour, alpha=0.8, label=when)
    # thresholds per layer do not fit a histogram of all, and combined scores of coupled channels have another range
    threshold = own.get("thresholds", {}).get("all")
    if threshold is not None and not own.get("coupled"):
        left.axvline(threshold, color="C3", label=f"threshold {threshold:.3g}")
    left.set(xlabel=label, ylabel=f"{name}s", yscale="symlog", title=title)
    left.legend(fontsize=8)
    epochs = [row["epoch"] for row in rows]
    right.plot(epochs, [row[f"{name}_median"] for row in rows], marker=".", label=f"median {label}")
    right.set(xlabel="epoch", ylabel=f"median {label}", ylim=(0, None), title="On the way")
    whole_numbers(right)
    share = right.twinx()
    share.plot(epochs, [100 * row[f"{name}_small_share"] for row in rows], marker=".", color="C1")
    share.set(ylabel="below a hundredth of the largest (%, orange)", ylim=(0, 100))
    return figure
