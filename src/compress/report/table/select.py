"""Which runs, in which order: `--where`, `--sort`, `--by` and `--pareto`, by the key of a figure or of a setting."""

import math
import re
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any, TypeVar

from compress.errors import InputError, nearest
from compress.report.read.runs import Run, number
from compress.report.table.columns import measures
from compress.report.table.differences import differing, setting_text, short_names
from compress.schema.settings import BUDGETS

Value = Callable[[Run], Any]
T = TypeVar("T")

CONDITION = re.compile(r"\s*([^<>=!]+?)\s*(<=|>=|==|!=|<|>|=)\s*(.*?)\s*")
COLUMNS = ("n", "budget", "marks", "met", "runs")  # of csv and json, beside settings and figures
ORDERED: dict[str, Callable[[float, float], bool]] = {
    "<": lambda a, b: a < b,
    "<=": lambda a, b: a <= b,
    ">": lambda a, b: a > b,
    ">=": lambda a, b: a >= b,
}


class Keys:
    """The keys by which a user may name a figure or a setting of these runs, short or in full."""

    def __init__(self, runs: Sequence[Run]) -> None:
        self.figures: dict[str, Value] = {measure.key: measure.of for measure in measures(runs)}
        self.figures |= {"started": lambda run: run.started, "run": lambda run: str(run.folder)}
        self.settings = list(dict.fromkeys(key for run in runs for key in run.settings))
        spreads = {f"{name}_sd" for name in self.figures}
        self.short = short_names(self.settings, self.settings, {*self.figures, *spreads, *COLUMNS})
        self._runs = runs

    def full(self, key: str, option: str) -> str:
        """
        Raises:
            InputError: no figure and no setting, or several settings, are called so.
        """
        if key in self.figures or key in self.settings or key in BUDGETS:
            return key
        meant = [full for full in self.settings if full.endswith(f".{key}")]
        if len(meant) == 1:
            return meant[0]
        if meant:
            raise InputError(f"{option} {key}: more than one setting is called so: {', '.join(meant)}")
        there = [*self.figures, *[self.short[name] for name in differing([run.settings for run in self._runs])]]
        near = nearest(key, {*there, *BUDGETS, *self.short.values()})
        hint = f"{near} " if near.startswith("did you mean") else ""
        choices = ", ".join(dict.fromkeys([*there, *BUDGETS]))
        raise InputError(f"{option} {key}: unknown key; {hint}choices: {choices}, or any setting of the runs")

    def value(self, key: str) -> Value:
        """How to take it from a run; of a budget what was asked, the method's default included."""
        if key in self.figures:
            return self.figures[key]
        if key in BUDGETS:
            return lambda run: (run.budget.get("asked") or {}).get(key, run.settings.get(key))
        return lambda run: run.settings.get(key)


# -- where -----------------------------------------------------------------------------------------------------


def where(runs: Sequence[Run], conditions: Iterable[str], keys: Keys) -> list[Run]:
    """The runs that fulfil all conditions: "method=amc,camc", "preserve_ratio<0.5", "top1>90".

    Raises:
        InputError: a condition that cannot be read, or that leaves no run.
    """
    left = list(runs)
    for text in conditions:
        name, sign, wanted = condition(text)
        key = keys.full(name, "--where")
        value = keys.value(key)
        there = list(dict.fromkeys(setting_text(value(run)) for run in left))
        left = [run for run in left if _holds(value(run), sign, wanted, text, there)]
        if not left:
            values = ", ".join(there[:8]) + (", ..." if len(there) > 8 else "")
            raise InputError(f"--where {text}: no run is left; {key} is {values}")
    return left


def condition(text: str) -> tuple[str, str, str]:
    """Key, sign and value of one.

    Raises:
        InputError: it is none, whatever the runs are.
    """
    parsed = CONDITION.fullmatch(text)
    if parsed is None:
        raise InputError(f"--where {text}: write key=value, or key with one of != < <= > >= and a value")
    name, sign, wanted = parsed.groups()
    if sign in ORDERED and _number(wanted) is None:
        raise InputError(f"--where {text}: {wanted or 'nothing'} is no number; {sign} compares numbers")
    return name, sign, wanted


def _holds(value: Any, sign: str, text: str, whole: str, there: Sequence[str]) -> bool:
    if sign in ORDERED:
        if number(value) is None and value is not None:
            raise InputError(f"--where {whole}: not a number but {', '.join(there[:8])}; use = or !=")
        return value is not None and ORDERED[sign](value, float(text))
    same = any(_same(value, option) for option in (text, *text.split(",")))
    return same != (sign == "!=")


def _same(value: Any, text: str) -> bool:
    written, figure = _number(text), number(value)
    if written is not None and figure is not None:
        return math.isclose(written, figure, rel_tol=1e-9)
    return setting_text(value).replace(" ", "") == text.replace(" ", "")


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


# -- order and front -------------------------------------------------------------------------------------------


def ordered(rows: Sequence[T], by: Sequence[tuple[Callable[[T], Any], bool]]) -> list[T]:
    """Sorted by several values, each ascending or (True) descending; rows without a value come last."""
    rows = list(rows)
    for value, descending in reversed(by):
        known = [row for row in rows if value(row) is not None]
        unknown = [row for row in rows if value(row) is None]
        key = _comparable(value)
        rows = [*sorted(known, key=key, reverse=descending), *unknown]
    return rows


def _comparable(value: Callable[[T], Any]) -> Callable[[T], tuple[float, str]]:
    """Numbers before words."""

    def key(row: T) -> tuple[float, str]:
        figure = number(value(row))
        return (figure, "") if figure is not None else (math.inf, setting_text(value(row)))

    return key


def front(points: Sequence[tuple[float | None, float | None]]) -> list[int]:
    """Places of the (MACs, top-1) that no other beats: none has fewer MACs and at least the top-1, nor as many
    MACs and a higher top-1. A point without a figure is not on it."""
    known = [(at, macs, top1) for at, (macs, top1) in enumerate(points) if macs is not None and top1 is not None]
    return [
        at
        for at, macs, top1 in known
        if not any(m <= macs and t >= top1 and (m < macs or t > top1) for _, m, t in known)
    ]


def sizes(networks: Sequence[tuple[float | None, float | None]]) -> list[float | None]:
    """What a front goes by, of each network's (MACs, nonzero MACs where it has masks): the MACs of cut networks.

    Zeros alone make nothing faster: masked networks stand beside each other, by their nonzero MACs, or not at all.
    """
    if all(nonzero is not None for macs, nonzero in networks if macs is not None):
        return [nonzero for _, nonzero in networks]
    return [macs if nonzero is None else None for macs, nonzero in networks]


def grouped(runs: Sequence[Run], values: Collection[Value]) -> list[tuple[Run, ...]]:
    """Runs that share all values, in the order of their first."""
    groups: dict[tuple[str, ...], list[Run]] = {}
    for run in runs:
        groups.setdefault(tuple(setting_text(value(run)) for value in values), []).append(run)
    return [tuple(group) for group in groups.values()]
