"""The three questions of docs/questions.md, each one sweep and one comparison, small and on digits."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from conftest import run_command

from compress.io.files import read_json
from compress.report.compare import main

QUICK = (
    "experiment=quick",
    "device=cpu",
    "threads=1",
    "tensorboard=false",
    "plots=false",
    "model.depth=8",
    "model.width=8",
)


def asked(base: Path, capsys: pytest.CaptureFixture[str], *sweep: str) -> tuple[list[dict[str, Any]], str, set[str]]:
    """Rows of the comparison (controls too), what the sweep printed, and the pictures."""
    done = run_command(base, "-m", *QUICK, *sweep)
    assert done.returncode == 0, done.stderr
    assert main([str(base / "outputs"), "--controls", "--format", "json", "--plot", str(base / "plots")]) == 0
    rows = json.loads(capsys.readouterr().out)
    return rows, done.stdout, {path.name for path in (base / "plots").iterdir()}


def table_of(told: str) -> list[str]:
    """The lines that a sweep ends in."""
    return told.rstrip().split("\n\n")[-1].splitlines()


def plan_of(row: dict[str, Any], base: Path) -> dict[str, Any]:
    plan: dict[str, Any] = read_json(base / row["run"] / "plan.json")
    return plan


@pytest.mark.slow
def test_amc_against_camc_with_strategies(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows, told, pictures = asked(
        tmp_path, capsys, "method=amc,camc", "preserve_ratio=0.5,0.7", "stages=[pretrain,sparsify,prune,eval]"
    )
    computed = Counter(line for line in told.splitlines() if line.endswith(": running"))
    assert computed["sparsify: running"] == 3  # an agent of amc per ratio, one of camc for both
    assert {(row["method"], row["asked"]) for row in rows} == {(m, a) for m in ("amc", "camc") for a in (0.5, 0.7)}
    for row in rows:
        assert row["achieved"] <= row["asked"] + 1e-9
        strategy = plan_of(row, tmp_path)["own"]["strategy"]
        assert all(0 < ratio <= 1 for ratio in strategy)
    assert {"front.png", "budgets.png", "layers.png", "search.png"} <= pictures


@pytest.mark.slow
def test_a_sweep_of_percents_of_weights(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows, told, pictures = asked(tmp_path, capsys, "method=magnitude", "percent=0.3,0.6,0.9")
    rows.sort(key=lambda row: row["asked"])
    thresholds = [plan_of(row, tmp_path)["own"]["thresholds"] for row in rows]
    for pool in ("conv", "fc"):
        assert thresholds[0][pool] < thresholds[1][pool] < thresholds[2][pool]
    assert [row["achieved"] for row in rows] == pytest.approx([0.3, 0.6, 0.9], abs=1e-3)
    head, units, _, first, _, last, runs, *_ = table_of(told)
    assert head.split()[:6] == ["asked", "achieved", "dense", "pruned", "conv", "fc"]
    assert units.split()[:5] == ["percent", "top-1", "top-1", "threshold", "threshold"]
    assert "finetuned" in head
    assert first.split()[:4] == ["30.00", "%", "30.01", "%"]
    assert last.startswith("  90.00 %")
    assert runs == "3 runs; all: dataset digits, model resnet20, method magnitude, quick true, seed 0"
    assert "front.png" in pictures


@pytest.mark.slow
def test_slimming_over_percents_with_controls(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sweep = ("method=slimming", "percent=0.2,0.4", "control=[random,uniform]", "control_draws=1")
    rows, told, pictures = asked(tmp_path, capsys, *sweep)
    assert Counter(told.splitlines())["sparsify: running"] == 1
    by_control = {(row["control"], row["asked"]): row for row in rows}
    assert len(by_control) == len(rows) == 6
    for percent in (0.2, 0.4):
        own, random, uniform = (by_control[control, percent] for control in (None, "random 1", "uniform"))
        assert own["macs"] == random["macs"]
        assert uniform["macs"] == pytest.approx(own["macs"], rel=0.15)  # to a channel per layer of eight
        assert own["dense"] == random["dense"] == uniform["dense"]
    assert {"front.png", "layers.png", "training.png"} <= pictures
    head, units, _, *jobs = table_of(told)[:5]
    assert "finetuned," in head.split()
    at = units.index("random 1")
    for job in jobs:
        assert 0 <= float(job[at : at + len("random 1")]) <= 100
