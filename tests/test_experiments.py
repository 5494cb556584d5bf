"""conf/experiment/: every file composes and runs, and docs/notes.md has a line for every command of the notes."""

import functools
import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Command, compose_config
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from PIL import Image

from compress.config.build import make_method
from compress.config.choices import choices_by_group
from compress.config.rules import check
from compress.config.sweep import grid_jobs
from compress.io.files import read_json
from compress.io.paths import CONF
from compress.schema.settings import Recipe
from compress.train.schedule import learning_rate

FOLDER = CONF / "experiment"
NAMES = sorted(path.relative_to(FOLDER).with_suffix("").as_posix() for path in FOLDER.glob("**/*.yaml"))
PAGE = (Path(__file__).parents[1] / "docs" / "notes.md").read_text()
LINES = [
    shlex.split(line)[1:]
    for block in re.findall(r"```bash\n(.*?)```", PAGE, re.DOTALL)
    for line in block.splitlines()
    if line.startswith("compress ")
]
RECIPES = {"cifar_200", "imagenet_resnet50", "imagenet_mobilenet"}


def experiment_of(line: list[str]) -> str:
    return next(text for text in line if text.startswith("experiment=")).removeprefix("experiment=")


def ends_of_sweep(line: list[str]) -> list[list[str]]:
    """The first and the last job of a line: of its own sweep and of that which its experiment brings."""
    given = [text for text in line if text != "-m"]
    if "-m" not in line:
        return [given]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("config", [f"experiment={experiment_of(line)}"], return_hydra_config=True)
    brought = [f"{key}={values}" for key, values in (config.hydra.sweeper.params or {}).items()]
    jobs = grid_jobs([*brought, *given])
    assert len(jobs) > 1
    return [jobs[0], jobs[-1]]


def test_the_page_has_every_command_and_every_experiment_of_the_notes() -> None:
    assert len(LINES) == len(set(map(tuple, LINES))) == 60
    of_the_notes = {name for name in NAMES if name.startswith("notes/")}
    assert len(of_the_notes) == 16
    assert {experiment_of(line) for line in LINES} == of_the_notes | RECIPES


@functools.cache
def config_of(name: str) -> dict[str, Any]:
    return compose_config(f"experiment={name}")


def made_and_checked(config: dict[str, Any]) -> list[str]:
    """What is wrong with a config but for files that it has to be given."""
    if config["method"].get("agent") is None:
        make_method(config["method"])
    return [problem for problem in check(config) if problem != "dataset.root: must be given"]


@pytest.mark.parametrize("name", NAMES)
def test_every_experiment_composes_and_passes_its_rules(name: str) -> None:
    assert made_and_checked(config_of(name)) == []


@pytest.mark.slow
@pytest.mark.parametrize("line", LINES, ids=" ".join)
def test_every_line_of_the_page_composes_and_passes_its_rules(line: list[str]) -> None:
    for job in ends_of_sweep(line):
        assert made_and_checked(compose_config(*job)) == []


def test_files_in_folders_are_choices_of_experiment_and_of_no_other_group(tmp_path: Path) -> None:
    for file in ("experiment/lab/first.yaml", "experiment/lab/old/first.yaml", "method/parts/some.yaml"):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).touch()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        groups = choices_by_group(GlobalHydra.instance().config_loader(), str(tmp_path))
    assert groups["experiment"] == sorted([*NAMES, "lab/first", "lab/old/first"])
    assert groups["method"] == sorted(path.stem for path in (CONF / "method").glob("*.yaml"))


def recipe(node: Mapping[str, Any]) -> Recipe:
    return Recipe(**{name: node[name] for name in Recipe.__dataclass_fields__})


def drops(node: Mapping[str, Any]) -> list[int]:
    """The epochs, counted from 0, that have another rate than that before."""
    of = recipe(node)
    rates = [learning_rate(of, epoch) for epoch in range(of.epochs)]
    return [at for at in range(1, of.epochs) if rates[at] != rates[at - 1]]


@pytest.mark.parametrize(
    ("name", "stage", "expected"),
    [
        ("cifar_200", "pretrain", [100, 150]),
        ("imagenet_resnet50", "pretrain", [30, 60]),
        ("notes/baseline_cifar10", "pretrain", [100, 150]),
        ("notes/slimming_resnet", "pretrain", [100, 150]),
        ("notes/slimming_resnet", "finetune", [20, 30]),
        ("notes/slimming_vgg19", "pretrain", [75]),
        ("notes/slimming_vgg19", "finetune", [5]),
        ("notes/metaprune_resnet50", "pretrain", [15, 30, 45]),
        ("notes/metaprune_mobilenetv2", "pretrain", [20, 40, 60]),
    ],
)
def test_rates_drop_where_the_source_has_it(name: str, stage: str, expected: list[int]) -> None:
    assert drops(config_of(name)[stage]) == expected


def settings(name: str, *keys: str) -> list[Any]:
    found = []
    for key in keys:
        node: Any = config_of(name)
        for part in key.split("."):
            node = node[part]
        found.append(node)
    return found


def test_flags_of_the_notes_arrive_where_they_are_read() -> None:
    search = ("method.search.episodes", "method.search.warmup", "method.search.replay_episodes")
    assert settings("notes/amc", *search, "method.acc_metric", "reward.name") == [400, 100, 100, "top5", "acc"]
    assert settings("notes/camc", *search, "method.search.sigma", "reward.name") == [
        400, 100, 100, 0.001, "acc_normalize",
    ]  # fmt: skip
    assert settings("notes/camc", "method.calibration.images", "method.calibration.batch_size") == [3840, 64]
    assert settings("notes/camc_800", *search) == [800, 100, 100]
    assert settings("notes/camc_300_800", *search, "reward.name") == [800, 300, 300, "acc_normalize"]
    assert settings("notes/camc_acc_reward", *search, "reward.name") == [800, 300, 100, "acc"]
    assert settings("notes/camc_cifar10", *search, "method.calibration.batch_size") == [800, 100, 100, 32]
    assert settings("notes/metaprune_resnet50", "method.search.population", "method.search.generations") == [100, 32]
    assert settings("notes/metaprune_mobilenetv2", "method.search.generations", "method.training.lr") == [20, 0.25]
    assert settings("notes/train_cifar10", "pretrain.early_stop_epochs", "pretrain.weight_decay") == [20, 4e-5]


# -- each of them once, shrunk ---------------------------------------------------------------------------------------

SHORT = (
    "device=cpu", "threads=1", "tensorboard=false", "plots=false", "eval.latency_seconds=0.05", "hydra.run.dir=out",
    "pretrain.epochs=1", "pretrain.batch_size=32", "finetune.epochs=1", "finetune.batch_size=32",
)  # fmt: skip
DIGITS = ("dataset=digits", "dataset.mean=[0.3053]", "dataset.std=[0.376]")
FILES = (
    "dataset.root=images", "dataset.image_size=32", "dataset.resize=36", "dataset.workers=0", "dataset.held_out=0.25",
)  # fmt: skip
SEARCH = (
    "model.width=0.25", "method.search.episodes=4", "method.search.warmup=2", "method.calibration.images=32",
    "method.calibration.batch_size=16",
)  # fmt: skip
EVOLUTION = (
    "search.population=4", "search.generations=1", "search.select=2", "search.parents=2", "search.mutation=1",
    "search.crossover=1", "search.random=1", "method.calibration_images=16", "method.calibration_batch=8",
    "method.least_over_chance=0", "method.training.epochs=1", "method.training.batch_size=16", "method.hidden=1",
)  # fmt: skip
SMALL = ("model.depth=8", "model.width=8")
SHRUNK: dict[str, tuple[str, ...]] = {
    "cifar_200": (*DIGITS, "model.depth=8", "method=filter_magnitude"),
    "imagenet_mobilenet": (*FILES, *SEARCH),
    "imagenet_resnet50": (*FILES, "method=filter_magnitude"),
    "notes/amc": (*FILES, *SEARCH),
    "notes/camc": (*FILES, *SEARCH),
    "notes/camc_800": (*FILES, *SEARCH),
    "notes/camc_300_800": (*FILES, *SEARCH),
    "notes/camc_acc_reward": (*FILES, *SEARCH),
    "notes/camc_cifar10": (*DIGITS, *SEARCH),
    "notes/train_cifar10": (*DIGITS, "model.width=0.25"),
    "notes/metaprune_resnet50": (*FILES, *EVOLUTION, "flops_limit=40"),
    "notes/metaprune_mobilenetv2": (*FILES, *EVOLUTION, "flops_limit=8"),
    "notes/baseline_cifar10": (*DIGITS, "model.depth=8"),
    "notes/magnitude_cifar10": (*DIGITS, "model.depth=8"),
    "notes/magnitude_imagenet": (*FILES, "model.weights=null"),
    "notes/slimming_resnet": (*DIGITS, "model.depth=8"),
    "notes/slimming_vgg19": (*DIGITS, "model.cfg=[8,8,M,16,16,M]"),
    "notes/distill_grid": (
        *DIGITS, "model=resnet20", "model.depth=8", "model.width=4", "model@teacher.model=resnet20",
        "teacher.model.depth=8", "teacher.model.width=6", "percent=0.2",
    ),
}  # fmt: skip


@pytest.fixture
def images(tmp_path: Path) -> None:
    """A folder laid out as ImageNet: six classes of noise about another colour, 8 images to train, 2 to measure."""
    random = torch.Generator().manual_seed(0)
    for part, count in (("train", 8), ("val", 2)):
        for label in range(6):
            folder = tmp_path / "images" / part / f"n{label}"
            folder.mkdir(parents=True)
            for number in range(count):
                noise = torch.randint(0, 80, (40, 40, 3), generator=random)
                noise[..., label % 3] += 80 * (label // 3 + 1)
                Image.fromarray(noise.to(torch.uint8).numpy()).save(folder / f"{number}.png")


def test_every_experiment_of_the_page_is_run() -> None:
    assert {*SHRUNK, "notes/camc_reuse"} == {experiment_of(line) for line in LINES}


@pytest.mark.slow
@pytest.mark.usefixtures("images")
@pytest.mark.parametrize("name", SHRUNK)
def test_an_experiment_runs_shrunk(name: str, command: Command, tmp_path: Path) -> None:
    done = command(f"experiment={name}", *SHORT, *SHRUNK[name])
    assert done.returncode == 0, done.stderr
    summary = read_json(tmp_path / "out" / "summary.json")
    assert summary["status"] == "done"
    assert set(summary["config"]["stages"]) <= set(summary["stages"])


@pytest.mark.slow
@pytest.mark.usefixtures("images")
def test_an_agent_is_reused_without_a_search(command: Command) -> None:
    assert command("experiment=notes/camc", *SHORT, *FILES, *SEARCH).returncode == 0
    asked = (*SHORT[:5], *FILES, *SEARCH, "pretrain.epochs=1", "pretrain.batch_size=32")
    untold = command("experiment=notes/camc_reuse", *asked)
    assert untold.returncode == 2
    assert "method.agent=a folder to be given: holds no whole agent.pt" in untold.stderr
    for target in ("0.3", "0.7"):
        done = command(
            "experiment=notes/camc_reuse",
            *asked,
            "method.agent=out",
            f"preserve_ratio={target}",
            f"hydra.run.dir=at{target}",
        )
        assert done.returncode == 0, done.stderr
        assert "episode" not in done.stdout


@pytest.mark.slow
@pytest.mark.usefixtures("images")
def test_a_printed_gene_and_a_printed_strategy_are_trained_and_counted(command: Command, tmp_path: Path) -> None:
    gene = next(
        text for line in LINES for text in line if "flops_limit=44" in line and text.startswith("method.gene")
    )
    done = command("experiment=notes/metaprune_mobilenetv2", *SHORT, *FILES, *EVOLUTION, gene, "flops_limit=44")
    assert done.returncode == 0, done.stderr
    strategy = next(text for line in LINES for text in line if text.startswith("method.strategy"))
    whole = ("model.width=1", "hydra.run.dir=given")
    done = command("experiment=notes/amc", *SHORT[:5], *SHORT[6:], *FILES, *SEARCH[1:], strategy, *whole)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "given" / "plan.json").exists()
