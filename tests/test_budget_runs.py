"""Budgets through the command, on the real digits: several at once, and milliseconds."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from conftest import run_command

from compress.io.files import read_json

SMALL = (
    "device=cpu", "threads=1", "model=resnet20", "model.depth=8", "tensorboard=false", "plots=false",
    "pretrain.epochs=1", "finetune.epochs=1", "eval.latency_seconds=0.02",
)  # fmt: skip


def summary_of(base: Path, name: str) -> dict[str, Any]:
    found: dict[str, Any] = read_json(base / name / "summary.json")
    return found


@pytest.mark.slow
def test_limits_beside_the_aim_are_kept_and_told_in_every_table(tmp_path: Path) -> None:
    asked = ("method=filter_magnitude", "preserve_ratio=0.9", "params_limit=0.04", "control=uniform")
    done = run_command(tmp_path, *asked, *SMALL, "hydra.run.dir=both")
    assert done.returncode == 0, done.stderr
    budget = summary_of(tmp_path, "both")["budget"]
    assert budget["asked"] == {"preserve_ratio": 0.9}
    assert budget["beside"] == {"params_limit": 0.04}
    assert budget["binds"] == "params_limit"
    assert budget["met"]
    assert 0.039 < budget["achieved"]["params_limit"] <= 0.04
    assert summary_of(tmp_path, "both")["results"]["finetuned"]["params"] == budget["achieved"]["params"]
    assert "params_limit binds before preserve_ratio is spent" in done.stdout
    control = summary_of(tmp_path, "both")["controls"]["uniform"]
    assert control["achieved"]["params_limit"] <= 0.04
    (row,) = json.loads(run_command(tmp_path, "compare", "both", "--format", "json").stdout)
    assert (row["asked"], row["asked params_limit"]) == (0.9, 0.04)
    assert row["achieved params_limit"] == budget["achieved"]["params_limit"]


@pytest.mark.slow
def test_milliseconds_are_predicted_met_and_measured_or_refused_before_the_run(tmp_path: Path) -> None:
    mine = ("method=sample", "search.draws=5", "method.round_to=8", "latency.accept=true", *SMALL)
    done = run_command(tmp_path, *mine, "latency_limit=1000", "hydra.run.dir=whole")
    assert done.returncode == 0, done.stderr
    assert "error of the prediction on 10 networks" in done.stdout
    told = summary_of(tmp_path, "whole")["budget"]
    assert told["met"]  # by the dense network
    dense = told["latency"]["dense_ms"]
    kept = {path: path.stat().st_mtime for path in tmp_path.glob("outputs/cache/latency/*.json")}
    assert len(kept) > 5

    done = run_command(tmp_path, *mine, "latency_limit=0.0001", "hydra.run.dir=never")
    assert done.returncode == 2
    least = re.search(
        r"latency_limit=0.0001 ms: out of reach; the narrowest allowed widths have ([\d.]+) ms", done.stderr
    )
    assert least is not None
    assert not (tmp_path / "never" / "summary.json").exists()

    limit = round((float(least[1]) + dense) / 2, 4)
    done = run_command(tmp_path, *mine, f"latency_limit={limit}", "hydra.run.dir=faster")
    assert done.returncode == 0, done.stderr
    told = summary_of(tmp_path, "faster")["budget"]
    latency = told["latency"]
    assert told["asked"] == {"latency_limit": limit}
    assert latency["predicted_ms"] <= (latency["tightened_to_ms"] or limit)
    assert told["achieved"]["latency_limit"] == latency["measured_ms"]
    assert told["met"] <= (latency["measured_ms"] <= 1.05 * limit)
    assert {path: path.stat().st_mtime for path in tmp_path.glob("outputs/cache/latency/*.json")} == kept
    for word in ("asked latency_limit", "predicted", "measured", "ms ±"):
        assert word in done.stdout
