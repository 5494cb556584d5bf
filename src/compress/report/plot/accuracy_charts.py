"""Accuracy over MACs with the Pareto front, and bars of accuracy at equal budgets. Both show means over seeds with
their standard deviation."""

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from compress.report.group_by import group_by
from compress.report.plot.axes import literal
from compress.report.plot.labels import RunLabels, budget_label, budget_order, legend_beside
from compress.report.read.runs import Run
from compress.report.table.as_text import mean_and_sd
from compress.report.table.pareto import pareto_front


def pareto_chart(runs: Sequence[Run], labels: RunLabels) -> Any:
    """A panel per dataset.

    Networks with masks are drawn hollow, at their nonzero MACs. The front is that of the cut networks; of those with
    masks only where there are no others (see `macs_on_front`).
    """
    from matplotlib import pyplot

    measured = [
        run for run in runs if run.result(run.final, "macs") is not None and run.result(run.final, "top1") is not None
    ]
    by_dataset = group_by(measured, lambda run: str(run.settings.get("dataset", "")))
    if not by_dataset:
        return None
    size = 7.5, 4.5 * len(by_dataset)
    figure, axes = pyplot.subplots(len(by_dataset), 1, figsize=size, squeeze=False)
    for axis, (dataset, members) in zip(axes[:, 0], by_dataset.items(), strict=True):
        masked = [run for run in members if has_weight_masks(run)]
        means = _points(axis, [run for run in members if not has_weight_masks(run)], labels)
        hollow = _points(axis, masked, labels, hollow=True)
        competing, means = means or hollow, means + hollow
        best = sorted(competing[at] for at in pareto_front(competing))
        if len(set(best)) > 1:  # one point makes no line
            axis.plot(*zip(*best, strict=True), color="0.4", lw=1, zorder=0, drawstyle="steps-post", label="front")
        _dense(axis, members)
        if max(means)[0] > 20 * min(means)[0] > 0:
            axis.set_xscale("log")
        axis.set(
            xlabel="MACs, M" + (" (hollow: nonzero MACs)" if masked else ""),
            ylabel="test top-1, %",
            title=literal(f"Accuracy over size, {dataset}".rstrip(", ")),
        )
        axis.grid(alpha=0.25)
    for axis in axes[:, 0]:
        legend_beside(figure, axis)
    return figure


def has_weight_masks(run: Run) -> bool:
    return run.result(run.final, "nonzero_macs") is not None


def _points(axis: Any, runs: Sequence[Run], labels: RunLabels, hollow: bool = False) -> list[tuple[float, float]]:
    """Draw single runs small and their means large; returns the means: MACs in millions, top-1."""
    means, shown = [], set()
    for (name, _), group in labels.groups(runs).items():
        xs = [(run.result(run.final, "nonzero_macs" if hollow else "macs") or 0) / 1e6 for run in group]
        ys = [run.result(run.final, "top1") or 0 for run in group]
        x, (y, sd) = statistics.fmean(xs), mean_and_sd(ys)
        colour = labels.colours[name]
        axis.plot(xs, ys, ".", color=colour, alpha=0.35, markersize=5)
        label = None if name in shown else name
        axis.errorbar(
            x, y, sd or None, fmt="o", color=colour, capsize=3, elinewidth=1, markersize=6, label=label,
            mfc="none" if hollow else colour,
        )  # fmt: skip
        shown.add(name)
        means.append((x, y))
    return means


def _dense(axis: Any, runs: Sequence[Run]) -> None:
    found: dict[float, list[float]] = {}
    for run in runs:
        macs, top1 = run.result("dense", "macs"), run.result("dense", "top1")
        if macs is not None and top1 is not None:
            found.setdefault(macs / 1e6, []).append(top1)
    if found:
        heights = [statistics.fmean(values) for values in found.values()]
        axis.plot(list(found), heights, "*", color="k", markersize=11, label="dense")


def budget_bars(runs: Sequence[Run], labels: RunLabels) -> Any:
    """A group of bars per budget, a bar per label; the y axis begins below the lowest bar, not at 0."""
    from matplotlib import pyplot

    bars = {
        group: mean_and_sd(tops)
        for group, members in labels.groups([run for run in runs if budget_label(run)]).items()
        if (tops := [top for run in members if (top := run.result(run.final, "top1")) is not None])
    }
    if not bars:
        return None
    budgets = sorted({budget for _, budget in bars}, key=budget_order)
    figure, axis = pyplot.subplots(figsize=(max(6.0, 0.45 * len(bars) + 0.5 * len(budgets) + 2), 4.5))
    ticks = _bars(axis, bars, budgets, labels)
    low, high = min(top - sd for top, sd in bars.values()), max(top + sd for top, sd in bars.values())
    bottom = max(0.0, 5 * math.floor((low - 0.2 * (high - low + 1)) / 5))
    axis.set(ylim=(bottom, high + 0.08 * (high - bottom)), title="Accuracy at equal budgets")
    axis.set_ylabel("test top-1, %" + (f" (axis from {bottom:g})" if bottom else ""))
    axis.set_xticks(ticks, [budget.replace("=", "\n") for budget in budgets], fontsize=8)
    legend_beside(figure, axis)
    return figure


def _bars(
    axis: Any, bars: Mapping[tuple[str, str], tuple[float, float]], budgets: Sequence[str], labels: RunLabels
) -> list[float]:
    """Draw the bars; returns the middle of each budget's group."""
    at, middles, shown = 0.0, [], set()
    for budget in budgets:
        members = [name for name in labels.colours if (name, budget) in bars]
        middles.append(at + (len(members) - 1) / 2)
        for name in members:
            height, sd = bars[name, budget]
            label = None if name in shown else name
            axis.bar(at, height, 0.9, yerr=sd or None, capsize=3, color=labels.colours[name], label=label)
            axis.text(at, height + sd, f"{height:.1f}", ha="center", va="bottom", fontsize=7)
            shown.add(name)
            at += 1
        at += 1
    return middles
