"""Any search of widths as an environment of Gymnasium, for agents of other libraries. Needs the extra `gym`.

An episode decides one width per place of a space, in the order of execution, under a budget in any unit; any scorer
tells what the widths are worth. Two rules turn actions into widths:

- `walls`: an action is the share that is kept, held to those from which the budget can still be met. He et al., "AMC:
  AutoML for Model Compression and Acceleration on Mobile Devices", ECCV 2018, arXiv:1802.03494, algorithm 1, for
  rounded widths and any price. What the first places take, the last ones miss, whatever they ask for.
- `projected`: an action is a preference, how much wider than the others a place is to be; all of them together are
  projected on the budget at the end (`compress.search.projection`).

With several budgets each episode draws one: the conditional agent of Liu et al., IEEE SPL 2021, arXiv:2009.09724.
"""

from collections.abc import Mapping, Sequence
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from compress.errors import InputError
from compress.io.files import JSON
from compress.measure.accuracy import Score
from compress.prune.method import Problem
from compress.search.agent.action_bounds import bounded
from compress.search.agent.observations import Vector, raw_features, scaled
from compress.search.agent.rewards import LEAST_REFERENCE
from compress.search.feasible import Feasible
from compress.search.projection import projected
from compress.search.scorers.scorer import Scorer, Widths

try:
    import gymnasium
except ModuleNotFoundError:
    raise InputError('an environment needs gymnasium; pip install "compress-lab[gym]"') from None

Rule = Literal["projected", "walls"]
Chosen = list[int]  # widths of the places decided so far


def after_walls(within: Feasible, chosen: Chosen, action: float) -> Chosen:
    """The widths chosen so far and the next one: the allowed one nearest to the share (action + 1) / 2."""
    space = within.space
    wished = (action + 1) / 2 * float(space.options[len(chosen)][-1])

    def price(widths: NDArray[np.int64]) -> NDArray[np.float64]:
        return within.price(widths[:, space.places])

    return [*chosen, bounded(price, space.options, chosen, wished, within.low, within.high)]


def after_projection(within: Feasible, preferences: Sequence[float]) -> Chosen:
    """The widths of the places with a preference, as they are if the others have none (0)."""
    space = within.space
    all_preferences = np.zeros(len(space.options))
    all_preferences[: len(preferences)] = preferences
    chosen: Chosen = space.chosen(projected(space, within.price, within.high, all_preferences)).tolist()
    return chosen[: len(preferences)]


class WidthEnv(gymnasium.Env[Vector, Vector]):
    """One episode decides the widths of a network; each step those of one place.

    Action: float32 (1,) in [-1, 1]; what it means is the rule's. Observation: float32 (11,) in [0, 1]: seven features
    of the place (`observations.raw_features`, scaled), the budget as a share of the dense network's price, and, with
    the places decided so far as they are now: the share of the price that they remove, the share that the others can
    still remove, and the share of its largest width that the place before has (1 at first). After the last step,
    which no decision follows, it is that of the last place.

    The reward is 0 until the last step. There it is the held-out top-1 over that of uniform widths at the same
    budget, or over 1 % if that is less: 1 for uniform widths. `info` then tells the `budget`, the `widths` of all
    groups, the `gene` in its published form, `top1` and `top5` in percent, `price` in the budget's unit
    (multiply-adds or channels), `ratio` (the price as a share of the dense network's) and `reward`.

    `best` has the outcome with the largest reward for every budget, `evaluations` counts the different widths that
    were scored, those of the references included.
    """

    def __init__(
        self,
        problem: Problem,
        budgets: Mapping[float, Feasible],
        scorer: Scorer,
        rule: Rule = "projected",
        reach: float = 1.0,
    ) -> None:
        """`budgets` are in one space, by their values; `reset` draws one of them. `reach` is the preference, a
        natural logarithm, of an action of 1 by the rule `projected`. At 1 a place gets at most e^2 = 7.4 times the
        share of another."""
        assert rule in get_args(Rule)
        self.budgets, self.scorer, self.rule, self.reach = dict(budgets), scorer, rule, reach
        self.space = next(iter(self.budgets.values())).space
        self.best: dict[float, JSON] = {}
        self.action_space = gymnasium.spaces.Box(-1.0, 1.0, (1,))
        self.observation_space = gymnasium.spaces.Box(0.0, 1.0, (11,))
        self._scored: dict[Widths, Score] = {}
        self._first = [self.space.places.index(place) for place in range(len(self.space.options))]  # group of a place
        self._features = scaled(raw_features(problem.model, problem.graph)[self._first], constant="zero")
        self._full = np.array([[group.width for group in problem.graph]])
        self._budget, self._within = next(iter(self.budgets.items()))
        self._actions: list[float] = []
        self._chosen: Chosen = []
        self._runs = False  # whether an episode has begun and not ended

    @property
    def evaluations(self) -> int:
        return len(self._scored)

    # -- Gymnasium ---------------------------------------------------------------------------------------------------

    def reset(self, *, seed: int | None = None, options: JSON | None = None) -> tuple[Vector, JSON]:
        """Begin an episode for one of the budgets, drawn, or `options={"budget": value}`; `info` tells it.

        Raises:
            InputError: a budget that is not among them.
        """
        super().reset(seed=seed)
        values = list(self.budgets)
        drawn = values[int(self.np_random.integers(len(values)))]
        asked = (options or {}).get("budget", drawn)
        if asked not in self.budgets:
            raise InputError(f"budget={asked}: must be one of {', '.join(f'{value:g}' for value in values)}")
        self._budget, self._within = asked, self.budgets[asked]
        self._actions, self._chosen, self._runs = [], [], True
        return self._observed(), {"budget": self._budget}

    def step(self, action: Vector) -> tuple[Vector, float, bool, bool, JSON]:
        """Decide about the next place: observation, reward, terminated, truncated (never), info.

        Raises:
            gymnasium.error.ResetNeeded: no episode runs.
            InputError: the action is not one finite number; one out of [-1, 1] is clipped.
        """
        if not self._runs:
            raise gymnasium.error.ResetNeeded("all widths are decided; call reset() to begin an episode")
        value = np.asarray(action, dtype=np.float64).reshape(-1)
        if value.shape != (1,) or not np.isfinite(value).all():
            raise InputError(f"action={action}: must be one number in [-1, 1]")
        self._actions.append(float(np.clip(value[0], -1, 1)))
        self._chosen = self._decided()
        if len(self._chosen) < len(self.space.options):
            return self._observed(), 0.0, False, False, {}
        self._runs = False
        outcome = self.outcome(tuple(self._widths(self._chosen)[0].tolist()), self._budget)
        if self._budget not in self.best or outcome["reward"] > self.best[self._budget]["reward"]:
            self.best[self._budget] = dict(outcome)
        return self._observed(), outcome["reward"], True, False, outcome

    def _decided(self) -> Chosen:
        if self.rule == "walls":
            return after_walls(self._within, self._chosen, self._actions[-1])
        return after_projection(self._within, [self.reach * action for action in self._actions])

    def _observed(self) -> Vector:
        """Of the next place, or after the last step of the last one."""
        options = self.space.options
        at = min(len(self._chosen), len(options) - 1)
        chosen = self._chosen[:at]
        ends = [[*chosen, *(int(allowed[end]) for allowed in options[at:])] for end in (0, -1)]
        least, most = self._within.price(self._widths(*ends)) / self._dense_price
        before = chosen[-1] / float(options[at - 1][-1]) if chosen else 1.0
        changing = [self._within.high / self._dense_price, 1 - most, most - least, before]
        observation: Vector = np.clip([*self._features[at], *changing], 0, 1).astype(np.float32)
        return observation

    def _widths(self, *chosen: Chosen) -> NDArray[np.int64]:
        """Of all groups: (n, groups)."""
        return np.array(chosen, dtype=np.int64)[:, self.space.places]

    @property
    def _dense_price(self) -> float:
        return float(self._within.price(self._full)[0])

    # -- scoring -----------------------------------------------------------------------------------------------------

    def outcome(self, widths: Widths, budget: float) -> JSON:
        """What given widths of all groups are worth under one of the budgets: the `info` of an episode that ends with
        them."""
        within, score = self.budgets[budget], self._score(widths)
        uniform = tuple(within.space.widths(within.uniform()).tolist())
        price, dense = within.price(np.concatenate([[widths], self._full])).tolist()
        return {
            "budget": budget,
            "widths": widths,
            "gene": self._written(widths),
            "top1": score.top1,
            "top5": score.top5,
            "price": price,
            "ratio": price / dense,
            "reward": score.top1 / max(self._score(uniform).top1, LEAST_REFERENCE),
        }

    def _score(self, widths: Widths) -> Score:
        if widths not in self._scored:
            score = self.scorer.score(widths)
            assert score is not None  # it was not told to give up
            self._scored[widths] = score
        return self._scored[widths]

    def _written(self, widths: Widths) -> list[int]:
        """The gene in its published form."""
        deciding = [widths[group] for group in self._first]
        gene = [int(np.searchsorted(*pair)) for pair in zip(self.space.options, deciding, strict=True)]
        return self.space.written(np.array(gene))
