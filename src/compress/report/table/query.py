"""Filter, sort and group runs by the key of a column or of a setting: `--where`, `--sort`, `--by`."""

import math
import re
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any, TypeVar

from compress.errors import InputError, nearest
from compress.report.group_by import group_by
from compress.report.read.runs import Run, number
from compress.report.read.settings import AT_ROOT
from compress.report.table import as_text
from compress.report.table.columns import Column, columns
from compress.report.table.differences import differing, keys_of, short_keys
from compress.schema.settings import BUDGETS

Getter = Callable[[Run], Any]
T = TypeVar("T")

CONDITION = re.compile(r"\s*([^<>=!]+?)\s*(<=|>=|==|!=|<|>|=)\s*(.*?)\s*")
OTHER_FIELDS = ("n", "budget", "marks", "met", "runs")  # of csv and json, beside settings and columns
OF_NUMBERS: dict[str, Callable[[float, float], bool]] = {
    "<": lambda a, b: a < b,
    "<=": lambda a, b: a <= b,
    ">": lambda a, b: a > b,
    ">=": lambda a, b: a >= b,
}


class Keys:
    """The keys by which a user may name a column or a setting of these runs, short or in full."""

    def __init__(self, runs: Sequence[Run]) -> None:
        self.figures = columns(runs)
        self.columns: dict[str, Getter] = {column.key: column.of for column in self.figures}
        self.columns |= {"started": lambda run: run.started, "run": lambda run: str(run.folder)}
        self.settings = keys_of([run.settings for run in runs])
        deviations = {f"{name}_sd" for name in self.columns}
        self.short = short_keys(
            self.settings, {*self.settings, *AT_ROOT}, {*self.columns, *deviations, *OTHER_FIELDS}
        )
        self._runs = runs

    def resolve(self, key: str, option: str) -> str:
        """The full key that a user means by `key`.

        Raises:
            InputError: no column and no setting is called so, or several settings are.
        """
        if key in self.columns or key in self.settings or key in BUDGETS:
            return key
        meant = [full for full in self.settings if full.endswith(f".{key}")]
        if len(meant) == 1:
            return meant[0]
        if meant:
            raise InputError(f"{option} {key}: more than one setting is called so: {', '.join(meant)}")
        listed = [*self.columns, *[self.short[name] for name in differing([run.settings for run in self._runs])]]
        near = nearest(key, {*listed, *BUDGETS, *self.short.values()})
        hint = f"{near} " if near.startswith("did you mean") else ""
        choices = ", ".join(dict.fromkeys([*listed, *BUDGETS]))
        raise InputError(f"{option} {key}: unknown key; {hint}choices: {choices}, or any setting of the runs")

    def figures_of(self, runs: Sequence[Run]) -> Sequence[Column]:
        """The columns of figures that these of the runs have."""
        return self.figures if len(runs) == len(self._runs) else columns(runs)

    def getter(self, key: str) -> Getter:
        """How to take the value of a full key from a run. A budget is the one that was asked, even by default."""
        if key in self.columns:
            return self.columns[key]
        if key in BUDGETS:
            return lambda run: run.asked.get(key, run.settings.get(key))
        return lambda run: run.settings.get(key)


# -- filter ----------------------------------------------------------------------------------------------------


def filtered(runs: Sequence[Run], conditions: Iterable[str], keys: Keys) -> list[Run]:
    """The runs that fulfil all conditions: "method=amc,camc", "preserve_ratio<0.5", "top1>90".

    Raises:
        InputError: a condition cannot be parsed, or no run is left.
    """
    left = list(runs)
    for text in conditions:
        name, operator, wanted = parse_condition(text)
        key = keys.resolve(name, "--where")
        get = keys.getter(key)
        found = list(dict.fromkeys(as_text.setting(get(run)) for run in left))
        left = [run for run in left if _holds(get(run), operator, wanted, text, found)]
        if not left:
            values = ", ".join(found[:8]) + (", ..." if len(found) > 8 else "")
            raise InputError(f"--where {text}: no run is left; {key} is {values}")
    return left


def parse_condition(text: str) -> tuple[str, str, str]:
    """Key, operator and value.

    Raises:
        InputError: it is no condition, whatever runs there are.
    """
    parsed = CONDITION.fullmatch(text)
    if parsed is None:
        raise InputError(f"--where {text}: write key=value, or key with one of != < <= > >= and a value")
    name, operator, wanted = parsed.groups()
    if operator in OF_NUMBERS and _parse_number(wanted) is None:
        raise InputError(f"--where {text}: {wanted or 'nothing'} is no number; {operator} compares numbers")
    return name, operator, wanted


def _holds(value: Any, operator: str, wanted: str, condition: str, found: Sequence[str]) -> bool:
    if operator in OF_NUMBERS:
        if number(value) is None and value is not None:
            raise InputError(f"--where {condition}: not a number but {', '.join(found[:8])}; use = or !=")
        return value is not None and OF_NUMBERS[operator](value, float(wanted))
    is_equal = any(_is_equal(value, option) for option in (wanted, *wanted.split(",")))
    return is_equal != (operator == "!=")


def _is_equal(value: Any, wanted: str) -> bool:
    a, b = number(value), _parse_number(wanted)
    if a is not None and b is not None:
        return math.isclose(a, b, rel_tol=1e-9)
    return as_text.setting(value).replace(" ", "") == wanted.replace(" ", "")


def _parse_number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


# -- sort and group --------------------------------------------------------------------------------------------


def sort_rows(rows: Sequence[T], by: Sequence[tuple[Callable[[T], Any], bool]]) -> list[T]:
    """Sorted by several values, each ascending or (True) descending; rows without a value come last."""
    rows = list(rows)
    for value, descending in reversed(by):
        known = [row for row in rows if value(row) is not None]
        unknown = [row for row in rows if value(row) is None]
        key = _numbers_before_words(value)
        rows = [*sorted(known, key=key, reverse=descending), *unknown]
    return rows


def _numbers_before_words(value: Callable[[T], Any]) -> Callable[[T], tuple[float, str]]:
    def key(row: T) -> tuple[float, str]:
        known = number(value(row))
        return (known, "") if known is not None else (math.inf, as_text.setting(value(row)))

    return key


def group_runs(runs: Sequence[Run], getters: Collection[Getter]) -> list[tuple[Run, ...]]:
    """Runs that agree in all values, in the order of their first."""
    groups = group_by(runs, lambda run: tuple(as_text.setting(get(run)) for get in getters))
    return [tuple(group) for group in groups.values()]
