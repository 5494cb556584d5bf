"""`agent_rule=projected`: preferences of all groups at once, projected on the budget, and a critic of strategies."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from compress.agents.preferences import PreferencePolicy, PreferenceSettings
from compress.io.files import JSON
from compress.io.seeds import derive_seed
from compress.io.stage_folder import StageFolder
from compress.methods.amc.agent_file import load_agent
from compress.methods.amc.agent_rule import Strategy, Wanted
from compress.search.agent.environment import ChannelEnv
from compress.search.agent.observations import Encoding
from compress.search.agent.projected import (
    ProjectedSearch,
    ProjectedSettings,
    Projection,
    critic_of,
    most_promising,
    proposals_around,
    told,
)
from compress.search.critic import Critic
from compress.search.feasible import Feasible
from compress.search.projection import preferences_of_widths
from compress.search.space import WidthSpace


@dataclass(frozen=True)
class Training:
    """What the agent trains on, and for how long."""

    targets: Sequence[float]
    episodes: int
    uniform_first: bool
    for_budget: bool  # one target, that of the run's budget: the agent trains within the budget itself


class Projected:
    """The agent of preferences."""

    constant_action = "equal preferences, uniform widths"

    def __init__(
        self,
        env: ChannelEnv,
        space: WidthSpace,
        allowed: Callable[[], Feasible],
        features: NDArray[np.float64],
        encoding: Encoding,
        training: Training,
        settings: ProjectedSettings,
        policy: PreferenceSettings,
        seed: int,
    ) -> None:
        """`allowed` gives what the run's budget allows of the space, in the budget's own unit; `features` (groups, F)
        describe the groups."""
        self._env, self._space, self._allowed, self._encoding = env, space, allowed, encoding
        self._training, self._settings, self._seed = training, settings, seed
        self._policy = PreferencePolicy(features, policy, derive_seed(seed, "agent"))
        self._data: JSON = {}

    def train(self, work: StageFolder) -> dict[float, JSON]:
        training = self._training
        projections = [self._projection(target) for target in training.targets]
        search = ProjectedSearch(
            self._env, projections, self._policy, training.targets, self._encoding, self._settings, self._seed
        )
        best = search.run(training.episodes, training.uniform_first, work)
        self._data = search.data()
        return best

    def state(self) -> JSON:
        return {"agent": {"network": self._policy.state_dict()["network"]}, "scored": self._data}

    def load(self, saved: JSON, source: str) -> None:
        load_agent(self._policy, saved["agent"], source)
        self._data = saved["scored"]

    def answer(self, target: float) -> Strategy:
        return self._projection(target).one(self._policy.preferences(told(self._encoding, target)))

    def _projection(self, target: float) -> Projection:
        """On a share of MACs, or on the run's own budget where the agent is trained for it alone."""
        if self._training.for_budget:
            return self._on_budget()
        return Projection(self._space, self._env.price, target * self._env.full_macs)

    def _on_budget(self) -> Projection:
        allowed = self._allowed()
        return Projection(allowed.space, allowed.price, allowed.high)

    def constant(self, target: float) -> Strategy:
        return self._env.uniform_widths(target)

    def candidates(
        self, wanted: Wanted, seen: Mapping[float, JSON], share: float
    ) -> Iterator[tuple[str, Strategy, float]]:
        """All meet the budget itself, also where it is one of channels."""
        for name, strategy in self._strategies(wanted, seen, share):
            yield name, strategy, share

    def _strategies(self, wanted: Wanted, seen: Mapping[float, JSON], share: float) -> Iterator[tuple[str, Strategy]]:
        space, allowed, project = self._space, self._allowed(), self._on_budget()
        if "uniform" in wanted.kinds:
            yield "uniform", project.one(np.zeros(len(space.options)))
        if "seen" in wanted.kinds:
            for target, outcome in seen.items():
                yield f"best seen for {target:g}", self._brought(outcome["widths"], target == share, allowed, project)
        if "same_target" in wanted.kinds and not wanted.is_foreign:
            for target, outcome in seen.items():
                if target == share:
                    yield "best seen", self._brought(outcome["widths"], True, allowed, project)
        if "policy" in wanted.kinds:
            own = self._policy.preferences(told(self._encoding, share))
            yield "policy's", project.one(own)
            critic = self._critic() if wanted.rollouts else None
            for index in range(wanted.rollouts):
                seed = derive_seed(self._seed, "rollout", index)
                noisy = proposals_around(own, wanted.rollout_sigma, self._settings.proposals, seed)
                picked = most_promising(project(noisy), critic, self._settings.optimism)
                yield f"policy's noisy (no. {index + 1})", picked

    def _brought(self, widths: Strategy, is_of_target: bool, allowed: Feasible, project: Projection) -> Strategy:
        """Widths that were seen: as they are for their own target, if they meet the budget, else projected on it."""
        if is_of_target and _allows(allowed, widths):
            return tuple(widths)
        return project.one(preferences_of_widths(self._space, np.array(widths)))

    def _critic(self) -> Critic | None:
        return critic_of(self._env.full_widths, self._data) if self._settings.critic == "gp" else None


def _allows(allowed: Feasible, widths: Sequence[int]) -> bool:
    """Whether these are allowed widths that meet the budget: those of another run's agent need not be."""
    fits = float(allowed.price(np.array([widths]))[0]) <= allowed.high
    return fits and all(width in options for width, options in zip(widths, allowed.space.options, strict=True))
