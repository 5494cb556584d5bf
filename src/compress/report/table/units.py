"""How figures read in tables, their means and their differences."""

import math
from collections.abc import Sequence

NOISE, TINY = 1e-9, 1e-12  # of floats: relative, and of what should be 0


def in_unit(kind: str, value: float, padded: bool = False) -> str:
    """A budget as the tables show it; padded where a spread stands beside it."""
    if kind != "flops_limit":
        return share(value)
    text = significant(value)
    return f"{text if padded or '.' not in text else text.rstrip('0').rstrip('.')} M"


def points(value: float) -> str:
    return f"{value:.2f}"


def signed(value: float, places: int = 2) -> str:
    return f"{round(value, places) + 0.0:+.{places}f}"  # no -0.00


def share(value: float) -> str:
    return f"{100 * value:.2f} %"


def millions(value: float) -> str:
    return significant(value / 1e6)


def significant(value: float) -> str:
    """Four digits, those before the point all of them, and no exponent: 0.7564, 60.00, 15,500."""
    exponent = int(f"{value:.3e}".partition("e")[2])
    return f"{value:,.{max(0, 3 - exponent)}f}"


def count(value: float) -> str:
    return f"{value:,.0f}"


def kibibytes(value: float) -> str:
    return f"{value / 1024:,.0f}"


def small(value: float) -> str:
    return f"{value:.4e}"


def seconds(value: float) -> str:
    return f"{value:,.1f}" if value < 1000 else f"{value:,.0f}"


# -- differences of two ----------------------------------------------------------------------------------------


def _apart(first: float, second: float) -> float:
    return 0.0 if math.isclose(first, second, rel_tol=NOISE, abs_tol=TINY) else second - first


def by_points(first: float, second: float) -> str:
    """Of what is in % already."""
    return signed(_apart(first, second))


def by_share(first: float, second: float) -> str:
    return f"{signed(100 * _apart(first, second))} points"


def by_percent(first: float, second: float) -> str:
    """Of the first; nothing is so many percent more than 0."""
    apart = _apart(first, second)
    if not first:
        return "" if apart else signed(0, 1) + " %"
    return f"{signed(100 * apart / first, 1)} %"


def by_count(first: float, second: float) -> str:
    return f"{second - first:+,.0f}"


def by_exponent(first: float, second: float) -> str:
    return f"{_apart(first, second):+.1e}"


# -- means -----------------------------------------------------------------------------------------------------


def mean_and_deviation(values: Sequence[float]) -> tuple[float, float]:
    """The sample standard deviation; 0 of equal values, and of one."""
    if len(set(values)) == 1:
        return values[0], 0.0
    import statistics  # a tenth of the time that a table of 200 runs takes

    mean, deviation = statistics.fmean(values), statistics.stdev(values)
    return mean, 0.0 if deviation <= max(NOISE * abs(mean), TINY) else deviation


def with_spread(mean: str, deviation: str) -> str:
    """To the places of the mean: "49.86 %", "0.1 %" -> "49.86 ± 0.10 %"."""
    figure, _, unit = mean.partition(" ")
    spread = deviation.partition(" ")[0].lstrip("+")
    if "e" not in figure:
        spread = f"{float(spread.replace(',', '')):,.{len(figure.partition('.')[2])}f}"
    return f"{figure} ± {spread} {unit}".rstrip()
