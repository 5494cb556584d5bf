"""Channel pruning as a sequence of decisions: one step per channel group, in the order of execution.

He et al., "AMC: AutoML for Model Compression and Acceleration on Mobile Devices", ECCV 2018, arXiv:1802.03494,
sections 3.1-3.3; Liu et al., "Conditional Automated Channel Pruning for Deep Neural Networks", IEEE SPL 2021,
arXiv:2009.09724. Observations, action bounds and rewards are in the modules of these names.

The interface is Gymnasium's (`reset`, `step`, the two spaces), without the dependency.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

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


@dataclass(frozen=True)
class Box:
    """A space of vectors between two bounds: what agents use of Gymnasium's class of this name."""

    low: float
    high: float
    shape: tuple[int, ...]
    dtype: type = np.float32

    def sample(self, seed: int | None = None) -> Vector:
        return np.random.default_rng(seed).uniform(self.low, self.high, self.shape).astype(np.float32)

    def contains(self, x: Any) -> bool:
        vector = np.asarray(x)
        return vector.shape == self.shape and bool(((vector >= self.low) & (vector <= self.high)).all())


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

    Observation: float32 (observer.size,). Action (1,): kept share of the next group, in [0, 1]. The reward is 0 until
    the last step.
    """

    action_space = Box(0.0, 1.0, (1,))

    def __init__(
        self,
        cost: CostModel,
        choices: Choices,
        observer: Observer,
        bounds: ActionBounds,
        score: Callable[[tuple[int, ...]], Accuracy | Score | None],
        reward: Reward,
        metric: Metric = "top1",
        targets: Sequence[float] = (0.5,),
    ) -> None:
        """`score` maps the widths of a complete strategy to held-out accuracy; `metric` is the one that is rewarded;
        `targets` are shares of MACs, of which `reset` draws one."""
        self._cost, self.choices, self._observer, self._bounds = cost, choices, observer, bounds
        self._score, self._reward, self._metric = score, reward, metric
        self.observation_space = Box(0.0, 1.0, (observer.size,))
        self.reachable = reachable(cost, choices)
        self.steps = observer.steps
        self._references: dict[float, float] = {}
        self.evaluated: set[tuple[int, ...]] = set()  # widths that were scored
        self._targets, self._random = list(targets), random.Random()
        self._target = self._budget = self._targets[0]
        self._step = 0
        self._widths: list[int] = []
        self._observation = observer(0, [], self._target)

    # -- Gymnasium ---------------------------------------------------------------------------------------------

    def reset(self, *, seed: int | None = None, options: JSON | None = None) -> tuple[Vector, JSON]:
        """Begin an episode for `options={"target": share of MACs}`, or else for one of the targets, drawn at random.

        The option `budget`, a share of MACs too, is what actions are bounded by, if not the target.
        """
        if seed is not None:
            self._random.seed(seed)
        drawn = self._random.choice(self._targets)
        self._target = float((options or {}).get("target", drawn))
        self._budget = float((options or {}).get("budget", self._target))
        self._step, self._widths = 0, []
        self._observation = self._observer(0, [], self._target)
        return self._observation, {"target": self._target}

    def step(self, action: Any) -> tuple[Vector, float, bool, bool, JSON]:
        """Observation, reward, terminated, truncated (never), and at the end the `outcome` as info."""
        self._take(float(np.asarray(action, dtype=np.float64).reshape(-1)[0]))
        done = self._step == self.steps
        info = self.outcome(tuple(self._widths)) if done else {}
        return self._observation, info.get("reward", 0.0), done, False, info

    def _take(self, share: float) -> None:
        """Set the width of the next group and observe. After the last step the observation stays the one before it:
        no decision follows."""
        if self._step >= self._observer.idle:
            self._widths.append(self._bounds.width(self._widths, share, self._budget))
        self._step += 1
        if self._step < self.steps:
            self._observation = self._observer(self._step, self._widths, self._target)

    # -- scoring of widths -------------------------------------------------------------------------------------

    @property
    def full_widths(self) -> list[int]:
        full: list[int] = self._cost.full_widths.tolist()
        return full

    @property
    def full_macs(self) -> int:
        return self._cost.full_macs

    def price(self, widths: Any) -> NDArray[np.float64]:
        """MACs: (n, groups) -> (n,)."""
        macs: NDArray[np.float64] = self._cost.macs(widths).astype(np.float64)
        return macs

    def outcome(self, widths: tuple[int, ...]) -> JSON:
        """Score the widths of all groups for the current target: widths, target, top1 and top5, accuracy (the metric
        of the two that is rewarded), ratio (share of MACs), reward."""
        accuracy = self._scored(widths)
        outcome = Outcome(
            accuracy=getattr(accuracy, self._metric),
            reference=self.reference(self._target),
            target=self._target,
            macs=int(self._cost.macs(widths)[0]),
            full_macs=self._cost.full_macs,
            params=int(self._cost.params(widths)[0]),
        )
        return {
            "widths": widths,
            "target": self._target,
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

    def walk(self, target: float, policy: Policy, budget: float | None = None) -> tuple[int, ...]:
        """The widths that a policy chooses in one episode, not scored. Actions are bounded by `budget`, default
        `target`."""
        self.reset(options={"target": target, "budget": target if budget is None else budget})
        while self._step < self.steps:
            self._take(policy(self._step, self._observation))
        return tuple(self._widths)

    def play(self, target: float, policy: Policy, budget: float | None = None) -> JSON:
        """One whole episode of a policy; returns its outcome."""
        return self.outcome(self.walk(target, policy, budget))

    def scored(self, widths: tuple[int, ...], target: float) -> JSON:
        """The outcome of given widths for a target."""
        self.reset(options={"target": target})
        return self.outcome(widths)

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
