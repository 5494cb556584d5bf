"""How figures read in tables, and their means."""

from collections.abc import Sequence


def in_unit(kind: str, value: float) -> str:
    """A budget as the tables show it."""
    return f"{value:.4g} M" if kind == "flops_limit" else f"{100 * value:.2f} %"


def points(value: float) -> str:
    return f"{value:.2f}"


def signed(value: float) -> str:
    return f"{round(value, 2) + 0.0:+.2f}"  # no -0.00


def share(value: float) -> str:
    return f"{100 * value:.2f} %"


def millions(value: float) -> str:
    return f"{value / 1e6:#.4g}".rstrip(".") if value < 1e10 else f"{value / 1e6:,.0f}"


def count(value: float) -> str:
    return f"{value:,.0f}"


def kibibytes(value: float) -> str:
    return f"{value / 1024:,.0f}"


def small(value: float) -> str:
    return f"{value:.4e}"


def seconds(value: float) -> str:
    return f"{value:,.1f}" if value < 1000 else f"{value:,.0f}"


def mean_and_deviation(values: Sequence[float]) -> tuple[float, float]:
    """The sample standard deviation; 0 of equal values, and of one."""
    if len(set(values)) == 1:
        return values[0], 0.0
    import statistics  # a tenth of the time that a table of 200 runs takes

    return statistics.fmean(values), statistics.stdev(values)


def with_spread(mean: str, deviation: str) -> str:
    """To the places of the mean: "49.86 %", "0.1 %" -> "49.86 ± 0.10 %"."""
    figure, _, unit = mean.partition(" ")
    spread = deviation.partition(" ")[0].lstrip("+")
    if "e" not in figure + spread:
        spread = f"{float(spread.replace(',', '')):,.{len(figure.partition('.')[2])}f}"
    return f"{figure} ± {spread} {unit}".rstrip()
