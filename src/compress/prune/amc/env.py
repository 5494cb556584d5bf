"""Channel pruning as a sequence of decisions: one step per channel group, in the order of execution.

He et al., "AMC: AutoML for Model Compression and Acceleration on Mobile Devices", ECCV 2018, arXiv:1802.03494,
sections 3.1-3.3; the target in the state follows Liu et al., "Conditional Automated Channel Pruning for Deep Neural
Networks", IEEE SPL 2021, arXiv:2009.09724. Differences from the published code, on purpose: coupled layers are one
step; the budget's wall is computed for rounded widths, so that no plan overshoots; the target's wall holds in every
episode, the first included; `reduced` and `rest` count MACs, later groups at full width.

The interface is Gymnasium's (`reset`, `step`), without the dependency.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from torch import nn

from compress.files import JSON
from compress.prune.amc.rewards import Outcome, Reward
from compress.prune.cost import CostModel
from compress.prune.graph import ChannelGraph
from compress.prune.widths import all_choices, reachable, uniform_widths
from compress.settings import InputError

Vector = NDArray[np.float32]
Policy = Callable[[int, Vector], float]  # (step, observation) -> action
BudgetMode = Literal["upper", "exact"]


@dataclass(frozen=True)
class Box:
    """A space of vectors between two bounds, with what agents ask of Gymnasium's class of this name."""

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
        InputError: no strategy can meet this share of MACs, asked for by `name`; names what can be met.
    """
    low, high = reach
    if target < low:
        raise InputError(
            f"{name}: out of reach; with method.lbound and method.round_to as they are the smallest share of MACs is "
            f"{low:.4f}; ask for at least that or lower method.lbound"
        )
    if target > high:
        raise InputError(
            f"{name}: out of reach; with method.rbound as it is the largest share of MACs is {high:.4f}; ask for at "
            "most that or raise method.rbound"
        )


def layer_features(model: nn.Module, graph: ChannelGraph) -> NDArray[np.float64]:
    """What does not change during an episode, (groups, 7), every column scaled to [0, 1] over the groups.

    Columns: index, share of linear readers, channels, outputs of the readers, stride and kernel of the first reader,
    weights of the readers.
    """
    layers = {layer.name: layer for layer in graph.layers}
    rows = []
    for index, group in enumerate(graph.groups):
        readers = [layers[name] for name in group.consumers]
        weights = [model.get_parameter(f"{layer.name}.weight") for layer in readers]
        first = readers[0] if readers else None
        rows.append(
            [
                index,
                np.mean([layer.kind == "linear" for layer in readers]) if readers else 0,
                group.width,
                sum(weight.shape[0] for weight in weights),
                first.stride if first else 0,
                first.kernel if first else 0,
                sum(weight.numel() for weight in weights),
            ]
        )
    table = np.array(rows, dtype=np.float64)
    low, high = table.min(0), table.max(0)
    scaled: NDArray[np.float64] = (table - low) / np.where(high > low, high - low, 1)
    return scaled


class ChannelEnv:
    """One episode decides the kept share of every group under a target share of MACs.

    Observation (11,): seven layer features, the target, the share of MACs removed so far, the share that later groups
    can still decide, the previous group's kept share. Action (1,): kept share of the next group, in [0, 1].
    The reward is 0 until the last step.
    """

    observation_space = Box(0.0, 1.0, (11,))
    action_space = Box(0.0, 1.0, (1,))

    def __init__(
        self,
        model: nn.Module,
        graph: ChannelGraph,
        cost: CostModel,
        accuracy: Callable[[tuple[int, ...]], float],
        reward: Reward,
        *,
        lbound: float,
        rbound: float,
        round_to: int,
        budget_mode: BudgetMode,
        targets: Sequence[float] = (0.5,),
    ) -> None:
        """`accuracy` scores the widths of a finished strategy, in percent, without the test set."""
        self._cost, self._accuracy, self._reward, self._mode = cost, accuracy, reward, budget_mode
        self._choices = all_choices(graph, round_to, lbound, rbound)
        self.reachable = reachable(cost, self._choices)
        self._features = layer_features(model, graph)
        self._least = np.array([widths[0] for widths in self._choices])
        self._most = np.array([widths[-1] for widths in self._choices])
        self._full = cost.full_widths
        self._references: dict[float, float] = {}
        self._targets, self._random = list(targets), random.Random()
        self._target, self._step, self._previous = self._targets[0], 0, 1.0
        self._widths = self._full.copy()

    @property
    def steps(self) -> int:
        return len(self._full)

    # -- Gymnasium ---------------------------------------------------------------------------------------------

    def reset(self, *, seed: int | None = None, options: JSON | None = None) -> tuple[Vector, JSON]:
        """Begin an episode for `options={"target": share of MACs}`, else for one of the targets, drawn."""
        if seed is not None:
            self._random.seed(seed)
        drawn = self._random.choice(self._targets)
        self._target = float((options or {}).get("target", drawn))
        self._step, self._previous = 0, 1.0
        self._widths = self._full.copy()
        return self._observe(), {"target": self._target}

    def step(self, action: Any) -> tuple[Vector, float, bool, bool, JSON]:
        self._take(float(np.asarray(action, dtype=np.float64).reshape(-1)[0]))
        done = self._step == self.steps
        info: JSON = {}
        reward = 0.0
        if done:
            info = self.outcome(tuple(self._widths.tolist()))
            reward = info["reward"]
        return self._observe(), reward, done, False, info

    # -- what the episode is measured by -----------------------------------------------------------------------

    def outcome(self, widths: tuple[int, ...]) -> JSON:
        """Score finished widths for the current target: widths, accuracy, ratio of MACs, reward."""
        ratio = float(self._cost.macs(widths)[0] / self._cost.full_macs)
        accuracy = self._accuracy(widths)
        outcome = Outcome(accuracy, self.reference(self._target), self._target, ratio)
        return {
            "widths": widths,
            "accuracy": accuracy,
            "ratio": ratio,
            "reward": float(self._reward(outcome)),
        }

    def rounding_step(self, widths: tuple[int, ...]) -> float:
        """Largest share of MACs that taking the next allowed width in one group changes."""
        batch = np.tile(widths, (self.steps, 1))
        for at, options in enumerate(self._choices):
            place = int(np.searchsorted(options, widths[at]))
            batch[at, at] = options[place + 1 if place + 1 < len(options) else max(place - 1, 0)]
        steps = np.abs(self._cost.macs(batch) - self._cost.macs(widths)) / self._cost.full_macs
        return float(steps.max())

    def walk(self, target: float, policy: Policy) -> tuple[int, ...]:
        """The widths of one whole episode, not scored."""
        observation, _ = self.reset(options={"target": target})
        while self._step < self.steps:
            self._take(policy(self._step, observation))
            observation = self._observe()
        return tuple(self._widths.tolist())

    def play(self, target: float, policy: Policy) -> JSON:
        """One whole episode; returns its outcome."""
        return self.outcome(self.walk(target, policy))

    def uniform_widths(self, target: float) -> tuple[int, ...]:
        """Every group at about the same share, as many MACs as the target allows."""
        return uniform_widths(self._cost, self._choices, target)

    def reference(self, target: float) -> float:
        """Accuracy of uniform widths at a target, measured once."""
        if target not in self._references:
            self._references[target] = self._accuracy(self.uniform_widths(target))
        return self._references[target]

    # -- the budget --------------------------------------------------------------------------------------------

    def _priced(self, rest: NDArray[np.int64]) -> NDArray[np.float64]:
        """Share of MACs for every choice of the current group, later groups at `rest`."""
        at = self._step
        options = self._choices[at]
        batch = np.tile(np.concatenate([self._widths[:at], rest[at:]]), (len(options), 1))
        batch[:, at] = options
        return self._cost.macs(batch) / self._cost.full_macs

    def _walls(self) -> tuple[int, int]:
        """Smallest and largest width of the current group from which the target can still be met."""
        options = self._choices[self._step]
        fits = options[self._priced(self._least) <= self._target]
        high = int(fits[-1]) if len(fits) else int(options[0])
        low = int(options[0])
        if self._mode == "exact":
            spends = options[self._priced(self._most) >= self._target]
            low = min(int(spends[0]) if len(spends) else int(options[-1]), high)
        return low, high

    def _nearest(self, at: int, shares: NDArray[np.float64]) -> NDArray[np.int64]:
        """The allowed widths of one group nearest to each share: (n,) -> (n,)."""
        options = self._choices[at]
        nearest: NDArray[np.int64] = options[np.abs(options - shares[:, None] * self._full[at]).argmin(1)]
        return nearest

    def _take(self, share: float) -> None:
        """Give the current group the allowed width nearest to `share`, within the walls, and go on to the next."""
        at, (low, high) = self._step, self._walls()
        nearest = int(self._nearest(at, np.array([min(max(share, 0.0), 1.0)]))[0])
        self._widths[at] = min(max(nearest, low), high)
        self._previous = float(self._widths[at] / self._full[at])
        self._step += 1

    def _observe(self) -> Vector:
        """The last state is repeated at the end: nothing follows it."""
        at = min(self._step, self.steps - 1)
        now = np.concatenate([self._widths[: self._step], self._full[self._step :]])
        least = np.concatenate([self._widths[: self._step], self._least[self._step :]])
        share = self._cost.macs(np.stack([now, least])) / self._cost.full_macs
        dynamic = [self._target, 1 - share[0], share[0] - share[1], self._previous]
        return np.concatenate([self._features[at], dynamic]).astype(np.float32)
