"""What runs are called in the legends of figures, one colour per label, and runs grouped for means over seeds.

A label says what tells a run apart from the others, apart from budget and seed, which have axes and strokes of their
own. It begins with the method; of other choices it has the name; of other settings those that most runs do not have:

>>> from pathlib import Path
>>> def labels(*settings):
...     runs = [Run(folder=Path("run"), settings=each) for each in settings]
...     return list(run_labels(runs).values())
>>> labels({"method": "amc", "method.round_to": 8}, {"method": "slimming", "method.l1": 0.1})
['amc', 'slimming']
>>> labels(*[{"method": "slimming", "finetune.init": init} for init in ("finetune", "finetune", "scratch")])
['slimming', 'slimming', 'slimming, init scratch']

No value is usual unless more than half of the runs have it; else every run names its own:

>>> labels(*[{"method": "slimming", "method.l1": strength} for strength in (0.1, 0.2)])
['slimming, l1 0.1', 'slimming, l1 0.2']

Runs whose settings are alike may still not be: other images, another network at the end, weights of the best epoch.
A mean over them would say nothing, so their labels say what it is:

>>> dense, pruned = ({name: {"top1": 90.0, "macs": 10}} for name in ("dense", "pruned"))
>>> list(run_labels([Run(folder=Path("run"), results=results) for results in (dense, pruned)]).values())
['runs, network dense', 'runs, network pruned']
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
from compress.report.table.differences import choices_around, differing, keys_of, short_keys
from compress.report.table.shortened import shortened

LINE = 60  # letters of a label on one line
MAX_VALUE = 24  # letters of a value, if those of other runs do not differ in more
NO_VALUE = ""  # as text


@dataclass(frozen=True)
class RunLabels:
    """The labels of runs, by the runs' id, and the colours of labels: the same in every figure."""

    labels: Mapping[int, str]
    colours: Mapping[str, Any]

    def label(self, run: Run) -> str:
        return self.labels[id(run)]

    def groups(self, runs: Sequence[Run]) -> dict[tuple[str, str], list[Run]]:
        """Runs that differ in nothing but the seed, by label and budget, in that order. A seed counts once, however
        often it was run."""
        found = group_by(runs, lambda run: (self.label(run), budget_label(run)))
        return {key: _once(found[key]) for key in sorted(found, key=lambda key: (key[0], budget_order(key[1])))}


def _once(runs: Sequence[Run]) -> list[Run]:
    """The first of every seed; runs that know none count each."""
    return [same[0] for same in group_by(runs, lambda run: str(run.settings.get("seed", id(run)))).values()]


def labels_of(runs: Sequence[Run]) -> RunLabels:
    labels = {run_id: literal(wrapped(label)) for run_id, label in run_labels(runs).items()}
    return RunLabels(labels, colours(sorted(set(labels.values()))))


def wrapped(label: str) -> str:
    """On lines that fit a legend, broken between settings.

    >>> wrapped("filter_magnitude, finetune.epochs 5, stages [pretrain,prune,eval]")
    'filter_magnitude, finetune.epochs 5,\\nstages [pretrain,prune,eval]'
    """
    lines = [""]
    for part in label.split(", "):
        fits = not lines[-1] or len(lines[-1]) + len(part) < LINE
        lines = [*lines[:-1], f"{lines[-1]}, {part}".removeprefix(", ")] if fits else [*lines, part]
    return ",\n".join(lines)


def run_labels(runs: Sequence[Run]) -> dict[int, str]:
    """The label of every run, by its id. Runs with different settings never have the same, nor have those of which
    means would say nothing."""
    labels = _labels_by_settings(runs)
    for alike in group_by(runs, lambda run: (labels[id(run)], budget_label(run))).values():
        facts = {id(run): beside_settings(run) for run in alike}
        for key in differing(list(facts.values())):
            for run in alike:
                if key in facts[id(run)]:
                    labels[id(run)] += f", {key} {facts[id(run)][key]}"
    return labels


def beside_settings(run: Run) -> Mapping[str, str]:
    """What must be the same in runs of the same settings for a mean over them to say anything."""
    last = list(run.results)[-1:]
    facts: dict[str, Any] = {
        "images": run.fingerprint,
        "network": last[0] if last else None,
        "weights": run.results[last[0]].get("weights") if last else None,
        "devices": run.devices,
        **{f"with {kind}": limit for kind, limit in run.beside.items()},
    }
    return {key: as_text.setting(value) for key, value in facts.items() if value is not None}


def _labels_by_settings(runs: Sequence[Run]) -> dict[int, str]:
    settings = [run.settings for run in runs]
    known = set(keys_of(settings))
    keys = [key for key in differing(settings) if key not in ("seed", "method")]
    groups = {key for key in keys if any(other.startswith(f"{key}.") for other in known)}
    short = short_keys(keys, {*known, *AT_ROOT})
    texts = {key: _texts(key, settings) for key in keys}
    usual = {key: {} if key in groups else _usual(key, settings) for key in keys}
    labels: dict[tuple[str, ...], str] = {}
    found = {}
    for run in runs:
        method = as_text.setting(run.settings.get("method"))
        values = {key: as_text.setting(run.settings.get(key)) for key in keys}
        unusual = [
            key
            for key in keys
            if key in run.settings and values[key] != usual[key].get(choices_around(key, run.settings), "null")
        ]
        shown = {key: texts[key][values[key]] for key in unusual}
        parts = [text if key in groups else f"{short[key]} {text}" for key, text in shown.items()]
        label = ", ".join([method, *parts] if "method" in run.settings else parts or ["runs"])
        combination = method, *values.values()
        if combination not in labels:
            labels[combination] = _unique(as_text.one_line(label), labels.values())
        found[id(run)] = labels[combination]
    return found


def _texts(key: str, settings: Sequence[Settings]) -> dict[str, str]:
    """The values of a setting as labels show them."""
    return shortened((as_text.setting(each.get(key)) for each in settings), MAX_VALUE)


def _usual(key: str, settings: Sequence[Settings]) -> dict[tuple[str, ...], str]:
    """By the choices around a setting the value that is not worth naming: what more than half of the runs that have
    it set it to, or no value.

    Where some runs of the same choices lack the setting, having it is what is unusual: "null".
    """
    found = {}
    for choices, members in group_by(settings, lambda each: choices_around(key, each)).items():
        values = [as_text.setting(each[key]) for each in members if key in each]
        if len(values) < len(members):
            found[choices] = "null"
        else:
            (value, times), *_ = Counter(values).most_common(1)
            found[choices] = value if 2 * times > len(values) else NO_VALUE
    return found


def _unique(label: str, taken: Collection[str]) -> str:
    """With a number behind it if it is `taken`: by settings that were read as the usual ones."""
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
