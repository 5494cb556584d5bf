"""Budgets of any unit, and several at once: never above one, the tightest spent to a step, and larger never narrower.
On seeded random networks, for everything that chooses widths."""

from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from conftest import CPU, make_recipe
from torch import nn

from compress.errors import InputError, SettingError
from compress.graph.build import channel_graph
from compress.methods.filter_magnitude import FilterMagnitude
from compress.prune.budget import Ceilings, ceilings_of, prices, verdict
from compress.prune.controls import Control, controlled
from compress.prune.cost import CostModel, cost_model
from compress.prune.latency.prediction import LatencyModel, Table
from compress.prune.latency.runtime import Where
from compress.prune.method import Problem
from compress.prune.widths import Choices, all_choices, ends, uniform_within
from compress.run.job import make_problem
from compress.schema.settings import BUDGETS, Budget, budget_of
from compress.search.feasible import Feasible, feasible
from compress.search.projection import projected
from compress.search.sampling import draw
from compress.search.sensitivity import RULES
from compress.search.space import multiples_space

SHAPE = (3, 6, 6)
SEEDS = range(8)
FILTERS = FilterMagnitude(
    norm="l1", sides="both", normalise="mean", scope="global", select="rank", on_empty="keep_max", min_channels=1,
    round_to=1, coupled="sum", refit_images=0, schedule="one-shot", steps=1, retraining=make_recipe(),
)  # fmt: skip


def random_network(random: np.random.Generator) -> nn.Sequential:
    """A chain of convolutions, some with a batch norm, and a linear layer."""
    sizes = [3, *random.integers(3, 14, random.integers(2, 5)).tolist()]
    layers: list[nn.Module] = []
    for a, b in pairwise(sizes):
        kernel = int(random.choice([1, 3]))
        layers += [
            nn.Conv2d(a, b, kernel, padding=kernel // 2),
            *([nn.BatchNorm2d(b)] if random.random() < 0.5 else []),
        ]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(sizes[-1], 5))


def random_problem(seed: int) -> Problem:
    """A network and from one to all kinds of budgets, each within reach."""
    random = np.random.default_rng(seed)
    torch.manual_seed(seed)
    model = random_network(random)
    data: Any = type("Data", (), {"shape": SHAPE})()
    problem = make_problem(model, data, Budget("preserve_ratio", 1), CPU, seed, lambda: model)
    made = latency_of(problem.cost, random)
    problem = replace(problem, latency=lambda: made)
    kinds = random.permutation(BUDGETS)[: random.integers(1, len(BUDGETS) + 1)].tolist()
    return replace(problem, budget=random_budget(problem, kinds, random))


def latency_of(cost: CostModel, random: np.random.Generator) -> LatencyModel:
    """Every layer takes longer the wider it is, by a random table."""
    ends = [
        of(np.stack([np.ones_like(cost.full_widths), cost.full_widths]))
        for of in (cost.layer_inputs, cost.layer_outputs)
    ]
    tables = []
    for layer in range(ends[0].shape[1]):
        i, o = (
            np.unique([least, (least + most) // 2, most])
            for least, most in (side[:, layer].tolist() for side in ends)
        )
        tables.append(Table(i, o, random.uniform(0.1, 1, (len(i), len(o))).cumsum(0).cumsum(1), (layer,)))
    return LatencyModel(cost, tuple(tables), Where(CPU, "torch", 1, 1), 0.2, 1.5)


def random_budget(problem: Problem, kinds: list[Any], random: np.random.Generator) -> Budget:
    given = {}
    for kind in kinds:
        limit = replace(problem, budget=Budget(kind, 0.5)).ceilings().aim
        low = float(limit.price(np.ones((1, len(problem.graph)), dtype=np.int64))[0]) / limit.full
        share = random.uniform(low + 0.02, 1)
        given[kind] = {"preserve_ratio": share, "percent": 1 - share}.get(kind, share * limit.full / 1e6)
    return budget_of(given)


def is_spent(ceilings: Ceilings, options: Choices, widths: Any) -> bool:
    """Whether a step of some group would break a limit, or there is none left."""
    wider = [
        [*widths[:at], int(allowed[allowed > widths[at]][0]), *widths[at + 1 :]]
        for at, allowed in enumerate(options)
        if (allowed > widths[at]).any()
    ]
    return not wider or not ceilings.fits(wider).all()


@pytest.mark.parametrize("seed", SEEDS)
def test_whoever_chooses_keeps_every_limit_and_spends_the_tightest(seed: int) -> None:
    problem = random_problem(seed)
    ceilings, graph = problem.ceilings(), problem.graph
    options = all_choices(graph, 1)
    space = multiples_space(graph, 1)
    within, random = feasible(space, ceilings, 0.05), np.random.default_rng(seed)
    drops = [np.sort(random.uniform(0, 9, len(widths)))[::-1] for widths in space.options]
    chosen = {
        "uniform": uniform_within(problem.cost.full_widths, options, ceilings.fits),
        **{f"ranked by {scope}": ranked(problem, scope) for scope in ("global", "layer", "isomorphic")},
        "projected": widths_of(within, projected(space, within.price, within.high, random.normal(size=len(options)))),
        **{str(rule): widths_of(within, RULES[rule](within, drops)) for rule in RULES},
    }
    drawn = space.widths(draw(within, 20, random))
    assert len(chosen) == 7
    for name, widths in chosen.items():
        assert all(limit.fits([widths])[0] for limit in ceilings.beside), name
        if name.startswith("ranked") and problem.budget.kind == "percent":
            continue  # which counts by itself, and by layer is met from both sides
        assert ceilings.fits([widths])[0], name
        assert is_spent(ceilings, options, list(widths)), name
        found = verdict(ceilings, list(widths), options, ceilings.aim.step(options, list(widths)))
        assert found.met, name
        assert not found.broken
    assert ceilings.fits(drawn).all()
    assert (ceilings.price(drawn) >= within.low).all()


def ranked(problem: Problem, scope: Any) -> list[int]:
    return problem.graph.widths(replace(FILTERS, scope=scope).plan(problem, None).plan)


def widths_of(within: Feasible, gene: Any) -> list[int]:
    found: list[int] = within.space.widths(gene).tolist()
    return found


@pytest.mark.parametrize("seed", SEEDS)
def test_a_larger_budget_of_any_kind_narrows_no_group(seed: int) -> None:
    """All limits grow together, by uniform widths and by scores."""
    problem = random_problem(seed)
    before = np.zeros((2, len(problem.graph)), dtype=int)
    for growth in (0.0, 0.2, 0.5, 0.8, 1.0):
        asked = replace(problem, budget=grown(problem, growth))
        options, ceilings = all_choices(problem.graph, 1), asked.ceilings()
        uniform = uniform_within(problem.cost.full_widths, options, ceilings.fits)
        now = np.array([uniform, ranked(asked, "global")])
        assert (now >= before).all()
        before = now
    assert (before == problem.cost.full_widths).all()


def grown(problem: Problem, share: float) -> Budget:
    """The budget, so much of the way to the dense network."""
    ceilings = problem.ceilings()
    given = {}
    for limit in (ceilings.aim, *ceilings.beside):
        kind, value = limit.budget.kind, limit.budget.value
        whole = {"preserve_ratio": 1.0, "percent": 0.0}.get(kind, limit.full / 1e6)
        given[kind] = whole if share == 1 else value + share * (whole - value)
    return budget_of(given)


@pytest.mark.parametrize("seed", SEEDS)
def test_what_is_out_of_reach_is_refused_with_a_bound_that_is_not(seed: int) -> None:
    problem = random_problem(seed)
    options, rest = all_choices(problem.graph, 2), Budget("preserve_ratio", 1.0)
    narrowest = ends(options)[0]
    params = problem.cost.params(narrowest)[0] / 1e6
    for beside in (False, True):
        tight = Budget("params_limit", 0.9 * params)
        asked = replace(problem, budget=replace(rest, beside=(tight,)) if beside else tight)
        with pytest.raises(SettingError, match=r"^params_limit=\S+ M parameters: out of reach") as caught:
            asked.ceilings().check(narrowest)
        told = float(str(caught.value).split("have ")[1].split()[0])
        assert params <= told < params + 1e-4
        with pytest.raises(InputError, match="params_limit"):
            replace(FILTERS, round_to=2).check(asked)


def test_the_aim_is_the_first_that_the_method_takes_and_the_others_are_limits() -> None:
    given = {"flops_limit": 2.0, "percent": 0.3, "params_limit": 1.0}
    budget = budget_of(given, ("flops_limit", "params_limit"))
    assert str(budget) == "flops_limit=2 MMACs beside percent=0.3 and params_limit=1 M parameters"
    assert budget_of(given).kind == "percent"
    assert budget.to_json() == {"kind": "flops_limit", "value": 2.0, "beside": {"percent": 0.3, "params_limit": 1.0}}


def test_which_limit_binds_is_told_by_hand() -> None:
    """Channels of 100 that cost 300 MACs and 4 parameters each, and 2 parameters."""
    model = nn.Sequential(nn.Conv2d(1, 100, 1), nn.ReLU(), nn.Conv2d(100, 2, 1), nn.Flatten())
    graph = channel_graph(model, (1, 10, 10))
    cost = cost_model(model, graph, (1, 10, 10))

    def told(width: int, **given: float) -> tuple[Any, ...]:
        ceilings = ceilings_of(budget_of(given), cost.full_widths, prices(cost))
        found = verdict(ceilings, [width], all_choices(graph, 1), 0.01)
        return found.met, found.binds, found.broken

    assert told(50, preserve_ratio=0.5, params_limit=1) == (True, None, ())
    assert told(30, preserve_ratio=0.5, params_limit=122e-6) == (True, "params_limit", ())
    assert told(29, preserve_ratio=0.5, params_limit=122e-6) == (True, "params_limit", ())  # one step
    assert told(27, preserve_ratio=0.5, params_limit=122e-6) == (False, None, ())
    assert told(31, preserve_ratio=0.5, params_limit=122e-6) == (False, "params_limit", ("params_limit",))
    assert told(50, preserve_ratio=0.5, percent=0.6) == (False, None, ("percent",))
    assert told(40, preserve_ratio=0.5, percent=0.6) == (True, "percent", ())


@pytest.mark.parametrize("seed", SEEDS)
def test_the_uniform_control_keeps_every_limit_too(seed: int) -> None:
    problem = random_problem(seed)
    decision = FILTERS.plan(problem, None)
    widths = [problem.graph.widths(controlled(problem, decision, Control("uniform")).plan)]
    ceilings, own = problem.ceilings(), [problem.graph.widths(decision.plan)]
    assert all(limit.fits(widths)[0] for limit in ceilings.beside)
    if problem.budget.kind != "percent":
        assert ceilings.aim.price(np.array(widths))[0] <= ceilings.aim.price(np.array(own))[0]
