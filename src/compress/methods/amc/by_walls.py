"""`agent_rule=walls`: DDPG decides group by group, its actions bounded so that the budget can still be met."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial

import numpy as np

from compress.agents.ddpg import DDPG, DDPGSettings
from compress.io.files import JSON
from compress.io.seeds import derive_seed
from compress.io.stage_folder import StageFolder
from compress.methods.amc.agent_file import load_agent
from compress.methods.amc.agent_rule import Strategy, Wanted
from compress.prune.budget import Ceilings
from compress.search.agent.environment import ChannelEnv
from compress.search.agent.episodes import Search, SearchSettings, agent_policy

STEPS, SLACK = 101, 0.01  # shares of MACs tried to meet a budget in another unit, and the tolerance

Walk = Callable[[float], Strategy]  # target share of MACs -> strategy
Reach = tuple[float, float]


class Walls:
    """The published agent; `targets` are those it trains on."""

    constant_action = "a constant action 1.0"

    def __init__(
        self,
        env: ChannelEnv,
        ceilings: Ceilings,
        targets: Sequence[float],
        search: SearchSettings,
        ddpg: DDPGSettings,
        seed: int,
    ) -> None:
        self._env, self._ceilings = env, ceilings
        self._targets, self._search, self._seed = targets, search, seed
        self._agent = DDPG(env.observation_size, 1, ddpg, derive_seed(seed, "agent"))

    def train(self, work: StageFolder) -> dict[float, JSON]:
        return Search(self._env, self._agent, self._targets, self._search, self._seed).run(work)

    def state(self) -> JSON:
        return {"agent": self._agent.state_dict()}

    def load(self, saved: JSON, source: str) -> None:
        load_agent(self._agent, saved["agent"], source)

    def answer(self, target: float) -> Strategy:
        return self._env.walk(target, agent_policy(self._agent))

    def constant(self, target: float) -> Strategy:
        return self._env.walk(target, lambda step, observation: 1.0)

    def candidates(
        self, wanted: Wanted, seen: Mapping[float, JSON], share: float
    ) -> Iterator[tuple[str, Strategy, float]]:
        walks = dict(self._walks(wanted, seen, share))
        for name, target in _shares(self._env, walks, self._ceilings, share).items():
            yield name, walks[name](target), target

    def _walks(self, wanted: Wanted, seen: Mapping[float, JSON], share: float) -> Iterator[tuple[str, Walk]]:
        """Candidates by name, each a function from a target share of MACs to a strategy: uniform widths, the search's
        best for each of its targets (or for this one alone), the policy, and the policy with noise."""
        env, agent = self._env, self._agent
        if "uniform" in wanted.kinds:
            yield "uniform", env.uniform_widths
        if "seen" in wanted.kinds:
            for target, outcome in seen.items():
                yield f"best seen for {target:g}", partial(env.walk, policy=env.replay(outcome["widths"]))
        if "same_target" in wanted.kinds and not wanted.is_foreign:
            for target, outcome in seen.items():
                if target == share:
                    yield "best seen", partial(_unchanged, outcome["widths"])
        if "policy" in wanted.kinds:
            yield "policy's", partial(env.walk, policy=agent_policy(agent))
            for index in range(wanted.rollouts):
                noisy = agent_policy(agent, wanted.rollout_sigma, derive_seed(self._seed, "rollout", index))
                yield f"policy's noisy (no. {index + 1})", partial(env.walk, policy=noisy)


def largest_fitting(walk: Walk, ceilings: Ceilings, reach: Reach) -> tuple[float, float]:
    """The largest share of MACs at which the strategy of `walk` fits, and what it leaves of the tightest limit, as a
    share of that; the smallest share, and infinity, where none fits."""
    shares = np.linspace(*reach, STEPS)
    prices = ceilings.price(np.array([walk(share) for share in shares.tolist()]))
    fits = np.flatnonzero(prices <= ceilings.high)
    if not len(fits):
        return float(shares[0]), np.inf
    return float(shares[fits[-1]]), float(1 - prices[fits[-1]] / ceilings.high)


def _shares(env: ChannelEnv, walks: Mapping[str, Walk], ceilings: Ceilings, share: float) -> dict[str, float]:
    """The target share of MACs of each candidate: `share` for a budget of MACs alone. For any other each has its own;
    candidates that leave more than `SLACK` of it are dropped, but for the closest."""
    if ceilings.aim.is_of_macs and not ceilings.beside:
        return dict.fromkeys(walks, share)
    fitting = {name: largest_fitting(walk, ceilings, env.reachable) for name, walk in walks.items()}
    most = max(SLACK, min((left for _, left in fitting.values()), default=0.0))
    return {name: target for name, (target, left) in fitting.items() if left <= most}


def _unchanged(widths: Strategy, share: float) -> Strategy:
    return widths
