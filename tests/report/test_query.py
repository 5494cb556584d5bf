"""Conditions, order, groups, means and the Pareto front, on runs with numbers known by hand."""

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from compress.errors import InputError
from compress.report.read.runs import Run
from compress.report.table.pareto import macs_on_front, pareto_front
from compress.report.table.query import Keys, filtered, group_runs, sort_rows
from compress.report.table.rows import make_table


def run(method: str, seed: int, top1: float, macs: float = 1e6, percent: float | None = 0.5, **settings: Any) -> Run:
    dense = {"top1": 95.0, "macs": 2e6}
    return Run(
        folder=Path(method) / str(seed),
        settings={
            "method": method,
            "finetune.lr": 0.1,
            "pretrain.lr": 0.2,
            "percent": None,
            "seed": seed,
            **settings,
        },
        results={"dense": dense, "finetuned": {"top1": top1, "macs": macs}},
        budget={"asked": {"percent": percent}, "achieved": {"percent": percent}} if percent is not None else {},
    )


RUNS = [run("amc", 0, 90.0), run("amc", 1, 94.0), run("slimming", 0, 80.0, percent=0.3), run("camc", 0, 91.0, 5e5)]
KEYS = Keys(RUNS)


def chosen(*conditions: str) -> list[tuple[str, int]]:
    return [(one.settings["method"], one.settings["seed"]) for one in filtered(RUNS, conditions, KEYS)]


@pytest.mark.parametrize(
    ("conditions", "count"),
    [
        (("method=amc",), 2),
        (("method==amc", "seed=1"), 1),
        (("method=amc,camc",), 3),
        (("method!=amc,camc",), 1),
        (("top1>90",), 2),
        (("top1 >= 90",), 3),
        (("percent<0.5",), 1),
        (("percent=0.50",), 3),
        (("macs<=5e5",), 1),
        (("delta<-10",), 1),
        (("macs_share=0.5",), 3),
        (("finetune.lr=0.1",), 4),
    ],
)
def test_conditions(conditions: tuple[str, ...], count: int) -> None:
    assert len(chosen(*conditions)) == count


@pytest.mark.parametrize(
    ("condition", "says"),
    [
        ("method", "write key=value"),
        ("method=vgg", "no run is left; method is amc, slimming, camc"),
        ("metod=amc", "did you mean method?"),
        ("lr=0.1", "more than one setting is called so: finetune.lr, pretrain.lr"),
        ("method<3", "not a number but amc"),
        ("top1>high", "high is no number"),
        ("preserve_ratio<0.5", "no run is left"),
    ],
)
def test_a_wrong_condition_is_told_in_one_line(condition: str, says: str) -> None:
    with pytest.raises(InputError) as told:
        filtered(RUNS, [condition], KEYS)
    assert says in str(told.value)
    assert "\n" not in str(told.value)
    assert condition.split("=")[0] in str(told.value)


def test_rows_are_sorted_and_what_has_no_value_comes_last() -> None:
    values = [3.0, None, 1.0, 2.0]
    assert sort_rows(values, [(lambda value: value, False)]) == [1.0, 2.0, 3.0, None]
    assert sort_rows(values, [(lambda value: value, True)]) == [3.0, 2.0, 1.0, None]
    words = [("b", 1), ("a", 2), ("a", 1)]
    assert sort_rows(words, [(lambda w: w[0], False), (lambda w: w[1], True)]) == [("a", 2), ("a", 1), ("b", 1)]


def test_the_front_by_hand() -> None:
    points = [(1.0, 90.0), (2.0, 95.0), (2.0, 94.0), (3.0, 95.0), (0.5, None), (0.7, 80.0), (None, 99.0)]
    assert pareto_front(points) == [0, 1, 5]
    assert pareto_front([(1.0, 90.0), (1.0, 90.0)]) == [0, 1]


def test_nothing_on_the_front_is_beaten_and_all_else_is() -> None:
    draw = random.Random(0)
    points = [(draw.randrange(99), draw.randrange(99)) for _ in range(100)]
    best = pareto_front(points)

    def beats(a: tuple[int, int], b: tuple[int, int]) -> bool:
        return a != b and a[0] <= b[0] and a[1] >= b[1]

    for at, point in enumerate(points):
        assert (at in best) == (not any(beats(other, point) for other in points))
    assert 1 < len(best) < 30


def test_means_and_deviations_by_hand() -> None:
    table = make_table(RUNS, KEYS, ["method", "percent"])
    assert [len(row.runs) for row in table.rows] == [2, 1, 1]
    amc, slimming, _ = table.rows
    assert amc.settings == {"method": "amc", "percent": 0.5}
    assert amc.values["top1"] == 92.0
    assert amc.deviations["top1"] == pytest.approx(8**0.5)  # sample: sqrt((4 + 4) / 1)
    assert amc.values["delta"] == -3.0
    assert amc.deviations["macs"] == 0.0
    assert slimming.deviations == {}
    assert group_runs(RUNS, [KEYS.getter("method")])[0] == (RUNS[0], RUNS[1])


def test_a_group_over_two_budgets_has_no_budget_and_says_so() -> None:
    runs = [run("amc", 0, 90.0, percent=0.3), run("amc", 1, 91.0, percent=0.5)]
    (row,) = make_table(runs, Keys(runs), ["method"]).rows
    assert row.values["asked"] is None
    assert not {"asked", "achieved"} & row.deviations.keys()
    assert row.footnotes == ("runs differ in the budget asked (percent 0.3, percent 0.5)",)


def test_a_mean_is_of_all_runs_or_is_not_there() -> None:
    bare = Run(folder=Path("bare"), settings={"method": "amc", "seed": 2}, results={"finetuned": {"top1": 70.0}})
    (row,) = make_table([*RUNS[:2], bare], KEYS, ["method"]).rows
    assert row.values["macs"] is None
    assert row.values["top1"] == pytest.approx((90 + 94 + 70) / 3)


def test_masked_networks_are_on_a_front_only_among_themselves() -> None:
    assert macs_on_front([(10.0, None), (20.0, 4.0), (None, None)]) == [10.0, None, None]
    assert macs_on_front([(20.0, 4.0), (20.0, 9.0)]) == [4.0, 9.0]
    assert macs_on_front([]) == []


def test_seconds_are_those_of_all_stages_and_shares_those_of_the_dense_network() -> None:
    stages = {"pretrain": {"seconds": 3.0}, "prune": {"seconds": 0.5}, "finetune": {"seconds": 2.0}}
    (row,) = make_table([replace(RUNS[3], stages=stages)], KEYS, []).rows
    assert row.values["seconds"] == 5.5
    assert row.values["macs_share"] == 0.25
    assert row.values["delta"] == -4.0
