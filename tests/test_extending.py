"""docs/extending.md is true: its method, copied from the page, runs without an edit of the package."""

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
from conftest import run_command

from compress.io.files import read_json, read_rows
from compress.io.tensors import read_weights

PAGE = Path(__file__).parents[1] / "docs" / "extending.md"


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    text = PAGE.read_text()
    code, yaml = (re.findall(rf"```{kind}\n(.*?)```", text, re.DOTALL)[0] for kind in ("python", "yaml"))
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


@pytest.mark.slow
def test_a_criterion_is_one_function_and_one_yaml(tmp_path: Path) -> None:
    (tmp_path / "my_criteria.py").write_text(
        "import torch\n\ndef last(model, graph, sample, *, power):\n"
        "    return {g.name: [torch.arange(g.width, 0, -1.0)[:, None] ** power] for g in graph}\n"
    )
    (tmp_path / "conf_of_mine" / "criterion").mkdir(parents=True)
    yaml = "name: mine\n_target_: my_criteria.last\n_partial_: true\npower: 2\n"
    (tmp_path / "conf_of_mine" / "criterion" / "mine.yaml").write_text(yaml)
    small = ("stages=[pretrain,prune]", "experiment=quick", "hydra.run.dir=out", "plots=false", "tensorboard=false")
    done = run(tmp_path, "method=filter_magnitude", "criterion=mine", *small)
    assert done.returncode == 0, done.stderr
    groups = read_json(tmp_path / "out" / "plan.json")["groups"]
    assert all(group["kept"] == list(range(group["kept_width"])) for group in groups.values())
    assert any(group["kept_width"] < group["width"] for group in groups.values())
    bad = run(tmp_path, "method=filter_magnitude", "criterion=mine", "criterion.powr=3")
    assert bad.returncode == 2
    assert "did you mean criterion.power?" in bad.stderr


FRESH = """
import torch
from dataclasses import replace
from torch import nn
from compress.schema.settings import Recipe
from compress.train.loop import Hooks


class Fresh(Uniform):
    traits: ClassVar = Traits(budgets=("preserve_ratio",), begins="fresh")

    def plan(self, problem, learned, work):
        work.row(generation=1, top1=10.0)
        decision = super().plan(problem, learned, work)
        buffer = problem.model.bn1.running_mean
        return replace(decision, weights={"bn1.running_mean": buffer + 0.5, "bn1.bias": problem.model.bn1.bias + 1})


@dataclass(frozen=True, kw_only=True)
class Own(Uniform):
    hyper: Recipe
    traits: ClassVar = Traits(budgets=("preserve_ratio",), begins="fresh", learns=True, trains="own")

    def learn(self, problem, work):
        steps = []
        network = nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(16, 10))
        hooks = Hooks(begin_step=lambda model, epoch, step: steps.append((epoch, step)), score=lambda model: 50.0)
        history = problem.train(self.hyper, hooks, network)
        torch.save(network.state_dict(), work.folder / "own.pt")
        return {"made": "network of its own", **history, "steps": len(steps)}
"""


def add_method(folder: Path, name: str, *changes: tuple[str, str]) -> None:
    """One more of the classes in `FRESH`, under its name, with the page's YAML but for some changes."""
    yaml = (folder / "conf_of_mine" / "method" / "uniform.yaml").read_text()
    for before, after in [("name: uniform", f"name: {name}"), ("Uniform", name.capitalize()), *changes]:
        assert before in yaml
        yaml = yaml.replace(before, after)
    (folder / "conf_of_mine" / "method" / f"{name}.yaml").write_text(yaml)


def test_a_method_that_begins_fresh_needs_no_pretraining_and_no_two_networks_share_its_stages(mine: Path) -> None:
    with open(mine / "my_methods.py", "a") as file:
        file.write(FRESH)
    add_method(mine, "fresh", ("[pretrain, ", "["))
    small = ("method=fresh", "pretrain.epochs=1", "eval.latency_seconds=0.05", "plots=false", "tensorboard=false")
    summaries = []
    for width in (8, 4):
        done = run(mine, *small, f"model.width={width}", f"hydra.run.dir={width}")
        assert done.returncode == 0, done.stderr
        summaries.append(read_json(mine / str(width) / "summary.json"))
    wide, narrow = summaries
    assert list(wide["stages"]) == ["prune", "finetune", "eval"]
    assert list(wide["results"]) == ["pruned", "from scratch"]
    assert not any(stage["reused"] for stage in narrow["stages"].values())
    assert wide["stages"]["prune"]["key"] != narrow["stages"]["prune"]["key"]
    assert wide["budget"]["dense_macs"] == pytest.approx(
        wide["results"]["pruned"]["macs"] / wide["budget"]["achieved"]["preserve_ratio"]
    )
    assert any(row.get("generation") == 1 for row in read_rows(mine / "8"))
    weights, _ = read_weights(mine / wide["stages"]["prune"]["folder"] / "model.safetensors")
    assert first_shift(mine, wide) == 1.0
    assert float(weights["bn1.running_mean"].mean()) == pytest.approx(0.5)
    refused = run(mine, *small, "stages=[finetune,eval]")
    assert refused.returncode == 2
    assert "stages=[finetune]: finetune needs prune before it" in refused.stderr
    also = run(mine, *small, "stages=[pretrain,prune,eval]", "hydra.run.dir=also")
    assert also.returncode == 0, also.stderr
    assert first_shift(mine, read_json(mine / "also" / "summary.json")) == 1.0


def first_shift(folder: Path, summary: dict[str, Any]) -> float:
    """Of the pruned network: 1 if the method was given new weights, whose shifts are 0."""
    weights, _ = read_weights(folder / summary["stages"]["prune"]["folder"] / "model.safetensors")
    return float(weights["bn1.bias"].mean())


@pytest.mark.slow
def test_a_method_may_train_a_network_of_its_own(mine: Path) -> None:
    with open(mine / "my_methods.py", "a") as file:
        file.write(FRESH)
    stages = "run_stages: [sparsify, prune, finetune, eval]"
    recipe = ("name: own", "defaults:\n  - recipe@hyper: pretrain\n  - _self_\n\nname: own")
    add_method(mine, "own", ("run_stages: [pretrain, prune, finetune, eval]", stages), recipe)
    small = ("pretrain.epochs=1", "eval.latency_seconds=0.05", "tensorboard=false", "hydra.run.dir=own")
    done = run(mine, "method=own", "method.hyper.epochs=2", *small)
    assert done.returncode == 0, done.stderr
    summary = read_json(mine / "own" / "summary.json")
    learned = summary["stages"]["sparsify"]
    assert (learned["epochs"], learned["score"]) == (2, 50.0)
    assert "held_out_top1" not in learned
    assert learned["steps"] % 2 == 0 < learned["steps"]
    left = {path.name for path in (mine / learned["folder"]).iterdir()}
    assert "own.pt" in left
    assert not left & {"model.safetensors", "best.safetensors"}
    assert list(summary["results"]) == ["pruned", "from scratch"]
    assert (mine / "own" / "plots" / "training.png").is_file()
    wrong = run(mine, "method=own", "method.hyper.lr=1e30", *small[:-1], "hydra.run.dir=wrong")
    assert wrong.returncode == 2
    assert "try method.hyper.lr=" in wrong.stderr
