"""Agents of stable-baselines3 in `compress.environment`, by the numbers. Needs the extra `gym` and stable-baselines3.

    python benchmarks/gym_agents.py                             # --help lists the options
    python benchmarks/gym_agents.py method=sample model=vgg16_bn --budgets 0.2

Every row is one budget, rule and agent: the reward is the held-out top-1 over that of uniform widths, which have 1.
"best seen" is the largest of all episodes, "policy" that of the deterministic policy after them. `random` draws every
action uniformly: what an agent has to beat at equal episodes. The agents have the settings of stable-baselines3 and,
where these explore by noise on actions, a standard deviation of --noise. Every row scores its candidates itself, so
that "seconds" (CPU, user + system, one thread) hold all of its work but the dense network's training.
"""

import argparse
import statistics
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from stable_baselines3 import DDPG, SAC, TD3
from stable_baselines3.common.noise import NormalActionNoise
from tabulate import tabulate

import compress
from compress.search.gym import WidthEnv
from compress.search.scorers.memory import ScoreMemory

AGENTS = {"DDPG": DDPG, "TD3": TD3, "SAC": SAC}


def learned(env: WidthEnv, name: str, steps: int, seed: int, noise: float) -> Any:
    """A trained agent of stable-baselines3."""
    explores = {} if name == "SAC" else {"action_noise": NormalActionNoise(np.zeros(1), np.full(1, noise))}
    return AGENTS[name]("MlpPolicy", env, seed=seed, device="cpu", **explores).learn(steps)


def episode(env: WidthEnv, agent: Any) -> float:
    """The reward of an agent's deterministic policy; without one, of random actions."""
    state, _ = env.reset()
    while True:
        action = env.action_space.sample() if agent is None else agent.predict(state, deterministic=True)[0]
        state, reward, ended, _, _ = env.step(action)
        if ended:
            return reward


def tried(env: WidthEnv, name: str, options: argparse.Namespace, seed: int) -> list[float]:
    """Best reward seen, the policy's own, evaluations, seconds."""
    env.scorer._memory = ScoreMemory(None, {})  # type: ignore[attr-defined]
    start, agent, own = time.process_time(), None, float("nan")
    if name == "random":
        env.action_space.seed(seed)
        for _ in range(options.episodes):
            episode(env, None)
    else:
        agent = learned(env, name, options.episodes * len(env.space.options), seed, options.noise)
    best, evaluations = next(iter(env.best.values()))["reward"], env.evaluations
    seconds = time.process_time() - start
    if agent is not None:
        own = episode(env, agent)
    return [best, own, evaluations, seconds]


def cell(values: Sequence[float], digits: int) -> str:
    mean = f"{statistics.mean(values):.{digits}f}"
    return mean if len(values) == 1 else f"{mean} ({min(values):.{digits}f}-{max(values):.{digits}f})"


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("overrides", nargs="*", default=["method=amc"], help="as on the command line of compress")
    parser.add_argument("--budgets", type=float, nargs="+", default=[0.5, 0.3], help="shares of MACs")
    parser.add_argument("--rules", nargs="+", choices=["projected", "walls"], default=["projected", "walls"])
    parser.add_argument("--agents", nargs="+", choices=[*AGENTS, "random"], default=[*AGENTS, "random"])
    parser.add_argument("--episodes", type=int, default=200)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--noise", type=float, default=0.3)
    return parser.parse_args()


def main() -> None:
    options, rows = parsed(), []
    for budget in options.budgets:
        for rule in options.rules:
            for name in options.agents:
                runs = []
                for seed in range(options.seeds):
                    env = compress.environment(
                        *options.overrides, "device=cpu", f"preserve_ratio={budget}", rule=rule
                    )
                    runs.append(tried(env, name, options, seed))
                best, own, evaluations, seconds = zip(*runs, strict=True)
                figures = [cell(best, 4), cell(own, 4), cell(evaluations, 0), cell(seconds, 0)]
                rows.append([budget, rule, name, *figures])
                print(rows[-1], flush=True)
    print(f"{' '.join(options.overrides)}: {options.episodes} episodes, {options.seeds} seeds: mean (least-most)")
    print(tabulate(rows, ["budget", "rule", "agent", "best seen", "policy", "evaluations", "seconds"], "github"))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
