"""Network slimming: train with an L1 penalty on the scales of batch norms, then cut the channels of small scales.

Liu et al., "Learning Efficient Convolutional Networks through Network Slimming", ICCV 2017, arXiv:1708.06519. Where
we differ: any network that the channel graph supports, with scores over coupled scales (`scales`); budgets in MACs as
well as the percentile (`prune.selection`); by default no layer loses all of its channels.
"""

import logging
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import ClassVar, Literal

import torch
from torch import nn

from compress.errors import InputError, SettingError, placed
from compress.graph.plan import Plan
from compress.graph.types import ChannelGraph
from compress.io.files import JSON
from compress.io.seeds import derive_seed
from compress.io.stage_folder import StageFolder
from compress.methods.slimming.penalty import l1_penalty, penalised
from compress.methods.slimming.scales import (
    cfg_of,
    coupled_groups,
    gammas,
    kept_of_norms,
    scores,
    shared_norms,
)
from compress.methods.slimming.strength import doubt
from compress.methods.sparse_plots import plots_of
from compress.methods.sparse_training import diagnosis, distribution, train_sparsely
from compress.prune.method import Decision, Problem, Traits
from compress.prune.scales import Scale, norms_of, scales_of
from compress.prune.scores import Scores
from compress.prune.selection import ceilings_for, check_problem, check_reach, decide, select
from compress.prune.steps import InSteps, ranked
from compress.schema.bounds import Fraction, NonNegative, Positive
from compress.schema.settings import Budget, Recipe
from compress.train.penalty import Penalty

log = logging.getLogger(__name__)

Scales = Mapping[str, tuple[Scale, ...]]
Cfg = list[int | str]

SPARSE = 0.1  # times the median of the kept scales: a threshold above it removes scales that are not near zero

# Settings of `prune` that the cfgs logged in `sparsify` were computed with.
WATCHED_BY = ("coupled", "scope", "select", "on_empty", "min_channels", "round_to", "protect")


@dataclass(frozen=True, kw_only=True)
class Slimming(InSteps):
    """The method `slimming`; conf/method/slimming.yaml explains every setting."""

    l1: NonNegative
    l1_on: Literal["all", "unshared"]
    start: Literal["pretrained", "scratch"]
    start_scale: Positive
    training: Recipe
    watch: list[Fraction]
    linear: bool

    # `plan` reads the weights only: scales trained elsewhere work too
    traits: ClassVar = Traits(
        learns=True, trains="network", plan_only=frozenset(field.name for field in fields(InSteps))
    )
    plots: ClassVar = staticmethod(plots_of("scale", "Scales of the batch norms", "|gamma|"))

    def check(self, problem: Problem) -> Budget:
        scales = self._scales(problem.model, problem.graph)
        scored = scores(problem.model, problem.graph, scales, self.coupled)
        if not scales:
            raise SettingError("slimming: no batch norm scales channels of this network; try filter_magnitude")
        check_problem(self, problem, set(scored))
        return problem.budget

    def _scales(self, model: nn.Module, graph: ChannelGraph) -> Scales:
        return scales_of(model, graph, self.linear)

    # -- learn -------------------------------------------------------------------------------------------------

    def learn(self, problem: Problem, work: StageFolder) -> JSON:
        model, graph = problem.model, problem.graph
        if self.start == "scratch":
            torch.manual_seed(derive_seed(problem.seed, "sparse weights"))
            model.load_state_dict(problem.fresh().state_dict())
            with torch.no_grad():
                for norm in norms_of(model, self.linear).values():
                    norm.get_parameter("weight").fill_(self.start_scale)
        scales = self._scales(model, graph)

        def row(trained: nn.Module) -> JSON:
            scored = scores(trained, graph, scales, self.coupled)
            cfgs = {f"{percent:g}": self._cfg_now(problem, scales, scored, percent) for percent in self.watch}
            return {**distribution("scale", gammas(trained, self.linear)), "cfg": cfgs}

        spared = self._spared(model, graph)
        steps = math.ceil(len(problem.data.split()["train"]) / self.training.batch_size)
        if why := doubt(self.l1, penalised(model, self.linear, spared), self.training, steps):
            log.warning("sparsify: %s", placed(why))
        history = train_sparsely(problem, self.training, self.penalty(problem), row)
        final = row(model)
        log.info(
            "sparsify: median scale %.3g, %.1f %% of the scales below a hundredth of the largest",
            final["scale_median"], 100 * final["scale_small_share"],
        )  # fmt: skip
        # a run with other settings of `prune` may reuse this training and its cfgs
        prune_settings = {name: getattr(self, name) for name in WATCHED_BY}
        return {"made": "sparse-trained network", "l1": self.l1, **history, **final, "watched_by": prune_settings}

    def penalty(self, problem: Problem) -> Penalty:
        return l1_penalty(self.l1, self.linear, self._spared(problem.model, problem.graph), problem.device)

    def _spared(self, model: nn.Module, graph: ChannelGraph) -> Collection[str]:
        """Batch norms that the penalty leaves alone."""
        return shared_norms(graph, self._scales(model, graph)) if self.l1_on == "unshared" else frozenset()

    def _cfg_now(self, problem: Problem, scales: Scales, scored: Scores, percent: float) -> Cfg | None:
        """The cfg that `plan` would give at this share of channels; None where it would raise."""
        graph = problem.graph
        ceilings = ceilings_for(graph, None, Budget("percent", percent), scored)
        try:
            check_reach(self, graph, ceilings, set(scored))
            plan = select(self, graph, ceilings, scored).plan
        except InputError:
            return None
        return self._cfg(problem.model, graph, scales, plan)

    def _cfg(self, model: nn.Module, graph: ChannelGraph, scales: Scales, plan: Plan) -> Cfg:
        return cfg_of(model, kept_of_norms(model, graph, scales, graph.widths(plan), self.linear))

    # -- prune -------------------------------------------------------------------------------------------------

    def plan(self, problem: Problem, learned: Path | None, work: StageFolder | None = None) -> Decision:
        model, graph = problem.model, problem.graph
        scales = self._scales(model, graph)
        scored = ranked(
            problem, lambda of: scores(of.model, of.graph, self._scales(of.model, of.graph), self.coupled)
        )
        decision = decide(self, problem, scored)
        own = {
            "cfg": self._cfg(model, graph, scales, decision.plan),
            **decision.own,
            "coupled": coupled_groups(scales, scored),
            "l1": self.l1 if learned is not None else None,
            "norms": self._norms(model, graph, scales, graph.widths(decision.plan)),
        }
        return replace(decision, own=own, warnings=[*decision.warnings, *diagnosis(decision, "scale", "l1", SPARSE)])

    def _norms(self, model: nn.Module, graph: ChannelGraph, scales: Scales, widths: list[int]) -> JSON:
        """By batch norm: number of entries, of kept entries, smallest, median and largest |gamma|."""
        report = {}
        for name, kept in kept_of_norms(model, graph, scales, widths, self.linear).items():
            gamma = model.get_parameter(f"{name}.weight").detach().abs()
            ends = {"min": float(gamma.min()), "median": float(gamma.median()), "max": float(gamma.max())}
            report[name] = {"total": len(gamma), "kept": kept, **ends}
        return report
