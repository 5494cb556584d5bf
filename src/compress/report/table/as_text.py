"""Numbers and settings as tables show them: values, differences of two, means with their standard deviation."""

import math
from collections.abc import Sequence
from typing import Any

BUDGET_SUFFIXES = {
    "flops_limit": "M",
    "params_limit": "M",
    "latency_limit": "ms",
}  # of limits; other budgets are shares
RELATIVE_ERROR, ABSOLUTE_ERROR = 1e-9, 1e-12  # of float arithmetic: what is as near as this is equal

# -- values ----------------------------------------------------------------------------------------------------


def setting(value: Any) -> str:
    """A setting as it is written on the command line."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return f"[{','.join(setting(item) for item in value)}]"
    return f"{value:g}" if isinstance(value, float) else str(value)


def one_line(text: str) -> str:
    return text if text.isprintable() else " ".join(text.splitlines())


def in_budget_unit(kind: str, value: float, padded: bool = False) -> str:
    """A budget of a kind, or what was achieved of it; `padded` keeps the zeros after the point."""
    if kind not in BUDGET_SUFFIXES:
        return share(value)
    text = significant(value)
    return f"{text if padded or '.' not in text else text.rstrip('0').rstrip('.')} {BUDGET_SUFFIXES[kind]}"


def two_decimals(value: float) -> str:
    return f"{value:.2f}"


def signed(value: float, places: int = 2) -> str:
    return f"{round(value, places) + 0.0:+.{places}f}"  # no -0.00


def share(value: float) -> str:
    return f"{100 * value:.2f} %"


def millions(value: float) -> str:
    return significant(value / 1e6)


def significant(value: float) -> str:
    """Four significant digits, more only before the point, and never an exponent: 0.7564, 60.00, 15,500."""
    exponent = int(f"{value:.3e}".partition("e")[2])
    return f"{value:,.{max(0, 3 - exponent)}f}"


def count(value: float) -> str:
    return f"{value:,.0f}"


def kibibytes(value: float) -> str:
    return f"{value / 1024:,.0f}"


def scientific(value: float) -> str:
    return f"{value:.4e}"


def seconds(value: float) -> str:
    return f"{value:,.1f}" if value < 1000 else f"{value:,.0f}"


# -- differences of two ----------------------------------------------------------------------------------------


def _difference(first: float, second: float) -> float:
    is_equal = math.isclose(first, second, rel_tol=RELATIVE_ERROR, abs_tol=ABSOLUTE_ERROR)
    return 0.0 if is_equal else second - first


def difference_in_points(first: float, second: float) -> str:
    """Of two percentages."""
    return signed(_difference(first, second))


def difference_of_shares(first: float, second: float) -> str:
    """Of two shares in 0..1, in percentage points."""
    return f"{signed(100 * _difference(first, second))} points"


def difference_in_percent(first: float, second: float) -> str:
    """Relative to the first; empty where that is 0 and the second is not."""
    difference = _difference(first, second)
    if not first:
        return "" if difference else signed(0, 1) + " %"
    return f"{signed(100 * difference / first, 1)} %"


def difference_of_counts(first: float, second: float) -> str:
    return f"{second - first:+,.0f}"


def difference_with_exponent(first: float, second: float) -> str:
    return f"{_difference(first, second):+.1e}"


# -- means -----------------------------------------------------------------------------------------------------


def mean_and_sd(values: Sequence[float]) -> tuple[float, float]:
    """Mean and sample standard deviation; the latter is 0 for one value, and for values that are equal."""
    if len(set(values)) == 1:
        return values[0], 0.0
    import statistics  # takes as long to import as a tenth of a table of 200 runs

    mean, sd = statistics.fmean(values), statistics.stdev(values)
    return mean, 0.0 if sd <= max(RELATIVE_ERROR * abs(mean), ABSOLUTE_ERROR) else sd


def with_sd(mean: str, sd: str) -> str:
    """Both as text, to the decimal places of the mean: "49.86 %", "0.1 %" -> "49.86 ± 0.10 %"."""
    number, _, unit = mean.partition(" ")
    spread = sd.partition(" ")[0].lstrip("+")
    if "e" not in number:
        spread = f"{float(spread.replace(',', '')):,.{len(number.partition('.')[2])}f}"
    return f"{number} ± {spread} {unit}".rstrip()
