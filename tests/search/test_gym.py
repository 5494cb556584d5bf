"""Searches as environments of Gymnasium: both checkers, the budget in each episode, agents of another library."""

import re
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import zoo

import compress
from compress.errors import InputError
from compress.graph.build import channel_graph
from compress.measure.accuracy import Score
from compress.prune.cost import cost_model
from compress.prune.counters import counted_price
from compress.prune.method import Problem
from compress.schema.settings import Budget
from compress.search.feasible import Feasible, feasible
from compress.search.space import WidthSpace, multiples_space, shares_space

gymnasium = pytest.importorskip("gymnasium")
from compress.search.gym import WidthEnv  # noqa: E402

SHAPE = (3, 32, 32)
RULES = ("projected", "walls")
BUDGETS = {
    "share": (Budget("preserve_ratio", 0.4), "macs"),
    "limit": (Budget("flops_limit", 15.0), "fvcore"),
    "channels": (Budget("percent", 0.45), "macs"),
}


class Wide:
    """A scorer that only looks at widths: the mean kept share, in percent."""

    def __init__(self, full: np.ndarray) -> None:
        self.full = full
        self.asked: list[tuple[int, ...]] = []

    def score(self, widths: tuple[int, ...], least_top1: float = 0.0) -> Score:
        self.asked.append(widths)
        share = 100 * float((np.array(widths) / self.full).mean())
        return Score(share, min(100.0, share + 5), 1.0)


@cache
def problem() -> Problem:
    model = zoo("resnet20", SHAPE)
    graph = channel_graph(model, SHAPE)
    any_: Any = None
    return Problem(model, graph, cost_model(model, graph, SHAPE), any_, BUDGETS["share"][0], any_, 0)


def allowed(budget: Budget, counter: Any, space: WidthSpace, band: float | None = None) -> Feasible:
    of = replace(problem(), budget=budget)
    return feasible(space, of.ceilings(counted_price(counter, of.model, of.graph, of.cost, SHAPE)), band)


def make_env(rule: Any = "projected", name: str = "share", shares: bool = False, **more: Any) -> WidthEnv:
    of = problem()
    space = shares_space(of.model, of.graph) if shares else multiples_space(of.graph, 4, 0.2)
    budget, counter = BUDGETS[name]
    budgets = {budget.value: allowed(budget, counter, space, 0.0)}
    return WidthEnv(of, **({"budgets": budgets, "scorer": Wide(of.cost.full_widths), "rule": rule} | more))


def several() -> dict[float, Feasible]:
    space = multiples_space(problem().graph, 4, 0.2)
    return {share: allowed(Budget("preserve_ratio", share), "macs", space) for share in (0.3, 0.5, 0.7)}


def largest_step(within: Feasible, gene: np.ndarray) -> float:
    """What it costs at most to make one place wider by one step."""
    wider = []
    for place, options in enumerate(within.space.options):
        other = gene.copy()
        other[place] = min(np.searchsorted(options, options[gene[place]], "right"), len(options) - 1)
        wider.append(other)
    return float((within.prices(np.array(wider)) - within.prices(gene)).max())


def played(env: WidthEnv, random: np.random.Generator | None = None, **how: Any) -> dict[str, Any]:
    """The outcome of an episode of random actions, or of zeros."""
    env.reset(**how)
    while True:
        action = np.zeros(1) if random is None else random.uniform(-1, 1, 1)
        _, _, ended, _, info = env.step(action.astype(np.float32))
        if ended:
            return info


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("budgets", [1, 3])
def test_both_checkers_have_nothing_to_say(rule: str, budgets: int) -> None:
    """Their warnings are errors here. Nothing is drawn, so that the check of render modes has no object."""
    from gymnasium.utils.env_checker import check_env

    checks = pytest.importorskip("stable_baselines3.common.env_checker")
    env = make_env(rule, **({"budgets": several()} if budgets > 1 else {}))
    check_env(env, skip_render_check=True)
    checks.check_env(env)


@pytest.mark.parametrize("shares", [False, True])
@pytest.mark.parametrize("name", BUDGETS)
@pytest.mark.parametrize("rule", RULES)
def test_every_episode_keeps_to_its_budget_and_spends_it(rule: str, name: str, shares: bool) -> None:
    env, random = make_env(rule, name, shares), np.random.default_rng(0)
    within, space = env.budgets[BUDGETS[name][0].value], env.space
    seen = set()
    for _ in range(20):
        outcome = played(env, random)
        gene = space.read(outcome["gene"])
        assert tuple(space.widths(gene)) == outcome["widths"]
        assert outcome["price"] == within.prices(gene)[0] <= within.high
        upper = within.high if rule == "projected" else within.low  # walls hold to both ends
        assert upper - outcome["price"] < largest_step(within, gene)
        seen.add(outcome["widths"])
    assert len(seen) > 10


@pytest.mark.parametrize("rule", RULES)
def test_without_a_lower_end_only_the_walls_let_an_agent_stay_below(rule: str) -> None:
    env = make_env(rule, budgets=several())
    env.reset(options={"budget": 0.5})
    for _ in env.space.options:
        info = env.step(np.array([-1.0], dtype=np.float32))[-1]
    narrowest = tuple(env.space.widths(env.space.narrowest).tolist())
    uniform = tuple(env.space.widths(env.budgets[0.5].uniform()).tolist())
    assert info["widths"] == (narrowest if rule == "walls" else uniform)  # equal preferences are none


@pytest.mark.parametrize("name", BUDGETS)
def test_no_preference_is_uniform_widths_and_has_a_reward_of_one(name: str) -> None:
    env = make_env("projected", name)
    outcome = played(env)
    gene = env.budgets[BUDGETS[name][0].value].uniform()
    assert outcome["gene"] == gene.tolist()
    assert outcome["reward"] == 1
    assert env.evaluations == 1


def test_a_larger_action_asks_for_more_and_reach_says_how_much() -> None:
    def widths(env: WidthEnv) -> np.ndarray:
        env.reset()
        for place in range(len(env.space.options)):
            info = env.step(np.array([1.0 if place < 5 else -1.0]))[-1]
        return np.array(info["widths"]) / problem().cost.full_widths

    mild, strong = (widths(make_env(reach=reach)) for reach in (0.1, 1.0))
    assert (strong[:5] >= mild[:5]).all()
    assert (strong[5:] <= mild[5:]).all()
    assert strong[:5].mean() > mild[:5].mean() + 0.1
    walled = widths(make_env("walls"))
    assert (walled[:3] == 1).all()
    assert (walled[5:] <= strong[5:]).all()


@pytest.mark.parametrize("rule", RULES)
def test_an_episode_is_rewarded_once_at_its_end_relative_to_uniform_widths(rule: str) -> None:
    env, random = make_env(rule), np.random.default_rng(1)
    env.reset()
    rewards = []
    for _ in env.space.options:
        *_, info = step = env.step(random.uniform(-1, 1, 1))
        rewards.append(step[1])
    assert rewards[:-1] == [0.0] * 11
    uniform = tuple(env.space.widths(env.budgets[0.4].uniform()).tolist())
    full = problem().cost.full_widths
    own, reference = (100 * float((np.array(widths) / full).mean()) for widths in (info["widths"], uniform))
    assert rewards[-1] == info["reward"] == pytest.approx(own / reference)
    assert info["top1"] == pytest.approx(own)
    assert info["top5"] == pytest.approx(own + 5)
    assert info["ratio"] == pytest.approx(problem().cost.macs([info["widths"]])[0] / problem().cost.full_macs)


def test_uniform_widths_that_get_nothing_right_divide_by_one_percent() -> None:
    env = make_env()
    env.scorer.score = lambda widths: Score(0.5, 5.0, 2.3)  # type: ignore[method-assign]
    assert played(env)["reward"] == 0.5


def test_no_widths_are_scored_twice_and_the_best_is_kept() -> None:
    env, random = make_env("walls"), np.random.default_rng(0)
    rewards = [played(env, random)["reward"] for _ in range(10)]
    played(env, np.random.default_rng(0))
    assert len(env.scorer.asked) == len(set(env.scorer.asked)) == env.evaluations  # type: ignore[attr-defined]
    assert env.best[0.4]["reward"] == max(rewards)


@pytest.mark.parametrize("rule", RULES)
def test_the_state_tells_place_budget_and_what_is_removed_and_removable(rule: str) -> None:
    env = make_env(rule, budgets=several())
    of = problem()
    first, info = env.reset(options={"budget": 0.5})
    least = of.cost.macs([env.space.widths(env.space.narrowest)])[0] / of.cost.full_macs
    assert info == {"budget": 0.5}
    assert first[7:] == pytest.approx([0.5, 0, 1 - least, 1])
    second = env.step(np.zeros(1))[0]
    width = round(second[10] * of.cost.full_widths[0])
    kept = [[width, *of.cost.full_widths[1:]], [width, *env.space.widths(env.space.narrowest)[1:]]]
    shares = of.cost.macs(kept) / of.cost.full_macs
    assert second[8:10] == pytest.approx([1 - shares[0], shares[0] - shares[1]], abs=1e-6)
    assert 0 < width < of.cost.full_widths[0]
    assert second[0] > first[0]


def test_a_place_that_decides_several_groups_is_one_step() -> None:
    of = problem()
    each = multiples_space(of.graph, 4, 0.2)
    places = (0, 1, 0, *range(2, len(of.graph) - 1))  # the third group has the width of the first
    options = [each.options[places.index(place)] for place in range(len(of.graph) - 1)]
    space = WidthSpace(each.groups, options, tuple(range(len(options))), places)
    for rule in RULES:
        env = make_env(rule, budgets={0.4: allowed(Budget("preserve_ratio", 0.4), "macs", space, 0.0)})
        outcome = played(env, np.random.default_rng(0))
        assert len(outcome["gene"]) == len(of.graph) - 1
        assert outcome["widths"][0] == outcome["widths"][2]
        assert tuple(space.widths(space.read(outcome["gene"]))) == outcome["widths"]


def test_one_seed_is_one_sequence_of_budgets_and_episodes() -> None:
    env = make_env(budgets=several())
    drawn = [[env.reset(seed=3 if at == 0 else None)[1]["budget"] for at in range(20)] for _ in range(2)]
    assert drawn[0] == drawn[1]
    assert set(drawn[0]) == {0.3, 0.5, 0.7}
    one, other = (played(env, np.random.default_rng(5), seed=1) for _ in range(2))
    assert one == other
    with pytest.raises(InputError, match=re.escape("budget=0.4: must be one of 0.3, 0.5, 0.7")):
        env.reset(options={"budget": 0.4})


def test_a_step_needs_an_episode_and_one_finite_number() -> None:
    env = make_env()
    with pytest.raises(gymnasium.error.ResetNeeded, match="call reset"):
        env.step(np.zeros(1))
    played(env)
    for _ in range(2):
        with pytest.raises(gymnasium.error.ResetNeeded, match="call reset"):
            env.step(np.zeros(1))
    env.reset()
    for wrong in (np.zeros(2), np.array([np.nan])):
        with pytest.raises(InputError, match="must be one number in"):
            env.step(wrong)


# -- of a run --------------------------------------------------------------------------------------------------------

SMALL = ("experiment=quick", "device=cpu", "model=resnet20", "pretrain.epochs=1")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The setting of a folder whose cache has the network of SMALL."""
    outputs = f"outputs={tmp_path_factory.mktemp('gym')}"
    compress.environment("method=sample", *SMALL, outputs)
    return outputs


@pytest.mark.slow
@pytest.mark.parametrize("name", ["DDPG", "TD3", "SAC"])
def test_agents_of_another_library_train_in_it(name: str, trained: str) -> None:
    agents = pytest.importorskip("stable_baselines3")
    env = compress.environment("method=sample", *SMALL, trained, budgets=[0.3, 0.5])
    getattr(agents, name)("MlpPolicy", env, seed=0, learning_starts=180, device="cpu").learn(200)
    assert set(env.best) == {0.3, 0.5}
    assert 8 <= env.evaluations <= 19
    for budget, best in env.best.items():
        assert 0.9 * budget < best["ratio"] <= budget
        assert best["reward"] > 0.5


def test_the_lines_of_the_docs_train_an_agent(trained: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("stable_baselines3")
    page = (Path(__file__).parents[2] / "docs" / "search.md").read_text()
    (lines,) = [code for code in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "environment" in code]
    made = compress.environment
    monkeypatch.setattr(compress, "environment", lambda *asked: made(*asked, *SMALL, trained), raising=False)
    assert "learn(2400)" in lines
    exec(lines.replace("learn(2400)", "learn(24)"), names := {})
    assert names["env"].evaluations == 3  # two episodes, uniform widths


def test_it_has_the_space_budget_and_scorer_of_the_method_and_reuses_what_the_command_trained(trained: str) -> None:
    outputs = Path(trained.removeprefix("outputs="))
    before = {path: path.stat().st_mtime for path in outputs.rglob("model.safetensors")}
    assert len(before) == 1
    for method, scorer, round_to in (("amc", "refit", 4), ("camc", "refit", 4), ("sample", "recalibrate", 4)):
        env = compress.environment(f"method={method}", *SMALL, trained, "flops_limit=1.0", rule="walls")
        assert env.scorer.name == scorer
        assert list(env.budgets) == [1.0]
        assert played(env)["price"] <= 1e6
        assert all(width % round_to == 0 for options in env.space.options for width in options)
    assert {path: path.stat().st_mtime for path in outputs.rglob("model.safetensors")} == before
    assert not list(outputs.rglob("summary.json"))
    assert {path.name.split("-")[0] for path in (outputs / "cache").iterdir()} == {"pretrain", "scores"}


@pytest.mark.slow
def test_a_supernet_is_trained_for_it(trained: str) -> None:
    brief = ("method.training.epochs=1", "method.least_over_chance=0")
    env = compress.environment("method=supernet", *SMALL, trained, *brief, "percent=0.4")
    assert env.scorer.name == "supernet"
    outcome = played(env, np.random.default_rng(0))
    full = int(env.space.widths(env.space.widest).sum())
    assert outcome["price"] == sum(outcome["widths"]) <= full - int(full * 0.4)
    gene = ",".join(map(str, outcome["gene"]))
    with pytest.raises(InputError, match=r"method\.gene=\[.*\]: widths that are given leave nothing to search"):
        compress.environment("method=supernet", *SMALL, trained, f"method.gene=[{gene}]")


def test_without_the_extra_one_line_tells_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("compress.search.gym", "compress.config.environment"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    monkeypatch.setitem(sys.modules, "gymnasium", None)
    with pytest.raises(InputError) as raised:
        compress.environment("method=sample")
    assert raised.value.problems == ('an environment needs gymnasium; pip install "compress-lab[gym]"',)


@pytest.mark.parametrize(
    ("overrides", "more", "told"),
    [
        (["method=slimming"], {}, "method=slimming: does not search widths; use sample, amc, camc"),
        (["preserve_ratio=2"], {}, "preserve_ratio=2: must be"),
        (["preserve_ration=0.5"], {}, "unknown key preserve_ration; did you mean preserve_ratio"),
        (["preserve_ratio=0.3,0.5"], {}, "preserve_ratio=0.3,0.5: several values are a sweep"),
        (["-m", "preserve_ratio=0.5"], {}, "-m: is an option of the command; give settings only"),
        (["preserve_ratio=0.001"], {}, "preserve_ratio=0.001: out of reach"),
        ([], {"rule": "wall"}, "rule=wall: must be one of projected, walls"),
        ([], {"reach": 0}, "reach=0: must be > 0"),
        ([], {"budgets": []}, "budgets=[]: must have at least one value"),
        ([], {"budgets": [0.5, 1.5]}, "preserve_ratio=1.5: must be"),
    ],
)
def test_bad_input_is_one_clear_line(overrides: list[str], more: Any, told: str, tmp_path: Path) -> None:
    with pytest.raises(InputError) as raised:
        compress.environment(*overrides, f"outputs={tmp_path}", "device=cpu", **more)
    assert len(raised.value.problems) == 1
    assert raised.value.problems[0].startswith(told)
    assert not list(tmp_path.iterdir())
