"""docs/extending.md is true: its method, copied from the page, runs without an edit of the package."""

import re
import subprocess
from pathlib import Path

import pytest
from conftest import run_command

from compress.io.files import read_json, read_rows
from compress.io.tensors import read_weights

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


FRESH = """
class Fresh(Uniform):
    traits: ClassVar = Traits(budgets=("preserve_ratio",), begins="fresh")

    def plan(self, problem, learned, work):
        work.row(generation=1, top1=10.0)
        decision = super().plan(problem, learned, work)
        buffer = problem.model.bn1.running_mean
        return replace(decision, weights={"bn1.running_mean": buffer + 0.5, "bn1.bias": problem.model.bn1.bias + 1})
"""


def test_a_method_that_begins_fresh_needs_no_pretraining_and_no_two_networks_share_its_stages(mine: Path) -> None:
    code = (mine / "my_methods.py").read_text().replace("import dataclass", "import dataclass, replace")
    (mine / "my_methods.py").write_text(code + FRESH)
    yaml = (mine / "conf_of_mine" / "method" / "uniform.yaml").read_text()
    yaml = yaml.replace("name: uniform", "name: fresh").replace("Uniform", "Fresh").replace("[pretrain, ", "[")
    (mine / "conf_of_mine" / "method" / "fresh.yaml").write_text(yaml)
    small = ("method=fresh", "finetune.epochs=1", "eval.latency_seconds=0.05", "plots=false", "tensorboard=false")
    summaries = []
    for width in (8, 4):
        done = run(mine, *small, f"model.width={width}", f"hydra.run.dir={width}")
        assert done.returncode == 0, done.stderr
        summaries.append(read_json(mine / str(width) / "summary.json"))
    wide, narrow = summaries
    assert list(wide["stages"]) == ["prune", "finetune", "eval"]
    assert list(wide["results"]) == ["pruned", "finetuned"]
    assert not any(stage["reused"] for stage in narrow["stages"].values())
    assert wide["stages"]["prune"]["key"] != narrow["stages"]["prune"]["key"]
    assert wide["budget"]["dense_macs"] == pytest.approx(
        wide["results"]["pruned"]["macs"] / wide["budget"]["achieved"]["preserve_ratio"]
    )
    assert any(row.get("generation") == 1 for row in read_rows(mine / "8"))
    weights, _ = read_weights(mine / wide["stages"]["prune"]["folder"] / "model.safetensors")
    assert float(weights["bn1.bias"].mean()) == pytest.approx(1.0)
    assert float(weights["bn1.running_mean"].mean()) == pytest.approx(0.5)
    refused = run(mine, *small, "stages=[finetune,eval]")
    assert refused.returncode == 2
    assert "stages=[finetune]: finetune needs prune before it" in refused.stderr
