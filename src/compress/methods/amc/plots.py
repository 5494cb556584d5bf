"""Figures of a search by an agent: reward and accuracy of every episode, and the final strategies."""

from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any

from compress.io.files import JSON
from compress.report.group_by import group_by
from compress.report.plot.axes import name_layers, rows_of_layers


def plots(rows: Sequence[JSON], plan: JSON | None, sparsify_report: JSON | None) -> Mapping[str, Any]:
    """Figures by file name; none where the agent or the strategy was given, not searched for."""
    figures: dict[str, Any] = {}
    episodes = [row for row in rows if "episode" in row]
    if episodes:
        figures["search.png"] = _search(episodes)
    if sparsify_report and sparsify_report.get("best"):
        own, constant = sparsify_report["policy"], sparsify_report.get("constant", {})  # older results have none
        figures["policy.png"] = _policy(sparsify_report["best"], own, constant)
    return figures


MARK = {"k_": 6, "kx": 3}  # sizes of marks, in points


def _search(rows: Sequence[JSON]) -> Any:
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(2, 1, sharex=True, figsize=(7, 5.5))
    rows_by_target = sorted(group_by(rows, lambda row: float(row["target"])).items())
    for index, (target, target_rows) in enumerate(rows_by_target):
        episodes = [row["episode"] for row in target_rows]
        for axis, name in zip(axes, ("reward", "accuracy"), strict=True):
            values = [row[name] for row in target_rows]
            axis.plot(episodes, values, ".", alpha=0.35, color=f"C{index}")
            best, label = list(accumulate(values, max)), f"target {target:g}, best so far"
            axis.step(episodes, best, where="post", color=f"C{index}", label=label)
    axes[0].set(ylabel="reward", title="Search, one point per episode")
    axes[1].set(xlabel="episode", ylabel="held-out accuracy (%)")
    axes[0].legend(loc="lower right")
    return figure


def _policy(best: dict[str, JSON], policy: dict[str, JSON], constant: dict[str, JSON]) -> Any:
    """Kept share of every layer's inputs by target: bars are the search's best strategy, marks the policy without
    noise and a constant policy."""
    layers = next(iter(best.values()))["layers"]
    figure, parts = rows_of_layers(len(layers), 0.16 * (1 + len(best)))
    wide = 0.8 / len(best)
    for axis, part in parts:
        names = layers[part]
        for index, (target, found) in enumerate(best.items()):
            places = [place + wide * (index + 0.5) - 0.4 for place in range(len(names))]
            label = f"target {target}: {found['ratio']:.3f} of the MACs"
            axis.bar(places, found["strategy"][part], wide, color=f"C{index}", label=label)
            for answers, mark, what in (
                (policy, "k_", "the policy's own answer"),
                (constant, "kx", "a constant policy's"),
            ):
                if target in answers:
                    shares = answers[target]["strategy"][part]
                    axis.plot(places, shares, mark, markersize=MARK[mark], label=what if index == 0 else None)
        axis.set(ylabel="kept share of inputs", ylim=(0, 1.02))
        name_layers(axis, names, layers)
    first = parts[0][0]
    first.set_title("Best strategy of the search, and the policy's")
    first.legend(fontsize=7, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return figure
