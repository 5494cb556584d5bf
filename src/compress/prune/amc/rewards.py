"""What an episode is worth. A reward is one function of an `Outcome`; the config group `reward` names it.

`acc` and the 0.01 in it: He et al., AMC, arXiv:1802.03494, section 3.4 (R = -Error there, the same up to a constant).
`acc_normalize`: the conditional agent's reward, which makes targets comparable; the reference accuracy is measured
(that of uniform widths at the same target) where the original wrote three constants.
"""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Outcome:
    """A finished strategy on held-out images. Accuracies in percent, without fine-tuning."""

    accuracy: float
    reference: float  # accuracy of uniform widths at the same target
    target: float  # share of MACs asked for
    ratio: float  # share of MACs kept


LEAST_REFERENCE = 1.0  # percent: uniform widths that get nothing right must not make every other strategy a wonder

Reward = Callable[[Outcome], float]


def acc(outcome: Outcome) -> float:
    return outcome.accuracy * 0.01


def acc_normalize(outcome: Outcome) -> float:
    return outcome.accuracy / max(outcome.reference, LEAST_REFERENCE)
