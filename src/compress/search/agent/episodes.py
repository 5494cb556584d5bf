"""The search through action bounds: training of a DDPG agent in episodes, remembering the best strategy for every
target; resumable. (`projected` is the search of `agent_rule=projected`.)

Every episode seeds its random numbers by (seed, episode), so that a resumed search equals an uninterrupted one.
He et al., "AMC", ECCV 2018, arXiv:1802.03494, section 3.3: random episodes first, then truncated normal noise of
decaying width around the policy; every transition of an episode is stored with the episode's final reward.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from torch import Tensor

from compress.agents.ddpg import DDPG
from compress.agents.noise import decayed_sigma, truncated_normal
from compress.agents.replay import Replay
from compress.io.files import JSON
from compress.io.progress import Progress
from compress.io.seeds import derive_seed
from compress.io.stage_folder import StageFolder
from compress.schema.bounds import Bound, Count, Natural, NonNegative, Positive
from compress.search.agent.environment import ChannelEnv, Policy
from compress.search.agent.journal import note, standing
from compress.search.agent.observations import Vector

Explorer = Callable[[int, Tensor], Tensor]  # (step, state) -> action, each (1,)
SAVE_EVERY_SECONDS = 1.0  # not after every episode, which may take milliseconds


@dataclass(frozen=True, kw_only=True)
class SearchSettings:
    """Settings of the search; conf/method/amc.yaml explains each."""

    episodes: Annotated[int, Bound(ge=1, most=10**7)]
    warmup: Natural
    warmup_inclusive: bool
    warmup_sigma: Positive | None
    sampling: Literal["cycle", "uniform"]
    sigma: NonNegative
    sigma_decay: Annotated[float, Bound(gt=0, le=1)]
    decay_per_target: bool
    replay_episodes: Count
    replay_per_target: bool
    replay_skips_first: bool
    baseline_per_target: bool
    store_action: Literal["raw", "executed"]
    wall_first_episode: bool
    uniform_first: bool


def agent_policy(agent: DDPG, sigma: float = 0.0, seed: int = 0) -> Policy:
    """The agent's policy, with truncated normal noise if `sigma` > 0; every episode has the noise of `seed`."""
    generator = torch.Generator().manual_seed(seed)

    def policy(step: int, observation: Vector) -> float:
        if step == 0:
            generator.manual_seed(seed)
        return float(agent.act(torch.from_numpy(observation), sigma, generator))

    return policy


def is_random(episode: int, settings: SearchSettings) -> bool:
    """Whether an episode (from 0) belongs to the warm-up, with random actions and without updates of the agent."""
    return episode < settings.warmup + settings.warmup_inclusive


def sigma_of(episode: int, settings: SearchSettings, targets: int) -> float:
    """Width of the noise in an episode after warm-up; `targets` is their number."""
    rounds = (episode - settings.warmup) / (targets if settings.decay_per_target else 1)
    return decayed_sigma(settings.sigma, settings.sigma_decay, rounds)


def replay_size(steps: int, targets: int, settings: SearchSettings) -> int:
    """Capacity of the replay memory in transitions; `targets` is their number."""
    return settings.replay_episodes * steps * (targets if settings.replay_per_target else 1)


class Search:
    """The training of one agent. `targets` are shares of MACs; `best` and `done` are the results so far."""

    def __init__(
        self, env: ChannelEnv, agent: DDPG, targets: Sequence[float], settings: SearchSettings, seed: int
    ) -> None:
        self.env, self.agent, self.targets, self.settings, self.seed = env, agent, targets, settings, seed
        size = replay_size(env.steps, len(targets), settings)
        self.memory = Replay(size, env.observation_size, 1, settings.replay_skips_first)
        self.best: dict[int, JSON] = {}  # index in `targets` -> outcome
        self.done = 0  # episodes

    def run(self, work: StageFolder) -> dict[float, JSON]:
        """Train the agent in place, from where `work` was interrupted; returns the best outcome per target."""
        if work.resumed is not None:
            self._load(work.resumed)
        elif self.settings.uniform_first:
            for task, target in enumerate(self.targets):
                self.best[task] = self.env.scored(self.env.uniform_widths(target), target)
        with Progress("sparsify", "episode", self.settings.episodes, self.done) as shown:
            while self.done < self.settings.episodes:
                self._note(*self._episode(self.done), work)
                self.done += 1
                last = self.done == self.settings.episodes
                work.progress(self._state, 0 if last else SAVE_EVERY_SECONDS)
                shown.advance(standing(self.targets, self.best))
        return {target: self.best[task] for task, target in enumerate(self.targets) if task in self.best}

    def _state(self) -> JSON:
        return {
            "episode": self.done,
            "agent": self.agent.state_dict(),
            "replay": self.memory.state_dict(),
            "best": self.best,
            "evaluated": sorted(map(list, self.env.evaluated)),
        }

    def _load(self, state: JSON) -> None:
        self.done, self.best = state["episode"], state["best"]
        self.agent.load_state_dict(state["agent"])
        self.memory.load_state_dict(state["replay"])
        self.env.evaluated |= set(map(tuple, state.get("evaluated", ())))

    def _task(self, episode: int) -> int:
        if self.settings.sampling == "cycle":
            return episode % len(self.targets)
        return random.Random(derive_seed(self.seed, "target", episode)).randrange(len(self.targets))

    def _explorer(self, episode: int, task: int, generator: torch.Generator) -> tuple[Explorer, float]:
        """How actions are chosen in an episode, and the width of the noise: at random during warm-up, then by the
        policy with noise."""
        if not is_random(episode, self.settings):
            sigma = sigma_of(episode, self.settings, len(self.targets))
            return lambda step, state: self.agent.act(state, sigma, generator), sigma
        width = self.settings.warmup_sigma
        if width is None:
            return lambda step, state: torch.rand(1, generator=generator), 1.0
        uniform = torch.tensor(self.env.executed(self.env.uniform_widths(self.targets[task])))
        return lambda step, state: truncated_normal(uniform[step : step + 1], width, generator), width

    def _episode(self, episode: int) -> tuple[int, JSON, float]:
        """Play an episode, then store its transitions, with an update of the agent after each once warm-up is over.

        Returns its task (index of its target), outcome and sigma.
        """
        settings, task = self.settings, self._task(episode)
        generator = torch.Generator().manual_seed(derive_seed(self.seed, "episode", episode))
        explorer, sigma = self._explorer(episode, task, generator)
        states: list[Tensor] = []
        actions: list[Tensor] = []

        def policy(step: int, observation: Vector) -> float:
            states.append(torch.from_numpy(observation))
            actions.append(explorer(step, states[-1]))
            return float(actions[-1])

        has_budget = episode > 0 or settings.wall_first_episode
        outcome = self.env.play(self.targets[task], policy, None if has_budget else 1.0)
        if settings.store_action == "executed":
            actions = [torch.tensor([share]) for share in self.env.executed(outcome["widths"])]
        learns = not is_random(episode, settings)
        group = task if settings.baseline_per_target else 0
        for step, (state, action) in enumerate(zip(states, actions, strict=True)):
            last = step + 1 == len(states)
            self.memory.add(state, action, outcome["reward"], states[min(step + 1, len(states) - 1)], last, group)
            if learns:
                self.agent.update(self.memory.sample(self.agent.settings.batch_size, generator))
        return task, outcome, sigma

    def _note(self, task: int, outcome: JSON, sigma: float, work: StageFolder) -> None:
        """Remember the outcome if it is the best; write a row of metrics and a line of the log."""
        better = task not in self.best or outcome["reward"] > self.best[task]["reward"]
        if better:
            self.best[task] = outcome
        note(work, self.env, self.done + 1, outcome, self.best[task]["reward"], sigma, better)
