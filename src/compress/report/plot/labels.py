"""What runs are called in the legends of figures, one colour per label, and runs grouped for means over seeds.

A label says what tells a run apart from the others, apart from budget and seed, which have axes and strokes of their
own. Of a choice it has the name; of other settings those that most runs do not have:

>>> from pathlib import Path
>>> def labels(*settings):
...     runs = [Run(folder=Path("run"), settings=each) for each in settings]
...     return list(run_labels(runs).values())
>>> labels({"method": "amc", "method.round_to": 8}, {"method": "slimming", "method.l1": 0.1})
['amc', 'slimming']
>>> labels(*[{"method": "slimming", "finetune.init": init} for init in ("finetune", "finetune", "scratch")])
['slimming', 'slimming', 'init scratch']

No value is usual unless more than half of the runs have it; else every run names its own:

>>> labels(*[{"method": "slimming", "method.l1": strength} for strength in (0.1, 0.2)])
['l1 0.1', 'l1 0.2']
"""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, count
from typing import Any

from compress.report.group_by import group_by
from compress.report.plot.axes import literal
from compress.report.read.runs import Run
from compress.report.read.settings import AT_ROOT, Settings
from compress.report.table import as_text
from compress.report.table.columns import asked
from compress.report.table.differences import choices_around, differing, short_keys

MAX_LABEL = 60  # letters


@dataclass(frozen=True)
class RunLabels:
    """The labels of runs, by the runs' id, and the colours of labels: the same in every figure."""

    labels: Mapping[int, str]
    colours: Mapping[str, Any]

    def label(self, run: Run) -> str:
        return self.labels[id(run)]

    def groups(self, runs: Sequence[Run]) -> dict[tuple[str, str], list[Run]]:
        """Runs that differ in nothing but the seed, by label and budget, in that order."""
        found = group_by(runs, lambda run: (self.label(run), budget_label(run)))
        return {key: found[key] for key in sorted(found, key=lambda key: (key[0], budget_order(key[1])))}


def labels_of(runs: Sequence[Run]) -> RunLabels:
    labels = {run_id: literal(label) for run_id, label in run_labels(runs).items()}
    return RunLabels(labels, colours(sorted(set(labels.values()))))


def run_labels(runs: Sequence[Run]) -> dict[int, str]:
    """The label of every run, by its id. Runs with different settings never have the same."""
    settings = [run.settings for run in runs]
    known = {key for each in settings for key in each}
    keys = [key for key in differing(settings) if key != "seed"]
    groups = {key for key in keys if any(other.startswith(f"{key}.") for other in known)}
    short = short_keys(keys, {*known, *AT_ROOT})
    usual = {key: "null" if key in groups else _usual(key, settings) for key in keys}
    labels: dict[tuple[str, ...], str] = {}
    found = {}
    for run in runs:
        values = {key: as_text.setting(run.settings.get(key)) for key in keys}
        unusual = [key for key in keys if key in run.settings and values[key] != usual[key]]
        label = ", ".join(values[key] if key in groups else f"{short[key]} {values[key]}" for key in unusual)
        combination = tuple(values.values())
        if combination not in labels:
            labels[combination] = _unique(label or str(run.settings.get("method", "runs")), labels.values())
        found[id(run)] = labels[combination]
    return found


def _usual(key: str, settings: Sequence[Settings]) -> str | None:
    """The value of a setting that is not worth naming: what more than half of the runs that have it set it to.

    Where some runs of the same choices lack the setting, having it is what is unusual: "null".
    """
    having = {choices_around(key, each) for each in settings if key in each}
    lacking = {choices_around(key, each) for each in settings if key not in each}
    if having & lacking:
        return "null"
    values = [as_text.setting(each[key]) for each in settings if key in each]
    (value, times), *_ = Counter(values).most_common(1)
    return value if 2 * times > len(values) else None


def _unique(label: str, taken: Collection[str]) -> str:
    """Cut to a length that fits a legend, with a number behind it if that is `taken`."""
    label = as_text.one_line(label)
    label = label if len(label) <= MAX_LABEL else f"{label[: MAX_LABEL - 1]}…"
    return next(each for each in chain([label], (f"{label} ({at})" for at in count(2))) if each not in taken)


def colours(names: Sequence[str]) -> dict[str, Any]:
    from matplotlib import colormaps

    if len(names) <= 10:
        return {name: f"C{at}" for at, name in enumerate(names)}
    return {name: colormaps["turbo"](at / (len(names) - 1)) for at, name in enumerate(names)}


def budget_label(run: Run) -> str:
    """The budget as on the command line; empty if there is none."""
    value = asked(run)
    return "" if value is None else literal(f"{run.budget_kind}={value:g}")


def budget_order(label: str) -> tuple[str, float]:
    """To sort labels of budgets by: kind, then value."""
    kind, _, value = label.partition("=")
    return kind, float(value or 0)


def legend_beside(figure: Any, axis: Any, handles: Sequence[Any] | None = None, **more: Any) -> None:
    """Draw the legend to the right of the axes, which keep their size."""
    figure.tight_layout()
    place = {"loc": "upper left", "bbox_to_anchor": (1.01, 1.0), "fontsize": 8, "frameon": False, **more}
    shown = axis.get_legend_handles_labels()[0] if handles is None else handles
    axis.legend(shown, [handle.get_label() for handle in shown], **place)
