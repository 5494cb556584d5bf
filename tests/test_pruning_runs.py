"""slimming, magnitude and filter_magnitude through the command, on the real digits."""

from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Command, run_command
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import compress
from compress.io.files import read_json, read_rows
from compress.models.masks import MASK, masked_layers

SMALL = ("experiment=quick", "device=cpu", "model=resnet20", "plots=false", "tensorboard=false")


def summary_of(base: Path, *arguments: str) -> dict[str, Any]:
    done = run_command(base, *arguments, *SMALL, "hydra.run.dir=out")
    assert done.returncode == 0, done.stderr
    return read_json(base / "out" / "summary.json")


@pytest.fixture(scope="module")
def slimmed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A run with its controls and a teacher in both stages; its working folder and what it printed."""
    base = tmp_path_factory.mktemp("slimming")
    arguments = [part for part in SMALL if not part.startswith(("plots", "tensorboard"))]
    teacher = ("teacher=zoo", "model@teacher.model=resnet20", "distill=kd", "distill.stages=[sparsify,finetune]")
    done = run_command(
        base,
        *arguments,
        "method=slimming",
        "percent=0.5",
        "control=[random,uniform]",
        "control_draws=2",
        "hydra.run.dir=out",
        *teacher,
    )
    assert done.returncode == 0, done.stderr
    return base, done.stdout


def test_one_command_gives_the_row_and_its_controls(slimmed: tuple[Path, str]) -> None:
    base, output = slimmed
    summary = read_json(base / "out" / "summary.json")
    names = ["dense", "sparsified", "pruned", "finetuned"]
    controls = ["random 1", "random 2", "uniform"]
    assert list(summary["results"]) == names + [f"{n}, {c}" for c in controls for n in ("pruned", "finetuned")]
    rows = summary["results"]
    assert len({rows[name]["epochs"] for name in rows if name.startswith("finetuned")}) == 1
    recipes = [stage["recipe"] for name, stage in summary["stages"].items() if name.startswith("finetune")]
    assert len(recipes) == 4
    assert all(recipe == recipes[0] for recipe in recipes)
    assert rows["pruned, random 1"]["macs"] == rows["pruned, random 2"]["macs"] == rows["pruned"]["macs"]
    assert rows["pruned, uniform"]["macs"] <= rows["pruned"]["macs"]
    plans = [read_json(base / "out" / "controls" / f"random-{draw}" / "plan.json")["groups"] for draw in (1, 2)]
    mine = read_json(base / "out" / "plan.json")["groups"]
    for group, other in plans[0].items():
        assert other["kept_width"] == mine[group]["kept_width"]
    assert plans[0] != plans[1]
    assert "finetuned, uniform" in output
    assert compress.load(base / "out" / "controls" / "uniform")(torch.zeros(1, 1, 8, 8)).shape == (1, 10)


def test_the_percentile_is_the_published_one(slimmed: tuple[Path, str]) -> None:
    own = read_json(slimmed[0] / "out" / "plan.json")["own"]
    assert own["channels"] == sum(v["width"] for v in _groups(slimmed[0]).values())
    assert own["kept_channels"] == own["channels"] - int(own["channels"] * 0.5) - 1
    assert own["kept_channels"] == sum(v["kept_width"] for v in _groups(slimmed[0]).values())
    assert 0 < own["largest_percent_without_empty"] < 1
    assert {"total", "kept", "min", "median", "max"} <= set(next(iter(own["norms"].values())))


def _groups(base: Path) -> dict[str, Any]:
    groups: dict[str, Any] = read_json(base / "out" / "plan.json")["groups"]
    return groups


def test_the_scales_are_watched_every_epoch(slimmed: tuple[Path, str]) -> None:
    base, _ = slimmed
    rows = [row for row in read_rows(base / "out") if row["stage"] == "sparsify"]
    assert [row["epoch"] for row in rows] == [1, 2]
    own = read_json(base / "out" / "plan.json")["own"]
    assert rows[-1]["cfg"]["0.5"] == own["cfg"]
    for row in rows:
        assert sum(row["scales"]["counts"]) == sum(norm["total"] for norm in own["norms"].values())
        assert set(row["cfg"]) == {"0.3", "0.5", "0.7"}
    assert rows[1]["scale_median"] < rows[0]["scale_median"]
    board = EventAccumulator(str(base / "out" / "tb"))
    board.Reload()
    assert "sparsify/scales" in board.Tags()["histograms"]
    assert "sparsify/cfg/0.5/text_summary" in board.Tags()["tensors"]
    assert (base / "out" / "plots" / "scales.png").is_file()


@pytest.mark.slow
def test_a_teacher_joins_the_sparse_training(slimmed: tuple[Path, str]) -> None:
    base, output = slimmed
    assert "sparsify: the teacher's held-out top-1 is" in output
    again = run_command(
        base, *SMALL, "method=slimming", "percent=0.5", "stages=[pretrain,sparsify]", "hydra.run.dir=alone"
    )
    assert "sparsify: running" in again.stdout  # another training than the one with the teacher


@pytest.mark.slow
def test_a_budget_in_macs_and_a_block_that_goes(slimmed: tuple[Path, str]) -> None:
    base, _ = slimmed
    done = run_command(
        base,
        *SMALL,
        "method=slimming",
        "model=resnet20_cs",
        "preserve_ratio=0.2",
        "method.on_empty=drop_block",
        "hydra.run.dir=cs",
    )
    assert done.returncode == 0, done.stderr
    budget = read_json(base / "cs" / "summary.json")["budget"]
    assert budget["met"]
    assert 0.19 < budget["achieved"]["preserve_ratio"] <= 0.2
    assert compress.load(base / "cs")(torch.zeros(1, 1, 8, 8)).shape == (1, 10)


@pytest.mark.slow
def test_pruned_weights_stay_zero_through_steps_training_and_files(tmp_path: Path) -> None:
    summary = summary_of(tmp_path, "method=magnitude", "percent=0.9", "method.schedule=cubic", "method.steps=3")
    rows = summary["results"]
    assert rows["sparsified"]["sparsity"] == pytest.approx(0.9 * (1 - (1 / 3) ** 3), abs=1e-4)
    assert rows["sparsified"]["epochs"] == 2
    assert rows["finetuned"]["sparsity"] == pytest.approx(0.9, abs=1e-4)
    assert rows["finetuned"]["macs"] == rows["dense"]["macs"]
    assert rows["finetuned"]["nonzero_macs"] < 0.3 * rows["dense"]["macs"]
    assert rows["finetuned"]["zipped_bytes"] < 0.3 * rows["finetuned"]["bytes"]
    model = compress.load(tmp_path / "out")
    layers = masked_layers(model)
    assert len(layers) == 22
    for layer in layers.values():
        assert not bool(layer.get_parameter("weight")[~layer.get_buffer(MASK)].any())
    plan = read_json(tmp_path / "out" / "plan.json")
    pruned = plan["own"]["pruned"]
    for pool in ("conv", "fc"):
        assert pruned[pool]["pruned"] == int(0.9 * pruned[pool]["total"]) + 1
    assert plan["sparsity"]["prunable"]["total"] == pruned["conv"]["total"] + pruned["fc"]["total"]


@pytest.mark.slow
def test_from_scratch_with_as_many_multiply_adds(tmp_path: Path) -> None:
    summary = summary_of(
        tmp_path, "method=filter_magnitude", "flops_limit=1.0", "finetune.init=scratch", "finetune.scratch_budget=B"
    )
    rows = summary["results"]
    assert summary["budget"]["met"]
    assert rows["from scratch"]["macs"] <= 1e6
    assert rows["from scratch"]["epochs"] == int(2 * rows["dense"]["macs"] / rows["pruned"]["macs"])
    recipe = summary["stages"]["finetune"]["recipe"]
    assert recipe["lr"] == summary["config"]["pretrain"]["lr"]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("method=magnitude", "preserve_ratio=0.5"), "preserve_ratio=0.5: method=magnitude does not take it"),
        (("method=magnitude", "percent=1"), "percent=1: must be in [0, 1)"),
        (("method=magnitude", "method.steps=3"), "method.schedule=one-shot with method.steps=3"),
        (("method=magnitude", "method.objects=[]"), "method.objects=[]: must name at least one of conv, fc"),
        (("method=slimming", "control=best"), "control=best: must be one of random, uniform"),
        (("method=slimming", "method.on_empty=drop"), "must be one of keep_max, error, drop_block"),
        (("method=slimming", "method.round_to=8"), "method.round_to=8: a threshold knows no multiples"),
        (("method=filter_magnitude", "preserve_ratio=0.001"), "preserve_ratio=0.001: out of reach"),
        (
            ("method=slimming", "model=torchvision", "model.arch=squeezenet1_0", "dataset.image_size=64"),
            "no batch norm",
        ),
        (
            ("method=magnitude", "method.schedule=cubic", "method.steps=3", "control=random"),
            "leaves nothing to draw from",
        ),
        (("method=slimming", "model=resnet20", "percent=0.99", "method.select=rank"), "percent=0.99: out of reach"),
        (("method=slimming", "control=random", "stages=[pretrain]"), "prune is not among the stages"),
    ],
)
def test_bad_input_is_one_line(command: Command, arguments: tuple[str, ...], told: str) -> None:
    done = command("experiment=quick", "device=cpu", *arguments)
    assert done.returncode == 2, done.stdout
    assert told in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


@pytest.mark.slow
def test_a_network_of_a_run_is_a_checkpoint_unless_it_was_cut(tmp_path: Path) -> None:
    summary_of(tmp_path, "method=magnitude", "percent=0.5", "control=uniform", "stages=[pretrain,prune,eval]")
    again = ("method=magnitude", "percent=0", "stages=[pretrain,eval]", "model.checkpoint=out/model.safetensors")
    done = run_command(tmp_path, *again, *SMALL, "hydra.run.dir=again")
    assert done.returncode == 0, done.stderr
    rows = [read_json(tmp_path / name / "summary.json")["results"] for name in ("out", "again")]
    assert rows[1]["dense"]["top1"] == rows[0]["pruned"]["top1"]
    assert rows[0]["pruned, uniform"]["sparsity"] == pytest.approx(0.5, abs=1e-3)
    cut = ("method=filter_magnitude", "stages=[pretrain,prune]", "hydra.run.dir=cut")
    assert run_command(tmp_path, *cut, *SMALL).returncode == 0
    refused = run_command(tmp_path, "model.checkpoint=cut/model.safetensors", *SMALL)
    assert refused.returncode == 2
    assert "is a network that a run has cut" in refused.stderr
