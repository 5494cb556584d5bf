"""The figures that a run ends with: its trainings, what its plan kept, and those that its method adds."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from compress.io.files import JSON
from compress.report.plot.axes import draw_to_files, literal, name_layers, rows_of_layers, save, whole_numbers
from compress.report.read.metrics import EPOCH, step_of

# A method's own figures, by file name, from its run's rows, the content of plan.json and what `sparsify` reported.
MethodPlots = Callable[[Sequence[JSON], JSON | None, JSON | None], Mapping[str, Any]]


def no_plots(rows: Sequence[JSON], plan: JSON | None, sparsify_report: JSON | None) -> Mapping[str, Any]:
    return {}


def draw_run(
    folder: Path,
    rows: Sequence[JSON],
    plan: JSON | None,
    sparsify_report: JSON | None = None,
    method_plots: MethodPlots = no_plots,
) -> list[Path]:
    """Write plots/*.png, from the rows of metrics.jsonl, the content of plan.json and what `sparsify` reported."""
    draw_to_files()
    (folder / "plots").mkdir(exist_ok=True)
    figures: dict[str, Any] = {}
    trained = [row for row in rows if is_of_training(row)]
    if trained:
        figures["training.png"] = _training(trained)
    if plan and plan.get("sparsity"):
        figures["sparsity.png"] = _sparsity(plan["sparsity"]["layers"])
    elif plan:
        figures["widths.png"] = _widths(plan["layers"])
    figures |= method_plots(rows, plan, sparsify_report)
    for figure in figures.values():
        figure.tight_layout()
    return [save(figure, folder / "plots" / name) for name, figure in figures.items()]


def is_of_training(row: JSON) -> bool:
    """Whether a row says how far a training has come after an epoch."""
    step = step_of(row)
    return step is not None and step.name == EPOCH and "loss" in row


def _training(rows: Sequence[JSON]) -> Any:
    from matplotlib import pyplot

    figure, (top, bottom) = pyplot.subplots(2, 1, sharex=True, figsize=(7, 5.5))
    start = 0  # epochs before a stage
    starts: dict[str, int] = {}
    for stage in dict.fromkeys(row["stage"] for row in rows):
        own = [row for row in rows if row["stage"] == stage]
        starts[stage] = starts.get(stage.partition(" ")[0], start)  # a control begins where the run's own did
        epochs = [starts[stage] + row["epoch"] for row in own]
        top.plot(epochs, [row["loss"] for row in own], marker=".", label=stage)
        if all("held_out_top1" in row for row in own):  # a method may score its network in another way
            bottom.plot(epochs, [row["held_out_top1"] for row in own], marker=".", label=f"{stage}, held-out")
        start = epochs[-1]
    top.set(ylabel="training loss", yscale="log", title="Training")
    bottom.set(xlabel="epoch, all stages", ylabel="top-1 (%)")
    whole_numbers(bottom)
    top.legend(fontsize=7)
    if bottom.get_lines():
        bottom.legend(fontsize=7)
    return figure


def _widths(layers: dict[str, JSON]) -> Any:
    """Channels of every layer, dense and kept; coupled layers (of the same group) share a colour."""
    sharing = Counter(group for layer in layers.values() for group in layer["groups"])
    coupled = [group for group, count in sharing.items() if count > 1]
    figure, parts = rows_of_layers(len(layers), 0.3)
    shown: dict[str, Any] = {}
    for axis, part in parts:
        drawn = list(layers.items())[part]
        shown["dense"] = axis.bar(range(len(drawn)), [layer["width"] for _, layer in drawn], color="0.88")
        for at, (_, layer) in enumerate(drawn):
            colour, label = _kind(layer, coupled)
            bar = axis.bar(at, layer["kept_width"], color=colour)
            shown.setdefault(label, bar)
            axis.text(at, layer["kept_width"], str(layer["kept_width"]), ha="center", va="bottom", fontsize=7)
        axis.set_ylabel("channels")
        name_layers(axis, [name for name, _ in drawn], list(layers))
    parts[0][0].set_title("Width of every layer, before and after")
    if len(shown) <= 12:
        parts[0][0].legend(shown.values(), shown, fontsize=7, loc="best")
    return figure


def _sparsity(layers: dict[str, JSON]) -> Any:
    """Weights of every layer, and those that are not zero."""
    figure, parts = rows_of_layers(len(layers), 0.3)
    for axis, part in parts:
        drawn = list(layers.items())[part]
        axis.bar(range(len(drawn)), [layer["total"] for _, layer in drawn], color="0.88", label="dense")
        axis.bar(range(len(drawn)), [layer["nonzero"] for _, layer in drawn], color="C0", label="left")
        for at, (_, layer) in enumerate(drawn):
            share = f"{100 * (1 - layer['share_zero']):.0f}"
            axis.text(at, layer["total"], share, ha="center", va="bottom", fontsize=7)
        axis.set(ylabel="weights (share left, %)", yscale="log")
        name_layers(axis, [name for name, _ in drawn], list(layers))
    parts[0][0].set_title("Weights of every layer, before and after")
    parts[0][0].legend(fontsize=7, loc="best")
    return figure


def _kind(layer: JSON, coupled: list[str]) -> tuple[str, str]:
    """The colour of a layer's bar, and its entry in the legend."""
    shared = [group for group in layer["groups"] if group in coupled]
    if shared:
        return f"C{1 + coupled.index(shared[0]) % 9}", literal(f"kept, coupled: {shared[0]}")
    return ("C0", "kept") if layer["groups"] else ("0.6", "kept whole")
