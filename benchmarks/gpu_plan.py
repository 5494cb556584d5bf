"""What of benchmarks/gpu.py fits into the minutes: plain functions of numbers, without torch."""

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass

EPOCHS = (1, 2, 4, 8, 16, 30, 60, 100, 200)  # of a training in the quality table


@dataclass(frozen=True)
class Part:
    """Something to measure that may take more time or less."""

    name: str
    weight: float  # of its share of the time
    least: float  # seconds below which it is not worth beginning
    most: float  # seconds that it can use


@dataclass(frozen=True)
class Job:
    """One row of a quality table for one seed: a process of its own."""

    table: str
    row: str
    seed: int
    after: tuple[str, ...] = ()  # rows of the same table and seed that it waits for

    @property
    def name(self) -> str:
        return f"{self.table}/{self.row}-{self.seed}".replace(" ", "-")


def time_shares(parts: Sequence[Part], seconds: float) -> dict[str, float]:
    """Seconds for each part, by weight; what one cannot use goes to the others.

    A part whose share is below its `least` is left out, the last such one first, and the others share anew.
    """
    chosen = list(parts)
    while chosen:
        shares = _filled(chosen, seconds)
        short = [part for part in chosen if shares[part.name] < part.least]
        if not short:
            return shares
        chosen.remove(short[-1])
    return {}


def _filled(parts: Sequence[Part], seconds: float) -> dict[str, float]:
    shares: dict[str, float] = {}
    while len(shares) < len(parts):
        open_parts = [part for part in parts if part.name not in shares]
        left = (seconds - sum(shares.values())) / sum(part.weight for part in open_parts)
        full = [part for part in open_parts if part.weight * left >= part.most]
        shares |= {part.name: part.most for part in full} or {part.name: part.weight * left for part in open_parts}
    return {part.name: shares[part.name] for part in parts}


def ends(costs: Iterable[float], workers: int) -> list[float]:
    """When each job ends, if in this order each goes to the worker that is free first."""
    free, found = [0.0] * workers, []
    for cost in costs:
        at = free.index(min(free))
        free[at] += cost
        found.append(free[at])
    return found


def epochs_that_fit(costs: Callable[[int], Sequence[float]], seconds: float, workers: int) -> int:
    """The largest of `EPOCHS` with which all jobs end in time, else the smallest; `costs` are seconds of each."""
    fitting = [epochs for epochs in EPOCHS if max(ends(costs(epochs), workers), default=0.0) <= seconds]
    return max(fitting, default=EPOCHS[0])


def next_job(jobs: Sequence[Job], finished: Collection[Job], begun: Collection[Job]) -> Job | None:
    """The first that is not begun and whose `after` are all finished; `begun` holds failed ones too."""
    done = {(job.table, job.row, job.seed) for job in finished}
    for job in jobs:
        waits = any((job.table, row, job.seed) not in done for row in job.after)
        if job not in begun and job not in finished and not waits:
            return job
    return None
