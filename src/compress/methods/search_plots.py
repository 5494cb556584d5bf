"""Figures of a search by candidates: the best held-out error on the way, and the widths of the best ones."""

from collections.abc import Mapping, Sequence
from typing import Any

from compress.io.files import JSON
from compress.report.plot.axes import name_layers, rows_of_layers

SHOWN = 5  # candidates whose widths are drawn


def plots(rows: Sequence[JSON], plan: JSON | None, sparsify_report: JSON | None) -> Mapping[str, Any]:
    """Figures by file name; none where the widths were given, not searched for."""
    figures: dict[str, Any] = {}
    scored = [row for row in rows if row.get("evaluations") and row.get("stage") == "prune"]
    if scored:
        figures["search.png"] = _search(scored)
    found = (plan or {}).get("own", {})
    if found.get("candidates") and plan is not None:
        figures["candidates.png"] = _candidates(found, plan["groups"])
    return figures


KINDS = {"draw": "a draw", "generation": "mean of a generation", "iteration": "best of an iteration"}


def _search(rows: Sequence[JSON]) -> Any:
    """The best so far over the number of evaluations, which searches can be compared at; dots are single draws, the
    mean of a generation, or the best of an iteration, which may be above the budget still."""
    from matplotlib import pyplot

    figure, axis = pyplot.subplots(figsize=(7, 3.8))
    best = [(row["evaluations"], row["best_top1"]) for row in rows if row["best_top1"] is not None]
    known = [(row["evaluations"], top1) for row in rows if (top1 := _own_top1(row)) is not None]
    label = next(text for step, text in KINDS.items() if step in rows[0])
    axis.plot([at for at, _ in known], [100 - top1 for _, top1 in known], ".", alpha=0.4, color="C0", label=label)
    axis.step([at for at, _ in best], [100 - top1 for _, top1 in best], where="post", color="C0", label="best so far")
    axis.set(xlabel="candidates scored", ylabel="held-out top-1 error (%)", title="Search, before fine-tuning")
    axis.legend()
    return figure


def _own_top1(row: JSON) -> float | None:
    top1: float | None = row["mean_top1" if "generation" in row else "top1"]
    return top1


def _candidates(found: JSON, groups: Mapping[str, JSON]) -> Any:
    """Kept share of every group: the bar is the chosen candidate, the marks are the next best ones."""
    names = list(groups)
    full = [groups[name]["width"] for name in names]
    figure, parts = rows_of_layers(len(names), 0.32)
    for axis, part in parts:
        places = range(len(names[part]))
        axis.bar(
            places,
            _shares(found["widths"], full)[part],
            0.7,
            color="C0",
            label=f"chosen: held-out {found['top1']:.2f} %",
        )
        for number, other in enumerate(found["candidates"][:SHOWN], 1):
            label = f"no. {number}: {other['top1']:.2f} %"
            axis.plot(places, _shares(other["widths"], full)[part], "_", color=f"C{number}", label=label)
        axis.set(ylabel="kept share of channels", ylim=(0, 1.02))
        name_layers(axis, names[part], names)
    first = parts[0][0]
    first.set_title("Best candidates, before fine-tuning")
    first.legend(fontsize=7, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return figure


def _shares(widths: Sequence[int], full: Sequence[int]) -> list[float]:
    return [width / whole for width, whole in zip(widths, full, strict=True)]
