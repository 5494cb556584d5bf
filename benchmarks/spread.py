"""How a figure of several seeds is written."""

import statistics
from collections.abc import Sequence


def mean_and_spread(values: Sequence[float | None], sign: str = "") -> str:
    """Mean ± standard deviation of those that are known; "" of none. `sign="+"` writes that of a gain too."""
    known = [value for value in values if value is not None]
    if not known:
        return ""
    spread = f" ± {statistics.stdev(known):.2f}" if len(known) > 1 else ""
    return f"{statistics.mean(known):{sign}.2f}{spread}"
