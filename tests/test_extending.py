"""docs/extending.md is true: its method, copied from the page, runs without an edit of the package."""

import re
import subprocess
from pathlib import Path

import pytest
from conftest import run_command

from compress.io.files import read_json, read_rows

PAGE = Path(__file__).parents[1] / "docs" / "extending.md"


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    text = PAGE.read_text()
    (code,), (yaml,) = (re.findall(rf"```{kind}\n(.*?)```", text, re.DOTALL) for kind in ("python", "yaml"))
    (tmp_path / "my_methods.py").write_text(code)
    (tmp_path / "conf_of_mine" / "method").mkdir(parents=True)
    (tmp_path / "conf_of_mine" / "method" / "uniform.yaml").write_text(yaml)
    return tmp_path


def run(folder: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    return run_command(folder, "--config-dir", "conf_of_mine", *arguments, PYTHONPATH=".")


def test_the_pages_method_runs_and_meets_its_budget(mine: Path) -> None:
    small = (
        "pretrain.epochs=2",
        "finetune.epochs=1",
        "eval.latency_seconds=0.05",
        "plots=false",
        "tensorboard=false",
    )
    done = run(mine, "method=uniform", "preserve_ratio=0.4", "hydra.run.dir=out", *small)
    assert done.returncode == 0, done.stderr
    summary = read_json(mine / "out" / "summary.json")
    assert 0.3 < summary["budget"]["achieved"]["preserve_ratio"] <= 0.4
    assert list(summary["results"]) == ["dense", "pruned", "finetuned"]


def test_its_settings_are_checked_like_ours(mine: Path) -> None:
    unknown = run(mine, "method=uniform", "method.round_two=1")
    assert unknown.returncode == 2
    assert "unknown key method.round_two; did you mean method.round_to?" in unknown.stderr
    bad = run(mine, "method=uniform", "method.round_to=0", "percent=0.3")
    assert bad.returncode == 2
    told = bad.stderr
    assert "method.round_to=0: must be >= 1" in told
    assert "percent=0.3: method=uniform does not take it; it takes preserve_ratio, flops_limit" in told


@pytest.mark.slow
def test_a_reward_is_one_function_and_one_yaml(tmp_path: Path) -> None:
    (tmp_path / "my_rewards.py").write_text(
        "def few(outcome, *, per_channel):\n    return -per_channel * outcome.params\n"
    )
    (tmp_path / "conf_of_mine" / "reward").mkdir(parents=True)
    yaml = "name: few\n_target_: my_rewards.few\n_partial_: true\nper_channel: 2.0\n"
    (tmp_path / "conf_of_mine" / "reward" / "few.yaml").write_text(yaml)
    stages = ("stages=[pretrain,sparsify,prune]", "hydra.run.dir=out", "plots=false", "tensorboard=false")
    done = run(tmp_path, "method=amc", "reward=few", "experiment=quick", *stages)
    assert done.returncode == 0, done.stderr
    rows = [row for row in read_rows(tmp_path / "out") if "episode" in row]
    assert all(row["reward"] == int(row["reward"]) < 0 for row in rows)
    best = max(rows, key=lambda row: row["reward"])
    assert best["best_reward"] == rows[-1]["best_reward"]
