"""camc: one agent for every budget.

Liu et al., "Conditional Automated Channel Pruning for Deep Neural Networks", IEEE Signal Processing Letters 2021,
arXiv:2009.09724, on top of AMC (arXiv:1802.03494). The target share of MACs is a number in the agent's state, so that
one search serves every ratio, those it never saw included; the agent is cached without the ratio in its key.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from compress.agents.ddpg import DDPG, DDPGSettings
from compress.files import JSON
from compress.measure.accuracy import accuracy
from compress.prune.amc.env import ChannelEnv, Policy, check_target
from compress.prune.amc.reconstruct import Reconstructor, gram_matrices
from compress.prune.amc.rewards import Reward
from compress.prune.amc.search import SearchSettings, agent_policy, run_search
from compress.prune.budget import preserve_ratio, removed_percent
from compress.prune.cost import CostModel
from compress.prune.graph import ChannelGraph
from compress.prune.importance import channel_orders, plan_of
from compress.prune.method import Decision, Problem
from compress.prune.plan import Plan
from compress.prune.surgery import Masks
from compress.prune.widths import all_choices, reachable
from compress.seeds import derive_seed
from compress.settings import BUDGETS, Budget, Count, InputError, Natural, NonNegative, Share
from compress.work import Work, read_state, write_state

log = logging.getLogger(__name__)

AGENT = "agent.pt"
PERCENT_STEPS, PERCENT_SLACK = 101, 0.01  # shares of MACs tried for a share of channels, and how near is near


@dataclass(frozen=True, kw_only=True)
class Camc:
    """The method as `conf/method/camc.yaml` sets it; every value's meaning stands there."""

    targets: list[Share]
    lbound: Share
    rbound: Share
    round_to: Count
    budget_mode: Literal["upper", "exact"]
    acc_metric: Literal["top1", "top5"]
    calibration_images: Count
    calibration_points: Count
    reward_images: Count
    rollouts: Natural
    rollout_sigma: NonNegative
    search: SearchSettings
    agent: DDPGSettings
    reward: Reward

    budgets: ClassVar = BUDGETS
    needs_sparsify: ClassVar = True
    sparsify_trains_weights: ClassVar = False
    sparsify_reads_budget: ClassVar = False
    plan_only: ClassVar = frozenset({"rollouts", "rollout_sigma"})

    def __post_init__(self) -> None:
        problems = []
        if not self.targets or sorted(set(self.targets)) != self.targets:
            problems.append(f"method.targets={self.targets}: must be ascending shares of MACs, each once")
        if self.lbound > self.rbound:
            problems.append(f"method.lbound={self.lbound}: must not be above method.rbound={self.rbound}")
        if problems:
            raise InputError(*problems)

    def check(self, graph: ChannelGraph, cost: CostModel, budget: Budget) -> None:
        options = all_choices(graph, self.round_to, self.lbound, self.rbound)
        reach = reachable(cost, options)
        asked = {f"method.targets={target:g}": target for target in self.targets}
        if budget.kind != "percent":
            asked[str(budget)] = preserve_ratio(budget, cost)
        for name, target in asked.items():
            check_target(name, target, reach)
        full = int(cost.full_widths.sum())
        least, most = (1 - sum(int(widths[end]) for widths in options) / full for end in (-1, 0))
        if budget.kind == "percent" and not least <= budget.value <= most:
            raise InputError(
                f"{budget}: out of reach; with method.lbound, method.rbound and method.round_to as they are between "
                f"{least:.3f} and {most:.3f} of the channels can go"
            )

    def sparsify(self, problem: Problem, work: Work) -> JSON:
        lab = Lab(self, problem)
        agent = lab.new_agent()
        best = run_search(lab.env, agent, self.targets, self.search, problem.seed, work)
        content = {"agent": agent.state_dict(), "best": best, "network": lab.layer_table()}
        write_state(work.folder / AGENT, content)
        return {"made": "agent", "episodes": self.search.episodes, "best": best}

    def plan(self, problem: Problem, learned: Path | None) -> Decision:
        assert learned is not None
        lab = Lab(self, problem)
        saved = read_state(learned / AGENT)
        if saved["network"] != lab.layer_table():
            raise InputError(f"{learned}: this agent was trained on another network; run sparsify on this one")
        agent = lab.new_agent()
        agent.load_state_dict(saved["agent"])
        candidates = self._candidates(lab, agent, saved["best"], problem.budget)
        # rewards of one target are comparable; strategies for a share of channels have targets of their own
        worth = "accuracy" if problem.budget.kind == "percent" else "reward"
        source, outcome = max(candidates, key=lambda named: named[1][worth])
        log.info(
            "prune: %s by the strategy '%s': %.4f of the MACs, held-out %s %.2f %% before fine-tuning",
            problem.budget, source, outcome["ratio"], self.acc_metric, outcome["accuracy"],
        )  # fmt: skip
        plan, weights = lab.realise(outcome["widths"])
        names = [group.name for group in problem.graph.groups]
        full = [group.width for group in problem.graph.groups]
        own = {
            "source": source,
            "target": outcome["target"],
            "held_out_accuracy": outcome["accuracy"],
            "reward": outcome["reward"],
            "strategy": [width / of for width, of in zip(outcome["widths"], full, strict=True)],
            "d_primes": list(outcome["widths"]),
            "groups": names,
        }
        return Decision(plan, weights, own, lab.env.rounding_step(outcome["widths"]))

    def _candidates(self, lab: "Lab", agent: DDPG, seen: JSON, budget: Budget) -> list[tuple[str, JSON]]:
        """Scored strategies that meet the budget: uniform widths, what the search saw best for each of its targets,
        the policy's own answer, and noisy ones around it.

        Raises:
            InputError: the budget is out of reach.
        """
        env, full = lab.env, lab.problem.cost.full_widths
        walks: dict[str, Callable[[float], tuple[int, ...]]] = {"uniform": env.uniform_widths}
        for trained, outcome in seen.items():
            walks[f"best seen for {trained}"] = partial(_replay, env, tuple(outcome["widths"] / full))
        walks["policy's"] = partial(_walk, env, agent_policy(agent))
        for index in range(self.rollouts):
            seed = derive_seed(lab.problem.seed, "rollout", index)
            walks[f"policy's noisy (no. {index + 1})"] = partial(
                _walk, env, agent_policy(agent, self.rollout_sigma, seed)
            )
        if budget.kind == "percent":
            shares = _reaching(lab, budget.value, walks)
        else:
            shares = dict.fromkeys(walks, preserve_ratio(budget, lab.problem.cost))
        found = []
        for name, share in shares.items():
            widths = walks[name](share)
            env.reset(options={"target": share})
            found.append((name, {**env.outcome(widths), "target": share}))
        return found


def _walk(env: ChannelEnv, policy: Policy, target: float) -> tuple[int, ...]:
    return env.walk(target, policy)


def _replay(env: ChannelEnv, shares: tuple[float, ...], target: float) -> tuple[int, ...]:
    return env.walk(target, lambda step, observation: shares[step])


def _reaching(lab: "Lab", percent: float, walks: dict[str, Callable[[float], tuple[int, ...]]]) -> dict[str, float]:
    """For each policy that can, the share of MACs at which it removes this share of the channels.

    Raises:
        InputError: none can; names what the bounds allow.
    """
    low, high = lab.env.reachable
    found: dict[str, float] = {}
    reached: list[float] = []
    for name, walk in walks.items():
        removed = {share: lab.removed(walk(share)) for share in np.linspace(low, high, PERCENT_STEPS).tolist()}
        best = min(removed, key=lambda share: abs(removed[share] - percent))
        reached += removed.values()
        if abs(removed[best] - percent) <= PERCENT_SLACK:
            found[name] = best
    if not found:
        raise InputError(
            f"percent={percent:g} is out of reach: with method.lbound, method.rbound and method.round_to as they "
            f"are, between {min(reached):.3f} and {max(reached):.3f} of the channels can go"
        )
    return found


class Lab:
    """A network made ready for a search: calibrated least squares, held-out scores of any widths, the environment."""

    def __init__(self, settings: Camc, problem: Problem) -> None:
        self.settings, self.problem = settings, problem
        model = problem.model.to(problem.device).eval()
        self.orders = channel_orders(model, problem.graph)
        data, device = problem.data, problem.device
        seed = derive_seed(problem.seed, "calibration")
        images = (x for x, _ in data.drawn("train", settings.calibration_images, 256, seed, device))
        generator = torch.Generator().manual_seed(seed)
        grams = gram_matrices(model, problem.graph, images, settings.calibration_points, generator)
        self._masks = Masks(model, problem.graph)
        self._reconstructor = Reconstructor(model, problem.graph, grams, self.orders)
        self._held_out = list(data.drawn("held_out", settings.reward_images, 512, seed, device))
        self._scores: dict[tuple[int, ...], float] = {}
        self.env = ChannelEnv(
            model,
            problem.graph,
            problem.cost,
            self.accuracy,
            settings.reward,
            lbound=settings.lbound,
            rbound=settings.rbound,
            round_to=settings.round_to,
            budget_mode=settings.budget_mode,
            targets=settings.targets,
        )

    def new_agent(self) -> DDPG:
        seed = derive_seed(self.problem.seed, "agent")
        spaces = self.env.observation_space.shape[0], self.env.action_space.shape[0]
        return DDPG(*spaces, self.settings.agent, seed)

    def layer_table(self) -> list[list[Any]]:
        """What an agent's decisions refer to: the groups and their widths."""
        return [[group.name, group.width] for group in self.problem.graph.groups]

    def kept(self, widths: tuple[int, ...]) -> dict[str, Tensor]:
        groups = self.problem.graph.groups
        return {g.name: self.orders[g.name][:width].sort().values for g, width in zip(groups, widths, strict=True)}

    def plan_of(self, widths: tuple[int, ...]) -> Plan:
        return plan_of(self.problem.graph, self.orders, widths)

    def realise(self, widths: tuple[int, ...]) -> tuple[Plan, dict[str, Tensor]]:
        """The plan of these widths and the refitted weights that go with it."""
        return self.plan_of(widths), self._reconstructor.weights(self.kept(widths))

    def accuracy(self, widths: tuple[int, ...]) -> float:
        """Held-out accuracy in percent, without fine-tuning; the same widths are scored once."""
        if widths not in self._scores:
            plan, weights = self.realise(widths)
            with self._masks(plan, weights) as model:
                self._scores[widths] = getattr(accuracy(model, self._held_out), self.settings.acc_metric)
        return self._scores[widths]

    def removed(self, widths: tuple[int, ...]) -> float:
        """Share of channels that these widths take away."""
        return removed_percent(self.problem.graph, self.plan_of(widths))
