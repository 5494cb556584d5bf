"""Accuracy over MACs with the Pareto front, and methods side by side at equal budgets. Points and bars are means over
seeds, with their standard deviation."""

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from compress.report.plot.one_run import literal
from compress.report.plot.series import Series, budget_name, budget_order, legend_beside
from compress.report.read.runs import Run
from compress.report.table.select import front
from compress.report.table.units import mean_and_deviation


def size_front(runs: Sequence[Run], series: Series) -> Any:
    """A panel per dataset.

    Networks with masks, hollow, stand at the MACs that are no multiplications by zero; the front is that of cut
    networks if there are any, since zeros alone make nothing faster.
    """
    from matplotlib import pyplot

    by_dataset: dict[str, list[Run]] = {}
    for run in runs:
        if run.figure(run.final, "macs") is not None and run.figure(run.final, "top1") is not None:
            by_dataset.setdefault(str(run.settings.get("dataset", "")), []).append(run)
    if not by_dataset:
        return None
    size = 7.5, 4.5 * len(by_dataset)
    figure, axes = pyplot.subplots(len(by_dataset), 1, figsize=size, squeeze=False)
    for axis, (dataset, mine) in zip(axes[:, 0], by_dataset.items(), strict=True):
        masked = [run for run in mine if is_masked(run)]
        means = _points(axis, [run for run in mine if not is_masked(run)], series)
        hollow = _points(axis, masked, series, hollow=True)
        counted, means = means or hollow, means + hollow
        best = sorted(counted[at] for at in front(counted))
        if len(set(best)) > 1:  # a line
            axis.plot(*zip(*best, strict=True), color="0.4", lw=1, zorder=0, drawstyle="steps-post", label="front")
        _dense(axis, mine)
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


def is_masked(run: Run) -> bool:
    return run.figure(run.final, "nonzero_macs") is not None


def _points(axis: Any, runs: Sequence[Run], series: Series, hollow: bool = False) -> list[tuple[float, float]]:
    """Single runs small, their means large; returns the means: MACs in millions, top-1."""
    means, shown = [], set()
    for (name, _), group in series.groups(runs).items():
        xs = [(run.figure(run.final, "nonzero_macs" if hollow else "macs") or 0) / 1e6 for run in group]
        ys = [run.figure(run.final, "top1") or 0 for run in group]
        x, (y, deviation) = statistics.fmean(xs), mean_and_deviation(ys)
        colour = series.colours[name]
        axis.plot(xs, ys, ".", color=colour, alpha=0.35, markersize=5)
        label = None if name in shown else name
        axis.errorbar(
            x, y, deviation or None, fmt="o", color=colour, capsize=3, elinewidth=1, markersize=6, label=label,
            mfc="none" if hollow else colour,
        )  # fmt: skip
        shown.add(name)
        means.append((x, y))
    return means


def _dense(axis: Any, runs: Sequence[Run]) -> None:
    found: dict[float, list[float]] = {}
    for run in runs:
        macs, top1 = run.figure("dense", "macs"), run.figure("dense", "top1")
        if macs is not None and top1 is not None:
            found.setdefault(macs / 1e6, []).append(top1)
    if found:
        heights = [statistics.fmean(values) for values in found.values()]
        axis.plot(list(found), heights, "*", color="k", markersize=11, label="dense")


def budget_bars(runs: Sequence[Run], series: Series) -> Any:
    """A group of bars per budget, a bar per series; the axis begins below the lowest."""
    from matplotlib import pyplot

    bars = {
        group: mean_and_deviation(tops)
        for group, mine in series.groups([run for run in runs if budget_name(run)]).items()
        if (tops := [top for run in mine if (top := run.figure(run.final, "top1")) is not None])
    }
    if not bars:
        return None
    budgets = sorted({budget for _, budget in bars}, key=budget_order)
    figure, axis = pyplot.subplots(figsize=(max(6.0, 0.45 * len(bars) + 0.5 * len(budgets) + 2), 4.5))
    ticks = _bars(axis, bars, budgets, series)
    low, high = min(top - sd for top, sd in bars.values()), max(top + sd for top, sd in bars.values())
    bottom = max(0.0, 5 * math.floor((low - 0.2 * (high - low + 1)) / 5))
    axis.set(ylim=(bottom, high + 0.08 * (high - bottom)), title="Accuracy at equal budgets")
    axis.set_ylabel("test top-1, %" + (f" (axis from {bottom:g})" if bottom else ""))
    axis.set_xticks(ticks, [budget.replace("=", "\n") for budget in budgets], fontsize=8)
    legend_beside(figure, axis)
    return figure


def _bars(
    axis: Any, bars: Mapping[tuple[str, str], tuple[float, float]], budgets: Sequence[str], series: Series
) -> list[float]:
    """Draws them; returns the middle of each budget's group."""
    at, middles, shown = 0.0, [], set()
    for budget in budgets:
        mine = [name for name in series.colours if (name, budget) in bars]
        middles.append(at + (len(mine) - 1) / 2)
        for name in mine:
            height, deviation = bars[name, budget]
            label = None if name in shown else name
            axis.bar(at, height, 0.9, yerr=deviation or None, capsize=3, color=series.colours[name], label=label)
            axis.text(at, height + deviation, f"{height:.1f}", ha="center", va="bottom", fontsize=7)
            shown.add(name)
            at += 1
        at += 1
    return middles
