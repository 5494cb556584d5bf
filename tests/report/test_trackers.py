"""Trackers are told the rows of metrics.jsonl, each once, and never stop a run."""

import csv
import json
import logging
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import compose_config
from omegaconf import OmegaConf

from compress.config.build import build
from compress.config.resolvers import job_name
from compress.errors import InputError
from compress.io import extras
from compress.io.paths import CONF
from compress.report.recorder import Recorder
from compress.report.trackers.in_csv import Csv
from compress.report.trackers.in_mlflow import Mlflow
from compress.report.trackers.in_wandb import Wandb, WandbRun
from compress.report.trackers.tracker import Entries, Entry
from compress.run.folder import config_hash
from compress.run.pipeline import stage_keys

ROWS: list[dict[str, Any]] = [
    {"stage": "pretrain", "epoch": 1, "loss": 2.5},
    {"stage": "pretrain", "epoch": 2, "loss": float("nan")},
    {"stage": "sparsify", "target": 0.5, "episode": 1, "accuracy": 80, "ratios": [0.5, 1.0]},
    {"stage": "finetune random 1", "epoch": 1, "loss": 1.5, "scales": {"edges": [0, 1], "counts": [3]}},
    {"stage": "eval", "top1": 93.0},
]
SCALARS = {
    ("pretrain/loss", 1): 2.5, ("sparsify/0.5/accuracy", 1): 80.0, ("finetune random 1/loss", 1): 1.5,
    ("eval/top1", 0): 93.0,
}  # fmt: skip
BEGUN = {"config": {"seed": 3, "force": [], "model": {"name": "resnet20"}, "tracker": {"uri": "secret"}}}
DONE = {**BEGUN, "status": "done", "results": {"finetuned": {"top1": 91.5, "note": "x"}}}


def test_the_table_has_every_row_and_the_columns_of_all(tmp_path: Path) -> None:
    for rows in (ROWS[:3], ROWS):  # stopped after three rows, then resumed
        recorder = Recorder(tmp_path, [Csv()], BEGUN)
        for row in rows:
            recorder.row(row)
        recorder.close(DONE)
    with open(tmp_path / "metrics.csv", newline="") as file:
        table = list(csv.DictReader(file))
    assert [*table[0]] == list(dict.fromkeys(key for row in ROWS for key in row))
    as_text = {key: "" for row in ROWS for key in row}
    for row, told in zip(ROWS, table, strict=True):
        cells = {k: json.dumps(v) if isinstance(v, list | dict) else str(v) for k, v in row.items()}
        assert told == {**as_text, **cells}


def test_numbers_have_the_name_of_their_stage_and_its_step() -> None:
    place = Entries()
    entries = [place(row) for row in ROWS]
    assert {(name, entry.step): value for entry in entries for name, value in entry.scalars().items()} == SCALARS


class Failing:
    """A tracker whose server goes away."""

    def __init__(self, after: int) -> None:
        self.after, self.calls = after, 0

    def require(self, asked_by: str) -> None: ...

    def begin(self, folder: Path, summary: Any) -> "Failing":
        return self._call()

    def row(self, entry: Entry) -> None:
        self._call()

    def end(self, summary: Any) -> None:
        self._call()

    def _call(self) -> "Failing":
        self.calls += 1
        if self.calls > self.after:
            raise ConnectionError("gone\nand more")
        return self


@pytest.mark.parametrize("after", [0, 1, 3, 6])
def test_a_tracker_that_fails_is_told_of_once_and_stops_nothing(
    after: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    failing = Failing(after)
    with caplog.at_level(logging.WARNING):
        recorder = Recorder(tmp_path, [failing, Csv()], BEGUN)
        for row in ROWS:
            recorder.row(row)
        recorder.close(DONE)
    assert failing.calls == after + 1
    (message,) = [record.getMessage() for record in caplog.records]
    assert message.startswith("Failing: has failed")
    assert message.endswith("(gone)")
    for name, lines in (("metrics.jsonl", len(ROWS)), ("metrics.csv", len(ROWS) + 1)):
        assert len((tmp_path / name).read_text().splitlines()) == lines


@pytest.mark.parametrize("name", ["mlflow", "wandb"])
def test_a_missing_package_is_told_before_the_run(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extras, "find_spec", lambda package: None)
    with pytest.raises(InputError) as error:
        build(compose_config(f"tracker={name}"))
    assert error.value.problems == (f'tracker={name}: needs {name}; pip install "compress-lab[{name}]"',)


def test_a_folder_of_the_name_of_a_package_is_no_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "likeapackage").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(InputError, match="needs likeapackage"):
        extras.require_extra("x", ["likeapackage"], "tracker=x")


def test_a_tracker_is_in_no_key_and_no_name() -> None:
    small = ("device=cpu", "model.depth=8", "method=filter_magnitude")
    without, within = compose_config(*small), compose_config(*small, "tracker=csv")
    assert without["tracker"] != within["tracker"]
    assert config_hash(without) == config_hash(within)
    assert stage_keys(build(without)) == stage_keys(build(within))
    left_out = yaml.safe_load((CONF / "config.yaml").read_text())["hydra"]["job"]["config"]["override_dirname"]
    asked: Any = OmegaConf.create({
        "hydra": {
            "job": {"config": {"override_dirname": left_out}},
            "overrides": {"task": ["seed=1", "tracker=mlflow", "tracker.uri=/tmp/x", "finetune.lr=0.1"]},
        }
    })  # fmt: skip
    assert job_name(_root_=asked) == "seed=1,finetune.lr=0.1"


def test_the_server_is_told_only_the_rows_that_it_lacks() -> None:
    class Run:
        def __init__(self) -> None:
            self.logged: list[int] = []

        def define_metric(self, *names: Any, **more: Any) -> None: ...

        def log(self, numbers: Any, step: int) -> None:
            self.logged.append(step)

    run, place = Run(), Entries()
    resumed = WandbRun(run, told=3)
    for row in ROWS:
        resumed.row(place(row))
    assert run.logged == [3, 4]


def told(tracker: Any, folder: Path, rows: list[dict[str, Any]], begun: Any = BEGUN, done: Any = DONE) -> None:
    recorder = Recorder(folder, [tracker], begun)
    for row in rows:
        recorder.row(row)
    recorder.close(done)


def test_mlflow_has_settings_results_and_every_row_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    pytest.importorskip("mlflow")
    tracker = Mlflow(uri=str(tmp_path / "mlruns"), experiment="e", timeout_seconds=5, retries=0)
    told(tracker, tmp_path, ROWS[:3], done={**BEGUN, "status": "interrupted", "results": {}})
    told(tracker, tmp_path, ROWS)
    assert not caplog.records
    from mlflow.tracking import MlflowClient

    client = MlflowClient((tmp_path / "mlruns").as_uri())
    (run,) = client.search_runs([client.get_experiment_by_name("e").experiment_id])
    points = [(key, each) for key in run.data.metrics for each in client.get_metric_history(run.info.run_id, key)]
    assert len(points) == len(SCALARS) + 1
    results = {("results/finetuned/top1", 0): 91.5}
    assert {(key, point.step): point.value for key, point in points} == {**SCALARS, **results}
    assert run.data.params == {"seed": "3", "force": "[]", "model.name": "resnet20"}
    assert run.info.status == "FINISHED"
    told(tracker, tmp_path, ROWS, begun={"config": {**BEGUN["config"], "force": ["prune"]}})
    assert len(client.search_runs([run.info.experiment_id])) == 2


def test_wandb_offline_leaves_one_folder_for_a_run(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    pytest.importorskip("wandb")
    tracker = Wandb(mode="offline", project="p", entity=None, timeout_seconds=30)
    for rows in (ROWS[:3], ROWS):
        told(tracker, tmp_path, rows)
    assert not caplog.records
    (file,) = (tmp_path / "wandb").glob("offline-run-*/*.wandb")
    history: dict[tuple[str, int], float] = {}
    for record in records_of(file):
        values = {item.nested_key[0] if item.nested_key else item.key: item for item in record.history.item}
        history |= {
            (key, int(values["_step"].value_json)): json.loads(item.value_json) for key, item in values.items()
        }
    assert {key: value for key, value in history.items() if key[0][0] != "_"} == {
        ("pretrain/loss", 0): 2.5, ("pretrain/epoch", 0): 1, ("pretrain/epoch", 1): 2,
        ("sparsify/0_5/accuracy", 2): 80, ("sparsify/0_5/episode", 2): 1,
        ("finetune random 1/loss", 3): 1.5, ("finetune random 1/epoch", 3): 1,
        ("eval/top1", 4): 93, ("eval/row", 4): 0,
    }  # fmt: skip


def records_of(file: Path) -> list[Any]:
    """The records of a .wandb file of one block: after 7 bytes each has a header of checksum, length and kind."""
    from wandb.proto import wandb_internal_pb2

    data, at, found = file.read_bytes(), 7, []
    assert len(data) < 2**15
    while at + 7 <= len(data):
        length = int.from_bytes(data[at + 4 : at + 6], "little")
        found.append(wandb_internal_pb2.Record.FromString(data[at + 7 : at + 7 + length]))
        at += 7 + length
    return found
