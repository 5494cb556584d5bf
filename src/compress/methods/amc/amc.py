"""amc and camc: an agent (DDPG) decides, group by group, how many channels are kept.

He et al., "AMC: AutoML for Model Compression and Acceleration on Mobile Devices", ECCV 2018, arXiv:1802.03494: one
search per budget. Liu et al., "Conditional Automated Channel Pruning for Deep Neural Networks", IEEE Signal
Processing Letters 2021, arXiv:2009.09724: the target is part of the agent's state, so that one search serves every
budget, including targets it was not trained on, and the cache key of the agent does not contain the budget. Here they
are one class: with `targets` it is camc, without them amc.
"""

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import ClassVar, Literal

from compress.agents.ddpg import DDPGSettings
from compress.agents.preferences import PreferenceSettings
from compress.errors import OWN, InputError, SettingError, settings_under
from compress.io.files import JSON, digest_of, hash_of
from compress.io.paths import AGENT
from compress.io.stage_folder import StageFolder
from compress.io.tensors import read_state
from compress.methods.amc.agent_file import (
    WALLS,
    agent_file,
    check_network,
    read_agent,
    write_agent,
    write_whole_agent,
)
from compress.methods.amc.agent_rule import AgentRule, Kind, Strategy, Wanted
from compress.methods.amc.by_projection import Projected, Training
from compress.methods.amc.by_walls import Walls
from compress.methods.amc.plots import plots
from compress.prune.budget import alone
from compress.prune.cost import CostModel
from compress.prune.criteria.criterion import Criterion
from compress.prune.limits import Limits, told
from compress.prune.method import Decision, Evidence, Problem, Traits
from compress.prune.widths import all_choices, reachable, uniform_widths, uniform_within
from compress.schema.bounds import Count, Natural, NonNegative, Share
from compress.schema.settings import Budget
from compress.search.agent.action_bounds import ActionBounds, BudgetMode, PublishedBounds, RoundedBounds, bias_macs
from compress.search.agent.environment import ChannelEnv, Metric, check_target
from compress.search.agent.episodes import SearchSettings
from compress.search.agent.observations import (
    CleanObserver,
    Encoding,
    Observer,
    PublishedObserver,
    raw_features,
    scaled,
)
from compress.search.agent.projected import ProjectedSettings
from compress.search.agent.rewards import Outcome, Reward
from compress.search.feasible import Feasible, feasible
from compress.search.outcome import within_budget
from compress.search.scorers.refit import CalibrationSettings, RefitScorer
from compress.search.space import multiples_space
from compress.search.strategy import layer_form, read_strategy, widths_of

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Amc(Limits):
    """The methods `amc` and `camc`; conf/method/amc.yaml and camc.yaml explain every setting."""

    targets: list[Share] | None
    target_encoding: Encoding
    agent_rule: Literal["projected", "walls"]
    agent: str | None
    strategy: list[float] | str | None
    lbound: Share
    rbound: Share
    round_to: Count
    rounding: Literal["within", "up"]
    budget_mode: BudgetMode
    state: Literal["clean", "original"]
    acc_metric: Metric
    reward_images: Count
    reward: Reward
    criterion: Criterion | None = None
    candidates: list[Kind]
    rollouts: Natural
    rollout_sigma: NonNegative
    calibration: CalibrationSettings
    search: SearchSettings
    ddpg: DDPGSettings
    projected: ProjectedSettings
    policy: PreferenceSettings

    plots: ClassVar = staticmethod(plots)

    def __post_init__(self) -> None:
        problems = []
        if self.targets is not None and (not self.targets or sorted(set(self.targets)) != self.targets):
            problems.append(f"{OWN}targets={self.targets}: must be ascending shares of MACs, each once")
        if self.lbound > self.rbound:
            problems.append(f"{OWN}lbound={self.lbound}: must not be above {OWN}rbound={self.rbound}")
        if not self.candidates:
            problems.append(f"{OWN}candidates=[]: must name at least one of uniform, seen, same_target, policy")
        if self.agent is not None and self.strategy is not None:
            problems.append(f"{OWN}agent and {OWN}strategy: give only one, the strategy or who decides it")
        if self.targets is None and self.target_encoding != "none":
            problems.append(
                f"{OWN}target_encoding={self.target_encoding}: without {OWN}targets there is nothing to tell; "
                f"use {OWN}target_encoding=none, or the method camc"
            )
        problems += self._unread()
        if told(self) and (self.rounding == "up" or self.state == "original"):
            problems.append(f"{told(self)}: {OWN}rounding=up and {OWN}state=original know no limits; leave them out")
        for read in (self._read_agent, self._read_strategy):
            try:
                read()
            except InputError as error:
                problems += error.lines
        if problems:
            raise SettingError(*problems)

    def _unread(self) -> list[str]:
        """Problems: settings of the action bounds where there are none."""
        neutral = {"rounding": "within", "budget_mode": "exact", "state": "clean"}
        unread = [key for key, value in neutral.items() if getattr(self, key) != value]
        unread += ["target_encoding"] if self.target_encoding == "onehot" else []
        if self.agent_rule == WALLS or not unread:
            return []
        told = ", ".join(f"{OWN}{key}={getattr(self, key)}" for key in unread)
        return [f"{told}: only {OWN}agent_rule=walls reads it; set that, or leave it out"]

    # -- settings and files --------------------------------------------------------------------------------------

    @property
    def traits(self) -> Traits:
        return Traits(
            learns=True,
            needs_learned=True,
            learns_for_budget=self.targets is None and self.agent is None and self.strategy is None,
            plan_only=frozenset({"candidates", "rollouts", "rollout_sigma"}),
            files=self._digests(),
        )

    def _digests(self) -> Mapping[str, str]:
        digests = {}
        if self.agent is not None:
            digests["agent"] = digest_of(agent_file(self.agent))
        if self.strategy is not None:
            digests["strategy"] = hash_of(self._read_strategy())
        return digests

    def _read_strategy(self) -> list[float] | None:
        return None if self.strategy is None else read_strategy(self.strategy)

    def _read_agent(self) -> JSON | None:
        return None if self.agent is None else read_agent(self.agent, self._made_with(), self._networks)

    @property
    def _networks(self) -> DDPGSettings | PreferenceSettings:
        return self.ddpg if self.agent_rule == WALLS else self.policy

    def _made_with(self) -> JSON:
        """The settings that the shapes and inputs of the agent's networks depend on."""
        made: JSON = {"agent_rule": self.agent_rule, "target_encoding": self.target_encoding}
        if self.agent_rule != WALLS:
            return made | {"policy.hidden": self.policy.hidden}
        made |= {"state": self.state, "ddpg.hidden": self.ddpg.hidden}
        return made | ({"targets": self.targets} if self.target_encoding == "onehot" else {})

    # -- checks before the run ----------------------------------------------------------------------------------

    def check(self, problem: Problem) -> Budget:
        """As of every method; a given strategy replaces a default budget by the share of MACs that it keeps."""
        graph, cost, budget = problem.graph, problem.cost, problem.budget
        given_strategy = self._read_strategy()
        if given_strategy is not None:
            widths = widths_of(graph, cost, given_strategy)
            for group, width in zip(graph, widths, strict=True):
                if width < group.least:
                    raise SettingError(
                        f"{OWN}strategy: keeps {width} channels of {group.name}; {told(self)}: at least {group.least}"
                    )
            own = Budget("preserve_ratio", float(cost.macs(widths)[0] / cost.full_macs))
            return own if budget.is_default else budget
        saved = self._read_agent()
        if saved is not None:
            check_network(f"{OWN}agent={self.agent}", saved, graph)
        options = all_choices(graph, self.round_to, self.lbound, self.rbound)
        reach = reachable(cost, options)
        aim = problem.ceilings().aim
        targets = {f"{OWN}targets={target:g}": target for target in self.targets or ()}
        if aim.is_of_macs and aim.asked <= aim.full:
            targets[str(alone(budget))] = aim.share
        for name, target in targets.items():
            check_target(name, target, reach)
            self._check_target(name, target, cost)
        self.within(problem)  # refuses what is out of reach in any unit
        share = self._share_of(problem)
        if share not in targets.values():
            self._check_target(f"{budget} comes to about {share:.4f} of the MACs", share, cost)
        return budget

    def _check_target(self, name: str, target: float, cost: CostModel) -> None:
        """
        Raises:
            InputError: the encoding cannot express the target, the reward is not defined for it, or no candidate
            serves it.
        """
        if self.candidates == ["same_target"] and target not in (self.targets or [target]):
            raise SettingError(
                f"{name}: {OWN}candidates=[same_target] knows only {self.targets}; add policy to the candidates"
            )
        if self.target_encoding == "onehot" and target not in (self.targets or ()):
            raise SettingError(
                f"{name}: {OWN}target_encoding=onehot tells the agent only of {self.targets}; use one of them, or "
                f"{OWN}target_encoding=scalar"
            )
        probe = Outcome(50.0, 50.0, target, max(1, round(target * cost.full_macs)), cost.full_macs, 1)
        try:
            with settings_under("reward"):
                self.reward(probe)
        except InputError as error:
            raise SettingError(*(f"{name}: {line}" for line in error.lines)) from None

    # -- learn -------------------------------------------------------------------------------------------------

    def learn(self, problem: Problem, work: StageFolder) -> JSON:
        if self.strategy is not None:
            return {"made": "given strategy", "episodes": 0}
        saved = self._read_agent()
        if saved is not None:
            write_whole_agent(work.folder, saved)
            return {"made": "agent of an earlier run", "source": self.agent, "episodes": 0}
        _, env = self._ready(problem)
        agent, targets = self._agent(problem, env), self._targets(problem)
        best = agent.train(work)
        write_agent(work.folder, agent.state(), best, problem.graph, self._made_with() | {"targets": self.targets})
        evaluations = len(env.evaluated)
        answers = {target: agent.answer(target) for target in targets}
        constant = {target: agent.constant(target) for target in targets}
        warnings = [CONSTANT.format(agent.constant_action)] if answers == constant else []
        for line in warnings:
            log.warning("sparsify: %s", line)

        def reported(strategies: Mapping[float, Strategy]) -> JSON:
            return {f"{t:g}": _report(problem, env.scored(widths, t)) for t, widths in strategies.items()}

        return {
            "made": "agent",
            "agent_rule": self.agent_rule,
            "episodes": self.search.episodes,
            "evaluations": evaluations,
            "groups": [group.name for group in problem.graph],
            "best": {f"{target:g}": _report(problem, outcome) for target, outcome in best.items()},
            "policy": reported(answers),
            "constant": reported(constant),
            "warnings": warnings,
        }

    def _targets(self, problem: Problem) -> list[float]:
        return self.targets or [self._share_of(problem)]

    def _ready(self, problem: Problem) -> tuple[RefitScorer, ChannelEnv]:
        """The network calibrated and scored, and the environment under the rules that are set."""
        scorer = self.scorer_of(problem, None)
        graph, cost, model = problem.graph, problem.cost, problem.model
        choices = all_choices(graph, self.round_to, self.lbound, self.rbound)
        published = PublishedBounds(
            cost, bias_macs(model, graph), lbound=self.lbound, rbound=self.rbound, round_to=self.round_to,
            mode=self.budget_mode,
        )  # fmt: skip
        bounds: ActionBounds = published if self.rounding == "up" else RoundedBounds(cost, choices, self.budget_mode)
        targets = self._targets(problem)
        state: Observer = (
            PublishedObserver(model, graph, published, self.target_encoding, targets, lbound=self.lbound)
            if self.state == "original"
            else CleanObserver(model, graph, cost, choices, self.target_encoding, targets)
        )
        return scorer, ChannelEnv(cost, choices, state, bounds, scorer.score, self.reward, self.acc_metric)

    def within(self, problem: Problem) -> Feasible:
        """What the budget allows agents of other libraries (`compress.search.gym`)."""
        space = multiples_space(problem.graph, self.round_to, self.lbound, self.rbound)
        band = 0.0 if self.budget_mode == "exact" else None
        return within_budget(problem, space, "macs", band)

    def scorer_of(self, problem: Problem, learned: Path | None) -> RefitScorer:
        return RefitScorer(problem, self.calibration, self.reward_images)

    def _agent(self, problem: Problem, env: ChannelEnv) -> AgentRule:
        targets, seed = self._targets(problem), problem.seed
        if self.agent_rule == WALLS:
            return Walls(env, problem.ceilings(), targets, self.search, self.ddpg, seed)
        space = multiples_space(problem.graph, self.round_to, self.lbound, self.rbound)
        allowed = partial(feasible, space, problem.ceilings())
        features = scaled(raw_features(problem.model, problem.graph), constant="zero")
        training = Training(targets, self.search.episodes, self.search.uniform_first, for_budget=self.targets is None)
        return Projected(
            env, space, allowed, features, self.target_encoding, training, self.projected, self.policy, seed
        )

    def _share_of(self, problem: Problem) -> float:
        """The target share of MACs of a budget: its own, if it limits MACs and nothing beside it binds; else that of
        the uniform widths within all limits."""
        ceilings, cost = problem.ceilings(), problem.cost
        options = all_choices(problem.graph, self.round_to, self.lbound, self.rbound)
        aim = ceilings.aim
        if aim.is_of_macs and ceilings.fits(uniform_widths(cost, options, aim.share))[0]:
            return aim.share
        return float(cost.macs(uniform_within(cost.full_widths, options, ceilings.fits))[0] / cost.full_macs)

    # -- prune -------------------------------------------------------------------------------------------------

    def plan(self, problem: Problem, learned: Path | None, work: StageFolder | None = None) -> Decision:
        scorer, env = self._ready(problem)
        given_strategy = self._read_strategy()
        if given_strategy is not None:
            candidates = [("given", _unrewarded(scorer, widths_of(problem.graph, problem.cost, given_strategy)))]
        else:
            assert learned is not None
            candidates = [
                (name, env.scored(widths, target)) for name, widths, target in self._candidates(problem, env, learned)
            ]
        # rewards are comparable at one target only
        criterion = "reward" if len({outcome["target"] for _, outcome in candidates}) == 1 else self.acc_metric
        source, outcome = max(candidates, key=lambda named: named[1][criterion])
        log.info(
            "prune: %s by the strategy '%s': %.4f of the MACs, held-out %s %.2f %% before fine-tuning",
            problem.budget, source, outcome["ratio"], self.acc_metric, outcome[self.acc_metric],
        )  # fmt: skip
        plan, weights = scorer.realise(outcome["widths"])
        own = {
            "source": source,
            **_report(problem, outcome),
            "groups": [group.name for group in problem.graph],
            "candidates": {name: {key: other[key] for key in CANDIDATE} for name, other in candidates},
            "evaluations": len({other["widths"] for _, other in candidates}),
        }
        choices = env.choices if given_strategy is None else None  # a given one need not keep to round_to
        step = problem.ceilings().aim.step(env.choices, outcome["widths"])
        evidence = Evidence(choices=choices, refit=scorer.refit, rounding_step=step)
        return Decision(plan, weights, own=own, evidence=evidence)

    def _candidates(self, problem: Problem, env: ChannelEnv, learned: Path) -> Iterator[tuple[str, Strategy, float]]:
        """Name, widths and target of what is scored for the budget, by the agent in the folder `learned`."""
        saved = read_state(learned / AGENT)
        check_network(str(learned), saved, problem.graph)
        agent = self._agent(problem, env)
        agent.load(saved, str(learned))
        wanted = Wanted(self.candidates, self.rollouts, self.rollout_sigma, is_foreign=self.agent is not None)
        share = self._share_of(problem)
        return agent.candidates(wanted, saved["best"], share)


CANDIDATE = ("ratio", "top1", "top5", "reward")  # figures in plan.json of every candidate
CONSTANT = "the policy has become a constant: at every target its own answer is that of {}"


def _report(problem: Problem, outcome: JSON) -> JSON:
    """An outcome for files: its numbers, its widths, and these in the published format."""
    numbers = {key: outcome[key] for key in ("target", "ratio", "top1", "top5", "reward")}
    form = layer_form(problem.graph, problem.cost, outcome["widths"])
    return {**numbers, "widths": list(outcome["widths"]), **form}


def _unrewarded(scorer: RefitScorer, widths: Strategy) -> JSON:
    """The outcome of a given strategy, which has no reward."""
    ratio = float(scorer.problem.cost.macs(widths)[0] / scorer.problem.cost.full_macs)
    score = scorer.score(widths)
    assert score is not None
    return {"widths": widths, "target": ratio, "top1": score.top1, "top5": score.top5, "ratio": ratio, "reward": None}
