"""Pictures of one run, drawn from its rows and its plan alone."""

import logging
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from compress.files import JSON


def draw_run(folder: Path, rows: Sequence[JSON], groups: dict[str, list[int]] | None) -> list[Path]:
    """Write plots/*.png; `groups` maps a group's name to (channels before, after)."""
    logging.getLogger("matplotlib").setLevel(logging.WARNING)  # tells of its font cache on first use
    import matplotlib

    matplotlib.use("Agg")
    (folder / "plots").mkdir(exist_ok=True)
    drawn = []
    trained = [row for row in rows if "epoch" in row]
    searched = [row for row in rows if "episode" in row]
    if trained:
        drawn.append(_save(_training(trained), folder / "plots" / "training.png"))
    if searched:
        drawn.append(_save(_search(searched), folder / "plots" / "search.png"))
    if groups:
        drawn.append(_save(_widths(groups), folder / "plots" / "widths.png"))
    return drawn


def _save(figure: Any, path: Path) -> Path:
    from matplotlib import pyplot

    figure.tight_layout()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
    return path


def _training(rows: Sequence[JSON]) -> Any:
    from matplotlib import pyplot

    figure, (top, bottom) = pyplot.subplots(2, 1, sharex=True, figsize=(7, 5.5))
    start = 0
    for stage in dict.fromkeys(row["stage"] for row in rows):
        mine = [row for row in rows if row["stage"] == stage]
        epochs = [start + row["epoch"] for row in mine]
        top.plot(epochs, [row["loss"] for row in mine], marker=".", label=stage)
        bottom.plot(epochs, [row["held_out_top1"] for row in mine], marker=".", label=f"{stage}, held-out")
        start = epochs[-1]
    top.set(ylabel="training loss", yscale="log", title="Training")
    bottom.set(xlabel="epoch, all stages", ylabel="top-1 (%)")
    top.legend()
    bottom.legend()
    return figure


def _search(rows: Sequence[JSON]) -> Any:
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(2, 1, sharex=True, figsize=(7, 5.5))
    by_target: dict[float, list[JSON]] = defaultdict(list)
    for row in rows:
        by_target[row["target"]].append(row)
    for target, mine in sorted(by_target.items()):
        episodes = [row["episode"] for row in mine]
        for axis, name in zip(axes, ("reward", "accuracy"), strict=True):
            axis.plot(episodes, [row[name] for row in mine], ".", alpha=0.35, color=f"C{len(axis.lines) // 2}")
            best = [max(row[name] for row in mine[: i + 1]) for i in range(len(mine))]
            axis.plot(episodes, best, color=axis.lines[-1].get_color(), label=f"target {target:g}, best so far")
    axes[0].set(ylabel="reward", title="Search, one point per episode")
    axes[1].set(xlabel="episode", ylabel="held-out accuracy (%)")
    axes[0].legend(loc="lower right")
    return figure


def _widths(groups: dict[str, list[int]]) -> Any:
    from matplotlib import pyplot

    figure, axis = pyplot.subplots(figsize=(max(6, 0.34 * len(groups)), 4.2))
    names = list(groups)
    axis.bar(names, [groups[name][0] for name in names], color="0.85", label="dense")
    axis.bar(names, [groups[name][1] for name in names], color="C0", label="kept")
    for at, name in enumerate(names):
        axis.text(at, groups[name][1], str(groups[name][1]), ha="center", va="bottom", fontsize=7)
    axis.set(ylabel="channels", title="Channels per group")
    axis.tick_params(axis="x", rotation=90, labelsize=7)
    axis.legend()
    return figure
