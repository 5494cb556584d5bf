"""The search by preferences: a policy, projected on the budget as a whole, and a critic of whole strategies.

Every episode the policy imitates the best strategies so far; strategies around its answer and around the best ones
are proposed, the critic picks the most promising one that was never scored, and that one is scored. So the policy is
one network that answers for any target, and no evaluation is spent twice.

In the place of AMC's sequence of bounded decisions (He et al., ECCV 2018, arXiv:1802.03494) there is one decision for
all groups (`compress.search.projection`), in the place of its action values a Gaussian process over strategies
(`compress.search.critic`). Proposals are in `compress.search.agent.around`. The target is told to the policy as in
Liu et al., IEEE SPL 2021, arXiv:2009.09724.

Every turn seeds its random numbers by (seed, turn), so that a resumed search equals an uninterrupted one.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from compress.agents.preferences import PreferencePolicy
from compress.io.files import JSON
from compress.io.progress import Progress
from compress.io.seeds import derive_seed
from compress.io.stage_folder import StageFolder
from compress.prune.budget import Price
from compress.schema.bounds import Bound, Count, NonNegative, Positive, Share
from compress.search.agent.around import ProposalSettings, around, drawn
from compress.search.agent.environment import ChannelEnv
from compress.search.agent.journal import note, standing
from compress.search.agent.observations import Encoding
from compress.search.critic import Critic
from compress.search.projection import Preferences, preferences_of_widths, projected
from compress.search.space import Widths, WidthSpace

log = logging.getLogger(__name__)

SAVE_EVERY_SECONDS = 1.0  # not after every episode, which may take milliseconds
WIDENINGS = 8  # doublings of the noise while everything that is proposed has been scored

Strategy = tuple[int, ...]  # widths of all groups
Random = np.random.Generator


@dataclass(frozen=True, kw_only=True)
class ProjectedSettings(ProposalSettings):
    """Settings of the search; conf/method/amc.yaml explains each."""

    draws: Count
    elite: Annotated[int, Bound(ge=1, most=10**5)]
    first_sigma: Positive
    sigma_rate: Share
    least_sigma: Positive
    critic: Literal["gp", "none"]
    optimism: NonNegative


def told(encoding: Encoding, target: float) -> float:
    """What the policy is told about a target: 2 T - 1 for a share of MACs T, in [-1, 1], or nothing."""
    return 0.0 if encoding == "none" else 2 * target - 1


@dataclass(frozen=True, eq=False)
class Projection:
    """Preferences turned into widths of one network whose price, as in `compress.prune.budget`, is at most `high`."""

    space: WidthSpace
    price: Price
    high: float

    def __call__(self, preferences: Preferences) -> Widths:
        """(n, places) -> (n, groups)."""
        return self.space.widths(projected(self.space, self.price, self.high, preferences))

    def one(self, preferences: Preferences) -> Strategy:
        """(places,) -> the widths of all groups."""
        return as_strategy(self(preferences[None])[0])


def as_strategy(widths: Widths) -> Strategy:
    return tuple(int(width) for width in widths)


def most_promising(widths: Widths, critic: Critic | None, optimism: float) -> Strategy:
    """Of proposals (n, groups) the one that the critic picks; without a critic the first."""
    at = 0 if critic is None or not len(critic) else int(critic.promise(widths, optimism).argmax())
    return as_strategy(widths[at])


class ProjectedSearch:
    """The training of one policy. `targets` are shares of MACs, each with its projection, all in one space; `best`,
    `done`, `scored` are the results so far."""

    def __init__(
        self,
        env: ChannelEnv,
        projections: Sequence[Projection],
        policy: PreferencePolicy,
        targets: Sequence[float],
        encoding: Encoding,
        settings: ProjectedSettings,
        seed: int,
    ) -> None:
        """Of the environment only the scoring of whole strategies is used."""
        self.env, self.projections, self.policy, self.targets = env, list(projections), policy, list(targets)
        self.space = projections[0].space
        self.settings, self.seed = settings, seed
        self.critic = Critic(env.full_widths) if settings.critic == "gp" else None
        self._told = np.array([told(encoding, target) for target in targets])
        places = len(self.space.options)
        self.sigmas = np.full((len(self.targets), places), settings.first_sigma)  # of the noise, per target
        self.scored: dict[Strategy, float] = {}  # accuracy in percent, in the order of scoring
        self.rewards: list[dict[Strategy, float]] = [
            {} for _ in targets
        ]  # per target of all that was projected on it
        self.best: dict[int, JSON] = {}  # index in `targets` -> outcome
        self.done = 0  # episodes
        self.turn = 0  # of the targets; a turn that finds nothing new is no episode
        self.stuck = 0  # turns in a row that found nothing new

    def run(self, episodes: int, uniform_first: bool, work: StageFolder) -> dict[float, JSON]:
        """Train the policy in place, from where `work` was interrupted; returns the best outcome per target. Ends
        early where no target has a strategy left that was not scored."""
        if work.resumed is not None:
            self._load(work.resumed)
        elif uniform_first:
            for task, target in enumerate(self.targets):
                self._score(task, self.env.uniform_widths(target))
        with Progress("sparsify", "episode", episodes, self.done) as shown:
            while self.done < episodes and self.stuck < len(self.targets):
                before = self.done
                self._turn(work)
                ended = self.done == episodes or self.stuck == len(self.targets)
                work.progress(self._state, 0 if ended else SAVE_EVERY_SECONDS)
                if self.done > before:
                    shown.advance(standing(self.targets, self.best))
        if self.done < episodes:
            log.info("sparsify: every strategy that could be proposed was scored; the search ends")
        return {target: self.best[task] for task, target in enumerate(self.targets) if task in self.best}

    def _turn(self, work: StageFolder) -> None:
        """The turn of one target: propose, score, and let the policy imitate the best."""
        task = self.turn % len(self.targets)
        chosen, sigma = self._chosen(task, np.random.default_rng(derive_seed(self.seed, "turn", self.turn)))
        self.turn += 1
        if chosen is None:
            self.stuck += 1
            return
        self.stuck = 0
        outcome, better = self._score(task, chosen)
        self.done += 1
        self._imitate(task)
        note(work, self.env, self.done, outcome, self.best[task]["reward"], sigma, better)

    # -- proposals ---------------------------------------------------------------------------------------------

    def _chosen(self, task: int, random: Random) -> tuple[Strategy | None, float]:
        """The strategy to score, None where nothing new was found, and the mean width of the noise."""
        for widening in range(WIDENINGS + 1):
            wider = 2.0**widening
            new = self._new(task, self.projections[task](self._proposals(task, wider, random)))
            if len(new):
                sigma = float(np.mean(self.settings.draw_sigmas if self._draws else self.sigmas[task]))
                critic = None if self._draws else self.critic
                return most_promising(new, critic, self.settings.optimism), sigma * wider
        return None, 0.0

    def _proposals(self, task: int, wider: float, random: Random) -> Preferences:
        """(proposals, places)."""
        if self._draws:
            return drawn(self.settings, self.sigmas.shape[1], wider, random)
        own, space = self.policy.preferences(self._told[task]), self.space
        elite = self.elite(task) if self.rewards[task] else self.projections[task](own[None])
        return around(self.settings, space, own, space.genes(elite), self.sigmas[task] * wider, random)

    @property
    def _draws(self) -> bool:
        """Whether the turn is one of the first of its target, in which strategies are drawn."""
        return self.turn < self.settings.draws * len(self.targets)

    def _new(self, task: int, proposals: Widths) -> Widths:
        """Those of proposals (n, groups) that were never scored, each once, in order. One that was scored for another
        target and meets this one too becomes a result of this target, at no cost."""
        new: dict[Strategy, None] = {}
        for strategy in map(as_strategy, proposals):
            if strategy not in self.scored:
                new[strategy] = None
            elif strategy not in self.rewards[task]:
                self._score(task, strategy)
        return np.array(list(new), dtype=np.int64).reshape(len(new), proposals.shape[1])

    # -- results -----------------------------------------------------------------------------------------------

    def _score(self, task: int, strategy: Strategy) -> tuple[JSON, bool]:
        """The outcome of a strategy for a target, and whether it is its best."""
        outcome = self.env.scored(strategy, self.targets[task])
        if strategy not in self.scored:
            self._remember(strategy, outcome["accuracy"])
        self.rewards[task][strategy] = outcome["reward"]
        better = task not in self.best or outcome["reward"] > self.best[task]["reward"]
        if better:
            self.best[task] = outcome
        return outcome, better

    def _remember(self, strategy: Strategy, accuracy: float) -> None:
        self.scored[strategy] = accuracy
        if self.critic is not None:
            self.critic.add(strategy, accuracy)

    def elite(self, task: int) -> Widths:
        """The strategies with the largest rewards of a target, best first: (n, groups)."""
        rewards = self.rewards[task]
        best = sorted(rewards, key=lambda strategy: -rewards[strategy])[: self.settings.elite]
        return np.array(best, dtype=np.int64).reshape(len(best), len(self.env.full_widths))

    def _wishes(self, task: int) -> Preferences:
        """Preferences of the elite: (n, places)."""
        return preferences_of_widths(self.space, self.elite(task))

    def _imitate(self, task: int) -> None:
        """The policy learns from the elites of all targets; the noise of this one follows the spread of its own."""
        elites = [(at, self._wishes(at)) for at in range(len(self.targets)) if self.rewards[at]]
        asked = np.repeat(self._told[[at for at, _ in elites]], [len(elite) for _, elite in elites])
        self.policy.imitate(asked, np.concatenate([elite for _, elite in elites]))
        if self.turn > self.settings.draws * len(self.targets):
            rate, spread = self.settings.sigma_rate, self._wishes(task).std(0)
            moved = self.sigmas[task] + rate * (spread - self.sigmas[task])
            self.sigmas[task] = np.maximum(moved, self.settings.least_sigma)

    # -- progress ----------------------------------------------------------------------------------------------

    def _state(self) -> JSON:
        return {
            "episode": self.done,
            "turn": self.turn,
            "stuck": self.stuck,
            "policy": self.policy.state_dict(),
            "sigmas": torch.from_numpy(self.sigmas.copy()),
            "scored": [[list(strategy), accuracy] for strategy, accuracy in self.scored.items()],
            "rewards": [[[list(one), reward] for one, reward in of.items()] for of in self.rewards],
            "best": self.best,
            "evaluated": sorted(map(list, self.env.evaluated)),
        }

    def _load(self, state: JSON) -> None:
        self.done, self.turn, self.stuck = state["episode"], state["turn"], state["stuck"]
        self.best, self.sigmas = state["best"], state["sigmas"].numpy()
        self.policy.load_state_dict(state["policy"])
        for strategy, accuracy in state["scored"]:
            self._remember(tuple(strategy), accuracy)
        self.rewards = [{tuple(one): reward for one, reward in of} for of in state["rewards"]]
        self.env.evaluated |= set(map(tuple, state["evaluated"]))

    def data(self) -> JSON:
        """All that the critic knows, for files: widths (n, groups) and accuracies (n,) in percent."""
        return {
            "widths": torch.tensor(list(self.scored), dtype=torch.int64),
            "accuracies": torch.tensor(list(self.scored.values()), dtype=torch.float64),
        }


def critic_of(full_widths: Sequence[int], data: JSON) -> Critic:
    """The critic that knows what `ProjectedSearch.data` gave."""
    critic = Critic(full_widths)
    for widths, accuracy in zip(data["widths"].tolist(), data["accuracies"].tolist(), strict=True):
        critic.add(widths, accuracy)
    return critic


def proposals_around(preferences: NDArray[np.float64], sigma: float, count: int, seed: int) -> Preferences:
    """Preferences (places,) with noise on all of them: (count, places)."""
    return preferences + np.random.default_rng(seed).normal(0, sigma, (count, len(preferences)))
