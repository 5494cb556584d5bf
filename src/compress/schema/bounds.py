"""Types of settings, with the limits of their values.

Every callable that a config file names (`_target_`) states its settings in its signature with these:
`def mobilenetv1(*, width: Annotated[float, Bound(gt=0)], ...)`. `compress.schema.check` reads them.
"""

from dataclasses import dataclass
from typing import Annotated


@dataclass(frozen=True)
class Bound:
    """Limits of a number; reads as people write them: `Bound(gt=0, le=1)` is "in (0, 1]".

    `most` is far above what anybody means (a run that never ends, a network that fits no memory), and is only told of
    what exceeds it.
    """

    gt: float | None = None
    ge: float | None = None
    lt: float | None = None
    le: float | None = None
    most: int | None = None

    def allows(self, value: float) -> bool:
        return (self.most is None or value <= self.most) and self._within(value)

    def rule(self, value: float) -> str:
        """What a value that is not allowed must be."""
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


# Upper bounds are far above what anybody means: what lies beyond would never end, or not fit what it is stored in.
Count = Annotated[int, Bound(ge=1, most=10**9)]
Natural = Annotated[int, Bound(ge=0, most=10**9)]
Seed = Annotated[int, Bound(ge=0, most=2**63 - 1)]
Epochs = Annotated[int, Bound(ge=0, most=100_000)]
Positive = Annotated[float, Bound(gt=0)]
NonNegative = Annotated[float, Bound(ge=0)]
Threads = Annotated[int, Bound(ge=1, le=1024)]
Share = Annotated[float, Bound(gt=0, le=1)]
Fraction = Annotated[float, Bound(ge=0, lt=1)]

# Of networks. Far above all that is published: what lies beyond is a slip, or a file that wants to fill the memory.
Width = Annotated[int, Bound(ge=1, most=65_536)]
Classes = Annotated[int, Bound(ge=1, most=50_000)]
Side = Annotated[int, Bound(ge=1, most=16_384)]  # of an image, and its channels
MOST_DEPTH = 2_000
