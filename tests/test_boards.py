"""The boards of PruningBench: what each composes to, and all of it on small networks and the real digits."""

import copy
from pathlib import Path
from typing import Any

import pytest
from conftest import CPU, compose_config

from compress.config.build import build
from compress.io.paths import CONF
from compress.parallel.helper_processes import Crew
from compress.run.folder import config_hash
from compress.run.pipeline import run
from compress.run.store import Store
from compress.train.schedule import learning_rate

BOARDS = sorted(path.stem for path in (CONF / "experiment").glob("board_*x.yaml"))
NARROW = {"vgg19": "model.cfg=[8,M,16,M,16,M,16,M,16,M]", "resnet18": "model.checkpoint=null"}
SHRUNK = (
    "device=cpu", "threads=1", "dataset=digits", "dataset.image_size=32", "dataset.held_out=0.7", "pretrain.epochs=1",
    "finetune.epochs=1", "eval.latency_seconds=0.01",
)  # fmt: skip


def test_there_are_three_speed_ups_of_each_network() -> None:
    networks = ("resnet18", "vgg19")
    named = [f"board_{network}_c100_{speed_up}x" for network in networks for speed_up in (2, 4, 8)]
    assert named == BOARDS


@pytest.mark.parametrize("board", BOARDS)
def test_a_board_is_its_protocol(board: str) -> None:
    config = compose_config(f"experiment={board}")
    method = config["method"]
    _, network, _, speed_up = board.split("_")
    assert config["model"]["name"].startswith(network)
    assert config["dataset"]["name"] == "cifar100"
    assert config["preserve_ratio"] == 1 / int(speed_up.removesuffix("x"))
    assert (method["scope"], method["coupled"], method["protect"], method["steps"]) == ("global", "sum", 0.9, 1)


def test_the_recipes_by_hand() -> None:
    job = build(compose_config("experiment=[board_vgg19_c100_8x,board_sparse]", *SHRUNK[:4], NARROW["vgg19"]))
    training: Any = job.method.training  # type: ignore[attr-defined]
    assert [learning_rate(job.pretrain, at) for at in (0, 119, 121, 151, 199)] == pytest.approx(
        [0.1, 0.1, 0.01, 0.001, 0.0001]
    )
    for recipe in (job.finetune, training):
        assert [learning_rate(recipe, at) for at in (0, 59, 61, 81)] == pytest.approx([0.01, 0.01, 0.001, 0.0001])
        assert (recipe.epochs, recipe.momentum, recipe.nesterov) == (100, 0.9, False)
    assert (job.finetune.weight_decay, training.weight_decay) == (5e-4, 0.0)


@pytest.mark.parametrize(
    "board", [*(pytest.param(board, marks=pytest.mark.slow) for board in BOARDS[:-1]), BOARDS[-1]]
)
@pytest.mark.parametrize("sparse", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_board_runs(board: str, sparse: bool, tmp_path: Path) -> None:
    asked = f"experiment=[{board},board_sparse]" if sparse else f"experiment={board}"
    shorter = ("method.training.epochs=1",) if sparse else ()
    config = compose_config(asked, *SHRUNK, *shorter, NARROW[board.split("_")[1]])
    job = build(copy.deepcopy(config))
    settings: Any = {"launch": "1", "tensorboard": False, "plots": False}
    crew = Crew(1, CPU, 1, lambda: None)
    summary = run(job, config, config_hash(config), tmp_path / "run", Store(tmp_path / "cache"), crew, **settings)
    assert summary["budget"]["met"]
    assert list(summary["results"]) == ["dense", *(["sparsified"] if sparse else []), "pruned", "finetuned"]
