"""The table that the method learns: real scores, a file that is checked, the same after a kill."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import CPU
from torch import nn

from compress.data.memory import MemoryData
from compress.errors import InputError, SettingError
from compress.graph.build import channel_graph
from compress.io.paths import SENSITIVITY
from compress.io.stage_folder import StageFolder
from compress.methods.sensitivity.plots import plots
from compress.methods.sensitivity.sensitivity import Sensitivity
from compress.methods.sensitivity.table_file import read_table
from compress.prune.cost import cost_model
from compress.prune.method import Problem
from compress.report.plot.axes import draw_to_files
from compress.schema.settings import Budget
from compress.search.scorers.recalibrate import RecalibrateScorer, Recalibration

SCORING = Recalibration(images=100, batch_size=50, score_images=100)


def method(**changes: Any) -> Sensitivity:
    settings = {
        "scorer": SCORING,
        "rule": "threshold",
        "measure": "top1",
        "widths_per_group": 2,
        "lbound": 0.2,
        "rbound": 1.0,
        "round_to": 2,
        "counter": "macs",
    }
    return Sensitivity(**(settings | changes))


@pytest.fixture
def problem(tiny: nn.Module, digit_data: MemoryData) -> Problem:
    graph = channel_graph(tiny, digit_data.shape)
    cost = cost_model(tiny, graph, digit_data.shape)
    return Problem(tiny, graph, cost, digit_data, Budget("preserve_ratio", 0.5), CPU, 0)


def learned(problem: Problem, folder: Path, rows: list[Any] | None = None) -> dict[str, Any]:
    folder.mkdir(exist_ok=True)
    return method().learn(problem, StageFolder(folder, [].append if rows is None else rows.append))


def test_the_table_has_the_score_of_every_group_alone(problem: Problem, tmp_path: Path) -> None:
    rows: list[Any] = []
    report = learned(problem, tmp_path / "a", rows)
    groups = [group.width for group in problem.graph]
    space = method()._space(problem.graph)
    table = read_table(tmp_path / "a", space, tuple(groups))
    scorer = RecalibrateScorer(problem, SCORING)
    assert table.dense == scorer.score(tuple(groups))
    for at, curve in enumerate(table.curves):
        assert curve.widths[0] == space.options[at][0]
        for width, score in zip(curve.widths, curve.scores, strict=True):
            assert score == scorer.score((*groups[:at], width, *groups[at + 1 :]))
    assert report["evaluations"] == len(rows) == 1 + sum(len(curve.widths) for curve in table.curves)
    assert rows[-1]["evaluations"] == len(rows)
    assert len(rows) == 1 + 2 * len(groups)


def test_the_chosen_widths_are_scored_as_a_whole(problem: Problem, tmp_path: Path) -> None:
    learned(problem, tmp_path / "a")
    for changes in ({}, {"rule": "greedy"}, {"measure": "loss"}):
        decision = method(**changes).plan(problem, tmp_path / "a")
        own = decision.own
        score = RecalibrateScorer(problem, SCORING).score(tuple(own["widths"]))
        assert score is not None
        assert (own["top1"], own["loss"], own["evaluations"]) == (score.top1, score.loss, 1)
        assert list(problem.graph.widths(decision.plan)) == own["widths"]
        assert problem.cost.macs(np.array([own["widths"]]))[0] <= 0.5 * problem.cost.full_macs
        assert own["thresholds"] == {changes.get("measure", "top1"): max(own["drops"].values())}


def test_resumed_the_table_is_the_uninterrupted_one(problem: Problem, tmp_path: Path) -> None:
    class KilledError(Exception):
        pass

    class Work(StageFolder):
        left = 4

        def progress(self, state: Any, every_seconds: float = 0) -> None:
            super().progress(state)
            self.left -= 1
            if self.left == 0:
                raise KilledError

    rows: list[Any] = []
    again: list[Any] = []
    report = learned(problem, tmp_path / "whole", rows)
    (tmp_path / "killed").mkdir()
    with pytest.raises(KilledError):
        method().learn(problem, Work(tmp_path / "killed"))
    work = StageFolder(tmp_path / "killed", again.append)
    assert work.resumed is not None
    assert len(work.resumed["scores"]) == len(again) == 4
    assert method().learn(problem, work) == report
    whole, killed = ((tmp_path / name / SENSITIVITY).read_bytes() for name in ("whole", "killed"))
    assert whole == killed
    assert [{**row, "seconds": 0} for row in again] == [{**row, "seconds": 0} for row in rows]


def test_a_file_is_data_and_is_checked(problem: Problem, tmp_path: Path) -> None:
    learned(problem, tmp_path / "a")
    path = tmp_path / "a" / SENSITIVITY
    whole = json.loads(path.read_text())
    first = whole["groups"][0]
    wrong: list[tuple[Any, str]] = [
        ([], "holds no table"),
        ({**whole, "dense": {**whole["dense"], "top1": "NaN"}}, "'NaN' is no finite number"),
        ({**whole, "groups": whole["groups"][1:]}, "of another network"),
        ({**whole, "groups": [{**first, "widths": first["widths"][::-1]}, *whole["groups"][1:]]}, "must ascend"),
        ({**whole, "groups": [{**first, "loss": first["loss"][1:]}, *whole["groups"][1:]]}, "holds no table"),
        ({**whole, "groups": [{**first, "width": 2**20}, *whole["groups"][1:]]}, "of another network"),
    ]
    for content, told in wrong:
        path.write_text(json.dumps(content))
        with pytest.raises(InputError, match=told):
            method().plan(problem, tmp_path / "a")
    path.unlink()
    with pytest.raises(InputError, match="holds no table"):
        method().plan(problem, tmp_path / "a")


def test_other_allowed_widths_need_another_table(problem: Problem, tmp_path: Path) -> None:
    learned(problem, tmp_path / "a")
    with pytest.raises(InputError, match="of other allowed widths"):
        method(lbound=0.5).plan(problem, tmp_path / "a")


def test_bounds_the_wrong_way_round_are_refused() -> None:
    with pytest.raises(SettingError, match="lbound=0.9: must not be above rbound=0.5"):
        method(lbound=0.9, rbound=0.5)


@pytest.mark.parametrize("groups", [3, 40])
def test_the_figure_has_a_line_per_group_and_a_mark_per_chosen_width(groups: int) -> None:
    draw_to_files()
    names = [f"layer{at}" for at in range(groups)]
    report = {"sensitivity": {name: {"width": 8, "widths": [2, 4], "drops": [3.0, 1.0]} for name in names}}
    plan = {"groups": {name: {"width": 8, "kept_width": 3} for name in names}}
    figure = plots([], plan, report)["sensitivity.png"]
    axis = figure.axes[0]
    lines = [line.get_xydata().tolist() for line in axis.get_lines()]
    assert lines.count([[0.25, 3.0], [0.5, 1.0], [1.0, 0.0]]) == groups
    assert lines.count([[0.375, 2.0]]) == groups
    assert (axis.get_legend() is not None) == (groups == 3)
    assert not plots([], plan, {"sensitivity": {}})
