"""Rewards of an episode. A reward is a function of an `Outcome`; the config group `reward` names it.

He et al., AMC, arXiv:1802.03494, section 3.4: `acc` (R = -Error there, the same up to a constant), `acc_flops`
(-Error * log FLOPs) and `acc_params` (-Error * log #params). `acc_normalize` and `acc_pres` are those of the
conditional agent (Liu et al., IEEE SPL 2021, arXiv:2009.09724), which make targets comparable; in its code the
references of `acc_normalize` are three constants.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from compress.errors import OWN, SettingError
from compress.schema.bounds import Positive


@dataclass(frozen=True)
class Outcome:
    """A complete strategy. Accuracies are on held-out images, in percent, without fine-tuning."""

    accuracy: float
    reference: float  # accuracy of uniform widths for the same target
    target: float  # share of MACs asked for
    macs: int  # kept
    full_macs: int
    params: int  # kept

    @property
    def ratio(self) -> float:
        """Share of MACs kept."""
        return self.macs / self.full_macs


LEAST_REFERENCE = 1.0  # percent: divisor if uniform widths get (almost) no image right

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
    """Accuracy relative to a reference of the target: that of uniform widths, or `published`, by target.

    Raises:
        SettingError: references="published" and a target that is not among them.
    """
    if references == "measured":
        return outcome.accuracy / max(outcome.reference, LEAST_REFERENCE)
    if outcome.target not in published:
        known = ", ".join(f"{target:g}" for target in published)
        raise SettingError(
            f"{OWN}references=published: knows the targets {known}, not {outcome.target:g}; use "
            f"{OWN}references=measured, or give it one: '+{OWN}published={{{outcome.target:g}: 0.8}}'"
        )
    return outcome.accuracy * 0.01 / published[outcome.target]


def acc_pres(outcome: Outcome) -> float:
    """0.9 times accuracy, plus up to 0.1 for meeting the target."""
    return 0.009 * outcome.accuracy + 0.1 * (1 - abs(outcome.ratio / outcome.target - 1))
