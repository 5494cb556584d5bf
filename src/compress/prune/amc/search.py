"""The search: episodes of the agent in the environment, the best strategy of every target, resumable.

Everything random in an episode comes from (seed, episode), so that a resumed search is the search that was not
interrupted.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from torch import Tensor
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from compress.agents.ddpg import DDPG
from compress.agents.noise import decayed_sigma
from compress.agents.replay import Replay
from compress.files import JSON
from compress.prune.amc.env import ChannelEnv, Policy, Vector
from compress.seeds import derive_seed
from compress.settings import Bound, Count, Natural, NonNegative
from compress.work import Work

SAVE_EVERY_SECONDS = 1.0  # an episode can take milliseconds; at most so much of the search is repeated after a kill


@dataclass(frozen=True, kw_only=True)
class SearchSettings:
    episodes: Count  # in all, warm-up included
    warmup: Natural  # first episodes, with random actions and without learning
    sampling: Literal["cycle", "uniform"]  # order of the targets over the episodes
    sigma: NonNegative  # width of the exploration noise after warm-up
    sigma_decay: Annotated[float, Bound(gt=0, le=1)]  # its factor per episode of the same target
    replay_episodes: Count  # how many episodes per target the agent remembers


def as_tensor(observation: Vector) -> Tensor:
    return torch.from_numpy(observation)


def agent_policy(agent: DDPG, sigma: float = 0.0, seed: int = 0) -> Policy:
    """What the agent has learned, with noise if asked for; the same noise for the same seed."""
    generator = torch.Generator().manual_seed(seed)

    def policy(step: int, observation: Vector) -> float:
        if step == 0:
            generator.manual_seed(seed)
        return float(agent.act(as_tensor(observation), sigma, generator))

    return policy


def replay_size(env: ChannelEnv, targets: Sequence[float], settings: SearchSettings) -> int:
    return settings.replay_episodes * env.steps * len(targets)


def run_search(
    env: ChannelEnv, agent: DDPG, targets: Sequence[float], settings: SearchSettings, seed: int, work: Work
) -> JSON:
    """Train the agent in place; returns the best outcome per target, the uniform strategy being the first to beat."""
    memory = Replay(replay_size(env, targets, settings), env.observation_space.shape[0], env.action_space.shape[0])
    start = 0
    best: list[JSON] = []
    if work.resumed is not None:
        start, best = work.resumed["episode"], work.resumed["best"]
        agent.load_state_dict(work.resumed["agent"])
        memory.load_state_dict(work.resumed["replay"])
    else:
        for target in targets:
            env.reset(options={"target": target})
            best.append(env.outcome(env.uniform_widths(target)))
    bar = tqdm(total=settings.episodes, initial=start, desc="search", unit="episode", disable=None, leave=False)
    with bar, logging_redirect_tqdm():
        for episode in range(start, settings.episodes):
            task = _task(episode, len(targets), settings.sampling, seed)
            outcome, sigma = _episode(env, agent, memory, targets[task], task, episode, len(targets), settings, seed)
            if outcome["reward"] > best[task]["reward"]:
                best[task] = outcome
            work.row(
                stage="sparsify",
                episode=episode + 1,
                target=targets[task],
                ratio=round(outcome["ratio"], 6),
                reward=round(outcome["reward"], 6),
                accuracy=round(outcome["accuracy"], 4),
                best_reward=round(best[task]["reward"], 6),
                sigma=round(sigma, 6),
                widths=list(outcome["widths"]),
            )
            done = episode + 1
            work.progress(
                lambda done=done: {  # type: ignore[misc]
                    "episode": done,
                    "agent": agent.state_dict(),
                    "replay": memory.state_dict(),
                    "best": best,
                },
                SAVE_EVERY_SECONDS if done < settings.episodes else 0,
            )
            bar.update()
            bar.set_postfix({f"{t:g}": f"{b['accuracy']:.1f} %" for t, b in zip(targets, best, strict=True)})
    return {f"{target:g}": outcome for target, outcome in zip(targets, best, strict=True)}


def _task(episode: int, count: int, sampling: str, seed: int) -> int:
    if sampling == "cycle":
        return episode % count
    return random.Random(derive_seed(seed, "target", episode)).randrange(count)


def _episode(
    env: ChannelEnv,
    agent: DDPG,
    memory: Replay,
    target: float,
    task: int,
    episode: int,
    targets: int,
    settings: SearchSettings,
    seed: int,
) -> tuple[JSON, float]:
    """Play one episode, then remember it step by step, learning after each step once warm-up is over.

    Every transition carries the final reward, and the action as the agent gave it (AMC's published choice).
    """
    generator = torch.Generator().manual_seed(derive_seed(seed, "episode", episode))
    warm = episode >= settings.warmup
    rounds = (episode - settings.warmup) / targets
    sigma = decayed_sigma(settings.sigma, settings.sigma_decay, rounds) if warm else float("nan")

    states: list[Tensor] = []
    actions: list[Tensor] = []

    def policy(step: int, observation: Vector) -> float:
        state = as_tensor(observation)
        action = agent.act(state, sigma, generator) if warm else torch.rand(1, generator=generator)
        states.append(state)
        actions.append(action)
        return float(action)

    outcome = env.play(target, policy)
    for step, (state, action) in enumerate(zip(states, actions, strict=True)):
        last = step + 1 == len(states)
        memory.add(state, action, outcome["reward"], states[min(step + 1, len(states) - 1)], last, task)
        if warm:
            agent.update(memory.sample(agent.settings.batch_size, generator))
    return outcome, sigma if warm else 1.0
