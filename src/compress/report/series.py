"""Runs as series of a figure: what to call them, one colour each, and means over their seeds."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from compress.report.differing import differing, setting_text, short_names
from compress.report.measures import asked
from compress.report.runs import Run

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
    names = series_names(runs)
    return Series(names, colours(sorted(set(names.values()))))


def series_names(runs: Sequence[Run]) -> dict[int, str]:
    """What tells runs apart, budget and seed aside: "slimming", "slimming, init scratch".

    Of choices the name, of other settings those that most runs do not have.
    """
    settings = [run.settings for run in runs]
    known = {key for each in settings for key in each}
    keys = [key for key in differing(settings) if key != "seed"]
    groups = {key for key in keys if any(name.startswith(f"{key}.") for name in known)}
    short = short_names(keys, known)
    usual = {key: _usual([setting_text(each[key]) for each in settings if key in each]) for key in keys}
    names = {}
    for run in runs:
        mine = {key: setting_text(run.settings[key]) for key in keys if run.settings.get(key) is not None}
        told = [value for key, value in mine.items() if key in groups]
        told += [f"{short[key]} {value}" for key, value in mine.items() if key not in groups and value != usual[key]]
        names[id(run)] = ", ".join(told) or str(run.settings.get("method", "runs"))
    return names


def _usual(values: Sequence[str]) -> str | None:
    """What more than half have."""
    (value, count), *_ = Counter(values).most_common(1)
    return value if 2 * count > len(values) else None


def colours(names: Sequence[str]) -> dict[str, Any]:
    from matplotlib import colormaps

    if len(names) <= 10:
        return {name: f"C{at}" for at, name in enumerate(names)}
    return {name: colormaps["turbo"](at / (len(names) - 1)) for at, name in enumerate(names)}


def budget_name(run: Run) -> str:
    """As on the command line."""
    value = asked(run)
    return "" if value is None else f"{run.budget_kind}={value:g}"


def budget_order(name: str) -> tuple[str, float]:
    """Sorts names of budgets by their kind, then by their value."""
    kind, _, value = name.partition("=")
    return kind, float(value or 0)


def legend_beside(figure: Any, axis: Any, handles: Sequence[Any] | None = None) -> None:
    """To the right of the axes, where it covers nothing; the axes keep their size."""
    figure.tight_layout()
    place = {"loc": "upper left", "bbox_to_anchor": (1.01, 1.0), "fontsize": 8, "frameon": False}
    shown = axis.get_legend_handles_labels()[0] if handles is None else handles
    names = [handle.get_label() for handle in shown]
    axis.legend(shown, [name if len(name) <= LONGEST else f"{name[: LONGEST - 1]}…" for name in names], **place)
