"""The sparsity after each step of iterative pruning.

Han et al., "Learning both Weights and Connections for Efficient Neural Networks", NeurIPS 2015, arXiv:1506.02626,
section 3: prune, retrain, repeat. With n steps to a final share p, the share removed after
step i is:

    linear      p * i / n
    geometric   1 - (1 - p)^(i / n): each step keeps the same share of the remaining weights
    cubic       p * (1 - (1 - i / n)^3): large steps first (Zhu and Gupta 2017, arXiv:1710.01878, equation 1)
"""

from typing import Literal

Schedule = Literal["one-shot", "linear", "geometric", "cubic"]


def percents(schedule: Schedule, steps: int, percent: float) -> list[float]:
    """The share of weights removed after each step, ascending, the last exactly `percent`; one-shot is one step."""
    assert steps >= 1
    assert 0 <= percent < 1
    if schedule == "one-shot":
        return [percent]
    return [*(_after(schedule, step / steps, percent) for step in range(1, steps)), percent]


def _after(schedule: Schedule, done: float, percent: float) -> float:
    if schedule == "linear":
        return percent * done
    if schedule == "geometric":
        return float(1 - (1 - percent) ** done)
    return float(percent * (1 - (1 - done) ** 3))
