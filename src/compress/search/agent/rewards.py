"""What an episode is worth. A reward is one function of an `Outcome`; the config group `reward` names it.

He et al., AMC, arXiv:1802.03494, section 3.4: `acc` (R = -Error there, the same up to a constant), `acc_flops`
(-Error * log FLOPs) and `acc_params` (-Error * log #params). `acc_normalize` and `acc_pres` are the conditional
agent's (arXiv:2009.09724), which make targets comparable; in its code the references of `acc_normalize` are three
constants.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from compress.errors import InputError
from compress.schema.bounds import Positive


@dataclass(frozen=True)
class Outcome:
    """A finished strategy on held-out images. Accuracies in percent, without fine-tuning."""

    accuracy: float
    reference: float  # accuracy of uniform widths at the same target
    target: float  # share of MACs asked for
    macs: int  # kept
    full_macs: int
    params: int  # kept

    @property
    def ratio(self) -> float:
        """Share of MACs kept."""
        return self.macs / self.full_macs


LEAST_REFERENCE = 1.0  # percent: uniform widths that get nothing right must not make every other strategy a wonder

Reward = Callable[[Outcome], float]


def acc(outcome: Outcome) -> float:
    return outcome.accuracy * 0.01


def acc_flops(outcome: Outcome) -> float:
    return -(100 - outcome.accuracy) * 0.01 * math.log(outcome.macs)


def acc_params(outcome: Outcome) -> float:
    return -(100 - outcome.accuracy) * 0.01 * math.log(outcome.params)


def acc_normalize(
    outcome: Outcome, *, references: Literal["measured", "published"], published: Mapping[float, Positive]
) -> float:
    """
    Raises:
        InputError: a target without a published reference.
    """
    if references == "measured":
        return outcome.accuracy / max(outcome.reference, LEAST_REFERENCE)
    if outcome.target not in published:
        known = ", ".join(f"{target:g}" for target in published)
        raise InputError(
            f"reward.references=published: knows the targets {known}, not {outcome.target:g}; use "
            f"reward.references=measured, or give it one: '+reward.published={{{outcome.target:g}: 0.8}}'"
        )
    return outcome.accuracy * 0.01 / published[outcome.target]


def acc_pres(outcome: Outcome) -> float:
    """Mostly accuracy, and a tenth for meeting the target."""
    return 0.009 * outcome.accuracy + 0.1 * (1 - abs(outcome.ratio / outcome.target - 1))
