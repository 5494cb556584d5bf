"""Runs as series of a figure: what to call them, one colour each, and means over their seeds."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, count
from typing import Any

from compress.report.plot.one_run import literal
from compress.report.read.runs import Run
from compress.report.table.columns import asked
from compress.report.table.differences import Settings, differing, one_line, prefixes, setting_text, short_names

LONGEST = 60  # letters of a name in a legend


@dataclass(frozen=True)
class Series:
    """The names of runs, by id, and the colours of names: the same in every figure."""

    names: Mapping[int, str]
    colours: Mapping[str, Any]

    def name(self, run: Run) -> str:
        return self.names[id(run)]

    def groups(self, runs: Sequence[Run]) -> dict[tuple[str, str], list[Run]]:
        """Runs that differ in nothing but the seed, by name and budget, in that order."""
        found: dict[tuple[str, str], list[Run]] = {}
        for run in runs:
            found.setdefault((self.name(run), budget_name(run)), []).append(run)
        return {key: found[key] for key in sorted(found, key=lambda key: (key[0], budget_order(key[1])))}


def series_of(runs: Sequence[Run]) -> Series:
    names = {which: literal(name) for which, name in series_names(runs).items()}
    return Series(names, colours(sorted(set(names.values()))))


def series_names(runs: Sequence[Run]) -> dict[int, str]:
    """What tells runs apart, budget and seed aside: "slimming", "slimming, init scratch".

    Of choices the name, of other settings those that most runs do not have. Two names are never the same.
    """
    settings = [run.settings for run in runs]
    known = {key for each in settings for key in each}
    keys = [key for key in differing(settings) if key != "seed"]
    groups = {key for key in keys if any(name.startswith(f"{key}.") for name in known)}
    short = short_names(keys, known)
    usual = {key: "null" if key in groups else _usual(key, settings) for key in keys}
    names: dict[tuple[str, ...], str] = {}
    found = {}
    for run in runs:
        values = {key: setting_text(run.settings.get(key)) for key in keys}
        told = [key for key in keys if key in run.settings and values[key] != usual[key]]
        name = ", ".join(values[key] if key in groups else f"{short[key]} {values[key]}" for key in told)
        this = tuple(values.values())
        if this not in names:
            names[this] = _new(name or str(run.settings.get("method", "runs")), names.values())
        found[id(run)] = names[this]
    return found


def _usual(key: str, settings: Sequence[Settings]) -> str | None:
    """What goes without saying: the value that more than half have; null where runs of the same choice lack it."""
    groups = list(prefixes(key))
    choices: dict[bool, set[tuple[str, ...]]] = {True: set(), False: set()}
    for each in settings:
        choices[key in each].add(tuple(str(each.get(group)) for group in groups))
    if choices[True] & choices[False]:
        return "null"
    values = [setting_text(each[key]) for each in settings if key in each]
    (value, times), *_ = Counter(values).most_common(1)
    return value if 2 * times > len(values) else None


def _new(name: str, taken: Collection[str]) -> str:
    """Short enough for a legend, and none of those taken."""
    name = one_line(name)
    name = name if len(name) <= LONGEST else f"{name[: LONGEST - 1]}…"
    return next(each for each in chain([name], (f"{name} ({at})" for at in count(2))) if each not in taken)


def colours(names: Sequence[str]) -> dict[str, Any]:
    from matplotlib import colormaps

    if len(names) <= 10:
        return {name: f"C{at}" for at, name in enumerate(names)}
    return {name: colormaps["turbo"](at / (len(names) - 1)) for at, name in enumerate(names)}


def budget_name(run: Run) -> str:
    """As on the command line."""
    value = asked(run)
    return "" if value is None else literal(f"{run.budget_kind}={value:g}")


def budget_order(name: str) -> tuple[str, float]:
    """Sorts names of budgets by their kind, then by their value."""
    kind, _, value = name.partition("=")
    return kind, float(value or 0)


def legend_beside(figure: Any, axis: Any, handles: Sequence[Any] | None = None, **more: Any) -> None:
    """To the right of the axes, where it covers nothing; the axes keep their size."""
    figure.tight_layout()
    place = {"loc": "upper left", "bbox_to_anchor": (1.01, 1.0), "fontsize": 8, "frameon": False, **more}
    shown = axis.get_legend_handles_labels()[0] if handles is None else handles
    axis.legend(shown, [handle.get_label() for handle in shown], **place)
