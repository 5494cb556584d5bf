"""Pictures of one run, drawn from its rows and its plan alone."""

import logging
import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from compress.io.files import JSON


def draw_run(folder: Path, rows: Sequence[JSON], plan: JSON | None, learned: JSON | None = None) -> list[Path]:
    """Write plots/*.png, from the rows of metrics.jsonl, the content of plan.json and what sparsify reported."""
    to_files()
    (folder / "plots").mkdir(exist_ok=True)
    drawn = []
    trained = [row for row in rows if "epoch" in row]
    searched = [row for row in rows if "episode" in row]
    if trained:
        drawn.append(_save(_training(trained), folder / "plots" / "training.png"))
    if searched:
        drawn.append(_save(_search(searched), folder / "plots" / "search.png"))
    if learned and learned.get("best"):
        drawn.append(_save(_policy(learned["best"], learned["policy"]), folder / "plots" / "policy.png"))
    scaled = [row for row in trained if "scales" in row]
    if scaled:
        drawn.append(_save(_scales(scaled, (plan or {}).get("own", {})), folder / "plots" / "scales.png"))
    if plan and plan.get("sparsity"):
        drawn.append(_save(_sparsity(plan["sparsity"]["layers"]), folder / "plots" / "sparsity.png"))
    elif plan:
        drawn.append(_save(_widths(plan["layers"]), folder / "plots" / "widths.png"))
    return drawn


def to_files() -> None:
    """Figures are drawn without a screen, whatever the environment says."""
    logging.getLogger("matplotlib").setLevel(logging.WARNING)  # tells of its font cache on first use
    import matplotlib

    matplotlib.use("Agg")


def literal(text: str) -> str:
    """As it is: matplotlib takes $ for formulas, and leaves names that begin with _ out of legends."""
    return text.replace("$", r"\$").replace("_", " _", text.startswith("_"))


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
    begins: dict[str, int] = {}
    for stage in dict.fromkeys(row["stage"] for row in rows):
        mine = [row for row in rows if row["stage"] == stage]
        begins[stage] = begins.get(stage.partition(" ")[0], start)  # a control branches off beside its stage
        epochs = [begins[stage] + row["epoch"] for row in mine]
        top.plot(epochs, [row["loss"] for row in mine], marker=".", label=stage)
        bottom.plot(epochs, [row["held_out_top1"] for row in mine], marker=".", label=f"{stage}, held-out")
        start = epochs[-1]
    top.set(ylabel="training loss", yscale="log", title="Training")
    bottom.set(xlabel="epoch, all stages", ylabel="top-1 (%)")
    whole_epochs(bottom)
    top.legend(fontsize=7)
    bottom.legend(fontsize=7)
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


PER_ROW = 45  # layers that can still be read on one line of a page


def _in_rows(layers: int, inches: float) -> tuple[Any, list[tuple[Any, slice]]]:
    """A figure for so many layers, `inches` wide each, and its axes with the layers of each."""
    from matplotlib import pyplot

    rows = math.ceil(layers / PER_ROW)
    per_row = math.ceil(layers / rows)
    size = max(6.0, inches * per_row), 0.6 + 3.6 * rows
    figure, axes = pyplot.subplots(rows, 1, figsize=size, squeeze=False)
    return figure, [(axis, slice(row * per_row, (row + 1) * per_row)) for row, axis in enumerate(axes[:, 0])]


def _policy(best: dict[str, JSON], policy: dict[str, JSON]) -> Any:
    """Kept share of every layer's inputs for every target, side by side: the search's best, and the policy's own."""
    layers = next(iter(best.values()))["layers"]
    figure, parts = _in_rows(len(layers), 0.16 * (1 + len(best)))
    wide = 0.8 / len(best)
    for axis, mine in parts:
        names = layers[mine]
        for at, (target, found) in enumerate(best.items()):
            places = [place + wide * (at + 0.5) - 0.4 for place in range(len(names))]
            label = f"target {target}: {found['ratio']:.3f} of the MACs"
            axis.bar(places, found["strategy"][mine], wide, color=f"C{at}", label=label)
            own = policy[target]["strategy"][mine]
            axis.plot(places, own, "k_", label="the policy's own answer" if at == 0 else None)
        axis.set(ylabel="kept share of inputs", ylim=(0, 1.02))
        name_layers(axis, names, layers)
    first = parts[0][0]
    first.set_title("Best strategy of the search")
    first.legend(fontsize=7, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return figure


def _widths(layers: dict[str, JSON]) -> Any:
    """Channels per layer, dense and kept, in rows; layers that share a group share a colour."""
    sharing = Counter(group for layer in layers.values() for group in layer["groups"])
    coupled = [group for group, count in sharing.items() if count > 1]
    figure, parts = _in_rows(len(layers), 0.3)
    shown: dict[str, Any] = {}
    for axis, part in parts:
        mine = list(layers.items())[part]
        shown["dense"] = axis.bar(range(len(mine)), [layer["width"] for _, layer in mine], color="0.88")
        for at, (_, layer) in enumerate(mine):
            colour, label = _kind(layer, coupled)
            shown.setdefault(label, axis.bar(at, layer["kept_width"], color=colour))
            axis.bar(at, layer["kept_width"], color=colour)
            axis.text(at, layer["kept_width"], str(layer["kept_width"]), ha="center", va="bottom", fontsize=7)
        axis.set_ylabel("channels")
        name_layers(axis, [name for name, _ in mine], list(layers))
    parts[0][0].set_title("Width of every layer, before and after")
    if len(shown) <= 12:
        parts[0][0].legend(shown.values(), shown, fontsize=7, loc="best")
    return figure


def _scales(rows: Sequence[JSON], own: JSON) -> Any:
    """Batch-norm scales while they were trained to be sparse: how they spread at the end, and over the epochs."""
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(10, 3.8))
    for row, colour in ((rows[0], "0.75"), (rows[-1], "C0")):
        edges, counts = row["scales"]["edges"], row["scales"]["counts"]
        label = f"after epoch {row['epoch']}"
        left.stairs(counts, edges, fill=row is rows[-1] or len(rows) == 1, color=colour, alpha=0.8, label=label)
    threshold = own.get("thresholds", {}).get("all")  # one of each layer has no place in a histogram of all
    if threshold is not None and not own.get("coupled"):  # scores of coupled channels are on another scale
        left.axvline(threshold, color="C3", label=f"threshold {threshold:.3g}")
    left.set(xlabel="|gamma|", ylabel="scales", yscale="symlog", title="Scales of the batch norms")
    left.legend(fontsize=8)
    epochs = [row["epoch"] for row in rows]
    right.plot(epochs, [row["scale_median"] for row in rows], marker=".", label="median |gamma|")
    right.set(xlabel="epoch", ylabel="median |gamma|", ylim=(0, None), title="On the way")
    whole_epochs(right)
    share = right.twinx()
    share.plot(epochs, [100 * row["scale_small_share"] for row in rows], marker=".", color="C1")
    share.set(ylabel="below a hundredth of the largest (%, orange)", ylim=(0, 100))
    return figure


def _sparsity(layers: dict[str, JSON]) -> Any:
    """Weights of every layer, and those left."""
    figure, parts = _in_rows(len(layers), 0.3)
    for axis, part in parts:
        mine = list(layers.items())[part]
        axis.bar(range(len(mine)), [layer["total"] for _, layer in mine], color="0.88", label="dense")
        axis.bar(range(len(mine)), [layer["nonzero"] for _, layer in mine], color="C0", label="left")
        for at, (_, layer) in enumerate(mine):
            share = f"{100 * (1 - layer['share_zero']):.0f}"
            axis.text(at, layer["total"], share, ha="center", va="bottom", fontsize=7)
        axis.set(ylabel="weights (share left, %)", yscale="log")
        name_layers(axis, [name for name, _ in mine], list(layers))
    parts[0][0].set_title("Weights of every layer, before and after")
    parts[0][0].legend(fontsize=7, loc="best")
    return figure


def _kind(layer: JSON, coupled: list[str]) -> tuple[str, str]:
    """Colour of a layer's bar, and what it means."""
    shared = [group for group in layer["groups"] if group in coupled]
    if shared:
        return f"C{1 + coupled.index(shared[0]) % 9}", literal(f"kept, coupled: {shared[0]}")
    return ("C0", "kept") if layer["groups"] else ("0.6", "kept whole")


def name_layers(axis: Any, names: Sequence[str], among: Sequence[str] = ()) -> None:
    """Names at the ticks, each short enough and unlike any other of the figure's (`among`)."""
    labels = short_names(among or names)
    axis.set_xticks(range(len(names)), [literal(labels[name]) for name in names], rotation=90, fontsize=7)
    axis.margins(x=0.01)


def short_names(names: Sequence[str], most: int = 24) -> dict[str, str]:
    """The end of every long name, in whole parts: as many as fit, or more where another name ends alike."""
    parts = {name: name.split(".") for name in names}
    ends = {name: [".".join(parts[name][-n:]) for n in range(1, len(parts[name]) + 1)] for name in names}
    shared = Counter(end for several in ends.values() for end in several)

    def label(name: str) -> str:
        if len(name) <= most:
            return name
        alone = [end for end in ends[name] if shared[end] == 1] or [name]
        fits = [end for end in alone if len(end) <= most]
        end = fits[-1] if fits else alone[0]
        return end if end == name else f"…{end}"

    return {name: label(name) for name in names}


def whole_epochs(axis: Any) -> None:
    from matplotlib.ticker import MaxNLocator

    axis.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
