"""Types of settings with the bounds of their values.

A callable that a config file names (`_target_`) annotates its keyword parameters with these:
`def mobilenetv1(*, width: Annotated[float, Bound(gt=0)], ...)`. `compress.schema.check` checks values against them.
"""

from dataclasses import dataclass
from typing import Annotated


@dataclass(frozen=True)
class Bound:
    """Bounds of a number. `str` is their usual notation: `Bound(gt=0, le=1)` is "in (0, 1]".

    `most` is a safety limit far above any sensible value (a run that never ends, a network that fits no memory).
    Error messages mention it only where it is exceeded.
    """

    gt: float | None = None
    ge: float | None = None
    lt: float | None = None
    le: float | None = None
    most: int | None = None

    def allows(self, value: float) -> bool:
        return (self.most is None or value <= self.most) and self._within(value)

    def rule(self, value: float) -> str:
        """The violated rule, for the error message of a value that is not allowed."""
        return f"must be <= {self.most:,}" if self._within(value) else f"must be {self}"

    def _within(self, value: float) -> bool:
        return (
            (self.gt is None or value > self.gt)
            and (self.ge is None or value >= self.ge)
            and (self.lt is None or value < self.lt)
            and (self.le is None or value <= self.le)
        )

    def __str__(self) -> str:
        low = self.gt if self.gt is not None else self.ge
        high = self.lt if self.lt is not None else self.le
        if low is not None and high is not None:
            return f"in {'(' if self.gt is not None else '['}{low:g}, {high:g}{')' if self.lt is not None else ']'}"
        if low is not None:
            return f"{'>' if self.gt is not None else '>='} {low:g}"
        return f"{'<' if self.lt is not None else '<='} {high:g}"


# `most` as in `Bound`: a run beyond it would never end, or a value not fit its storage.
Count = Annotated[int, Bound(ge=1, most=10**9)]
Natural = Annotated[int, Bound(ge=0, most=10**9)]
Seed = Annotated[int, Bound(ge=0, most=2**63 - 1)]
Epochs = Annotated[int, Bound(ge=0, most=100_000)]
Positive = Annotated[float, Bound(gt=0)]
NonNegative = Annotated[float, Bound(ge=0)]
Threads = Annotated[int, Bound(ge=1, le=1024)]
Share = Annotated[float, Bound(gt=0, le=1)]
Fraction = Annotated[float, Bound(ge=0, lt=1)]

# Of networks. Far above all published ones: a larger value is a typo, or a file made to exhaust the memory.
Width = Annotated[int, Bound(ge=1, most=65_536)]
Classes = Annotated[int, Bound(ge=1, most=50_000)]
Side = Annotated[int, Bound(ge=1, most=16_384)]  # height or width of an image in pixels; also its number of channels
MOST_DEPTH = 2_000
