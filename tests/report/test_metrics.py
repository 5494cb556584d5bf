"""Rows of any method are read by their step: in TensorBoard and in the figures of searches."""

import json
from pathlib import Path
from typing import Any

import pytest
from matplotlib import pyplot

from compress.report.plot.axes import draw_to_files
from compress.report.plot.labels import labels_of
from compress.report.plot.progress_charts import search_curves
from compress.report.read.metrics import RowStep, step_of
from compress.report.read.runs import Run
from compress.report.recorder import Recorder
from compress.report.trackers.in_tensorboard import TensorBoard

ROUND = {"stage": "sparsify", "step": "round", "round": 7, "epoch": 2, "accuracy": 80.0}


@pytest.mark.parametrize(
    ("row", "step"),
    [
        ({"stage": "pretrain", "epoch": 3}, RowStep("epoch", 3)),
        ({"stage": "sparsify", "target": 0.5, "episode": 1}, RowStep("episode", 1)),
        ({"stage": "sparsify", "generation": 2}, RowStep("generation", 2)),
        (ROUND, RowStep("round", 7)),
        ({"stage": "sparsify", "step": "round", "epoch": 2}, RowStep("epoch", 2)),
        ({"stage": "sparsify", "step": 9}, None),
        ({"stage": "eval", "top1": 93.0}, None),
    ],
)
def test_a_row_counts_by_the_step_that_it_names_or_by_a_usual_one(row: dict[str, Any], step: RowStep | None) -> None:
    assert step_of(row) == step


def test_the_step_is_the_x_axis_of_tensorboard_and_no_curve(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Writer:
        def __init__(self) -> None:
            self.scalars: list[tuple[str, float, float]] = []

        def add_scalar(self, *scalar: Any) -> None:
            self.scalars.append(scalar)

        def close(self) -> None: ...

    writer = Writer()
    monkeypatch.setattr("torch.utils.tensorboard.SummaryWriter", lambda folder: writer)
    recorder = Recorder(tmp_path, [TensorBoard()], {})
    rows = [ROUND, {"stage": "eval", "top1": 93.0}, {"stage": "eval", "top1": 94.0}]
    for row in rows:
        recorder.row(row)
    recorder.close({})
    assert writer.scalars == [
        ("sparsify/epoch", 2, 7), ("sparsify/accuracy", 80.0, 7), ("eval/top1", 93.0, 0), ("eval/top1", 94.0, 1),
    ]  # fmt: skip
    assert [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()] == rows


def test_a_search_is_drawn_over_the_step_of_its_rows() -> None:
    draw_to_files()
    run = Run(folder=Path("run"), settings={"method": "mine"}, results={"finetuned": {"top1": 90.0}})
    rows = {id(run): [{**ROUND, "round": at, "accuracy": 80.0 + at} for at in (1, 2, 3)]}
    axis = search_curves([run], labels_of([run]), rows).axes[0]
    assert axis.get_xlabel() == "round"
    assert [list(line.get_xdata()) for line in axis.lines] == [[1, 2, 3]] * 2
    pyplot.close("all")
