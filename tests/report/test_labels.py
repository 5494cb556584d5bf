"""What runs are called in figures, and that matplotlib shows it."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from compress.report.plot.accuracy_charts import budget_bars, pareto_chart
from compress.report.plot.axes import draw_to_files, literal
from compress.report.plot.labels import LINE, labels_of, run_labels
from compress.report.plot.progress_charts import STROKES, training_curves
from compress.report.read.runs import Run


def run(top1: float = 90.0, percent: float = 0.5, macs: float = 1e6, **settings: Any) -> Run:
    given = {key.replace("__", "."): value for key, value in settings.items()}
    return Run(
        folder=Path("run"),
        settings={"dataset": "digits", "method": "slimming", "method.linear": False} | given,
        results={"finetuned": {"top1": top1, "macs": macs}},
        budget={"asked": {"percent": percent}},
    )


def names(*runs: Run) -> list[str]:
    found = run_labels(runs)
    return [found[id(one)] for one in runs]


@pytest.fixture
def pyplot() -> Iterator[Any]:
    draw_to_files()
    from matplotlib import pyplot

    yield pyplot
    pyplot.close("all")


def test_null_is_a_value_of_its_own() -> None:
    clipped = [run(finetune__clip_norm=value) for value in (1.0, 1.0, None)]
    assert names(*clipped) == ["slimming", "slimming", "slimming, clip_norm null"]
    unclipped = [run(finetune__clip_norm=value) for value in (None, 1.0, None)]
    assert names(*unclipped) == ["slimming", "slimming, clip_norm 1", "slimming"]


def test_a_setting_is_named_only_where_the_method_has_it() -> None:
    runs = [run(method="amc"), run(method__l1=0.1), run(method__l1=0.2), run(method__l1=None)]
    assert names(*runs) == ["amc", "slimming, l1 0.1", "slimming, l1 0.2", "slimming, l1 null"]


def test_most_rows_may_be_controls() -> None:
    assert names(run(), *[run(control="random 1")] * 2) == ["slimming", *["slimming, control random 1"] * 2]


def test_no_name_is_cut_where_it_differs() -> None:
    found = names(*[run(model__widths=[64] * 30 + [at] + [8] * 30) for at in (16, 32, 16, 32)])
    assert found[0] == found[2] != found[1] == found[3]
    assert "64,64,16,8,8" in found[0]
    assert "64,64,32,8,8" in found[1]
    assert all(len(name) <= LINE for name in found)
    ends = [run(method__strategy=f"{at}{'x' * 90}{at}") for at in (1, 2)]  # nothing of them is common
    assert [name.split()[-1] for name in names(*ends)] == [one.settings["method.strategy"] for one in ends]


def test_a_recipe_is_usual_for_its_dataset() -> None:
    small = {"finetune__epochs": 10, "dataset__flip": False}
    large = {"finetune__epochs": 60, "dataset": "cifar10", "dataset__flip": True}
    runs = [run(**small), run(**small), run(**large), run(**large), run(**large | {"finetune__epochs": 5})]
    assert names(*runs) == [
        *["slimming, digits"] * 2, *["slimming, cifar10"] * 2, "slimming, cifar10, epochs 5",
    ]  # fmt: skip


def means(*runs: Run) -> list[int]:
    """How many runs each mean of a figure is over."""
    return [len(group) for group in labels_of(runs).groups(runs).values()]


def test_no_mean_is_over_what_is_not_alike() -> None:
    seeds = [run(seed=at) for at in range(3)]
    assert means(*seeds) == [3]
    best = {"finetuned": {"top1": 90.0, "macs": 1e6, "weights": "best"}}
    for unlike in (
        replace(run(seed=3), fingerprint="others"),
        replace(run(seed=3), results={"pruned": {"top1": 90.0, "macs": 1e6}}),
        replace(run(seed=3), results=best),
        run(seed=3, percent=0.4),
        replace(run(seed=3), budget={"asked": {"percent": 0.5}, "beside": {"params_limit": 0.1}}),
    ):
        one = [replace(each, fingerprint="these") for each in seeds] if unlike.fingerprint else seeds
        assert sorted(means(*one, unlike)) == [1, 3]
    assert names(*seeds, replace(run(seed=3), results=best))[3] == "slimming, weights best"


def test_a_seed_that_was_run_twice_counts_once() -> None:
    assert means(run(seed=0), run(seed=0), run(seed=1)) == [2]
    assert means(run(), run()) == [2]  # seeds that nobody knows


@pytest.mark.parametrize("name", [r"a$\frac$b", "a$b", "_hidden", r"\$x_$"])
def test_names_are_drawn_as_they_are(pyplot: Any, name: str) -> None:
    runs = [run(method=name, dataset=name), run(method="other", dataset=name, macs=2e6)]
    labels = labels_of(runs)
    for figure in (pareto_chart(runs, labels), budget_bars(runs, labels)):
        figure.canvas.draw()
        shown = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
        assert literal(name) in shown


def test_a_front_of_one_mean_is_no_line(pyplot: Any) -> None:
    for macs, there in ((1e6, False), (2e6, True)):
        runs = [run(90.0), run(91.0, percent=0.3, macs=macs)]
        labels = pareto_chart(runs, labels_of(runs)).axes[0].get_legend_handles_labels()[1]
        assert ("front" in labels) == there


def test_every_budget_has_a_stroke_of_its_own(pyplot: Any) -> None:
    assert len(set(STROKES)) == len(STROKES) >= 10
    runs = [run(percent=at / 10) for at in range(1, 10)]
    rows = {id(one): [{"stage": "finetune", "epoch": at, "held_out_top1": 90} for at in (1, 2)] for one in runs}
    lines = training_curves(runs, labels_of(runs), rows).axes[0].lines
    assert len({str(line._unscaled_dash_pattern) for line in lines}) == len(runs)
