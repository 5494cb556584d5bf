"""Channel pruning as a sequence of decisions: one step per channel group, in the order of execution.

He et al., "AMC: AutoML for Model Compression and Acceleration on Mobile Devices", ECCV 2018, arXiv:1802.03494,
sections 3.1-3.3; Liu et al., "Conditional Automated Channel Pruning for Deep Neural Networks", IEEE SPL 2021,
arXiv:2009.09724. Observations, action bounds and rewards are in the modules of these names. For
agents of other libraries, and for other scorers and budgets, there is a `gymnasium.Env`: `compress.search.gym`.
"""

from collections.abc import Callable
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from compress.errors import OWN, SettingError
from compress.io.files import JSON
from compress.measure.accuracy import Accuracy, Score
from compress.prune.cost import CostModel
from compress.prune.widths import Choices, reachable, rounding_step, uniform_widths
from compress.search.agent.action_bounds import ActionBounds
from compress.search.agent.observations import Observer, Vector
from compress.search.agent.rewards import Outcome, Reward

Policy = Callable[[int, Vector], float]  # (step, observation) -> action
Metric = Literal["top1", "top5"]


def check_target(name: str, target: float, reach: tuple[float, float]) -> None:
    """
    Raises:
        InputError: no strategy reaches the share of MACs `target`. `reach` is the smallest and largest possible
        share; `name` begins the message: the setting that asks for `target`.
    """
    low, high = reach
    if target < low:
        raise SettingError(
            f"{name}: out of reach; with {OWN}lbound and {OWN}round_to as they are the smallest share of MACs is "
            f"{low:.4f}; ask for at least that or lower {OWN}lbound"
        )
    if target > high:
        raise SettingError(
            f"{name}: out of reach; with {OWN}rbound as it is the largest share of MACs is {high:.4f}; ask for at "
            f"most that or raise {OWN}rbound"
        )


class ChannelEnv:
    """One episode decides the kept share of every group, under a target share of MACs.

    A policy maps the step and the observation, float32 (observer.size,), to the kept share of the next group, in
    [0, 1]. The reward is that of the complete strategy.
    """

    def __init__(
        self,
        cost: CostModel,
        choices: Choices,
        observer: Observer,
        bounds: ActionBounds,
        score: Callable[[tuple[int, ...]], Accuracy | Score | None],
        reward: Reward,
        metric: Metric = "top1",
    ) -> None:
        """`score` maps the widths of a complete strategy to held-out accuracy; `metric` is the one that is
        rewarded."""
        self._cost, self.choices, self._observer, self._bounds = cost, choices, observer, bounds
        self._score, self._reward, self._metric = score, reward, metric
        self.reachable = reachable(cost, choices)
        self.steps, self.observation_size = observer.steps, observer.size
        self._references: dict[float, float] = {}
        self.evaluated: set[tuple[int, ...]] = set()  # widths that were scored

    def walk(self, target: float, policy: Policy, budget: float | None = None) -> tuple[int, ...]:
        """The widths that a policy chooses in one episode, not scored. Actions are bounded by `budget`, a share of
        MACs too; default `target`."""
        limit = target if budget is None else budget
        widths: list[int] = []
        for step in range(self.steps):
            share = policy(step, self._observer(step, widths, target))
            if step >= self._observer.idle:
                widths.append(self._bounds.width(widths, share, limit))
        return tuple(widths)

    def play(self, target: float, policy: Policy, budget: float | None = None) -> JSON:
        """One whole episode of a policy; returns its outcome."""
        return self.scored(self.walk(target, policy, budget), target)

    @property
    def full_widths(self) -> list[int]:
        full: list[int] = self._cost.full_widths.tolist()
        return full

    @property
    def full_macs(self) -> int:
        return self._cost.full_macs

    def price(self, widths: ArrayLike) -> NDArray[np.float64]:
        """MACs: (n, groups) -> (n,)."""
        macs: NDArray[np.float64] = self._cost.macs(widths).astype(np.float64)
        return macs

    def scored(self, widths: tuple[int, ...], target: float) -> JSON:
        """Score the widths of all groups for a target: widths, target, top1 and top5, accuracy (the metric of the two
        that is rewarded), ratio (share of MACs), reward."""
        accuracy = self._scored(widths)
        outcome = Outcome(
            accuracy=getattr(accuracy, self._metric),
            reference=self.reference(target),
            target=target,
            macs=int(self._cost.macs(widths)[0]),
            full_macs=self._cost.full_macs,
            params=int(self._cost.params(widths)[0]),
        )
        return {
            "widths": widths,
            "target": target,
            "top1": accuracy.top1,
            "top5": accuracy.top5,
            "accuracy": outcome.accuracy,
            "ratio": outcome.ratio,
            "reward": float(self._reward(outcome)),
        }

    def _scored(self, widths: tuple[int, ...]) -> Accuracy | Score:
        self.evaluated.add(widths)
        accuracy = self._score(widths)
        assert accuracy is not None  # it was not told to give up
        return accuracy

    def rounding_step(self, widths: tuple[int, ...]) -> float:
        """The largest change in the share of MACs from moving one group to the next allowed width."""
        return rounding_step(self._cost.macs, self.choices, widths) / self._cost.full_macs

    def executed(self, widths: tuple[int, ...]) -> list[float]:
        """The action of every step after bounding and rounding: kept shares; 1 for idle steps."""
        shares = np.array(widths) / self._cost.full_widths
        return [1.0] * self._observer.idle + [float(share) for share in shares]

    def replay(self, widths: tuple[int, ...]) -> Policy:
        """The policy whose actions are the kept shares of these widths."""
        shares = self.executed(widths)
        return lambda step, observation: shares[step]

    def uniform_widths(self, target: float) -> tuple[int, ...]:
        """All groups at about the same kept share, the largest with at most the target's share of MACs."""
        return uniform_widths(self._cost, self.choices, target)

    def reference(self, target: float) -> float:
        """Accuracy of uniform widths for a target, in percent, cached."""
        if target not in self._references:
            self._references[target] = getattr(self._scored(self.uniform_widths(target)), self._metric)
        return self._references[target]
