"""The share that is gone after each step of iterative pruning.

Han et al., "Learning both Weights and Connections for Efficient Neural Networks", NeurIPS 2015, arXiv:1506.02626,
section 3: prune, retrain, repeat. With n steps to a final share p, the share removed after
step i is:

    linear      p * i / n
    geometric   1 - (1 - p)^(i / n): each step keeps the same share of the remaining weights
    cubic       p * (1 - (1 - i / n)^3): large steps first (Zhu and Gupta 2017, arXiv:1710.01878, equation 1)
"""

from typing import Literal

from compress.errors import OWN

Schedule = Literal["one-shot", "linear", "geometric", "cubic"]


def check_schedule(schedule: Schedule, steps: int, epochs: int) -> list[str]:
    """What is wrong with a schedule of so many steps, and so many epochs of training between two."""
    problems = []
    if (schedule == "one-shot") != (steps == 1):
        problems.append(
            f"{OWN}schedule={schedule} with {OWN}steps={steps}: one-shot is one step, the others "
            "(linear, geometric, cubic) are several"
        )
    if epochs == 0:
        problems.append(f"{OWN}retraining.epochs=0: must be >= 1")
    return problems


def sparsities(schedule: Schedule, steps: int, sparsity: float) -> list[float]:
    """The share removed after each step, ascending, the last exactly `sparsity`; one-shot is one step."""
    assert steps >= 1
    assert 0 <= sparsity < 1
    if schedule == "one-shot":
        return [sparsity]
    return [*(_after(schedule, step / steps, sparsity) for step in range(1, steps)), sparsity]


def _after(schedule: Schedule, done: float, sparsity: float) -> float:
    if schedule == "linear":
        return sparsity * done
    if schedule == "geometric":
        return float(1 - (1 - sparsity) ** done)
    return float(sparsity * (1 - (1 - done) ** 3))
