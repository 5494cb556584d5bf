"""experiment=distill_grid: its trainings are shared, of equal epochs and of the published rates."""

import shlex
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from conftest import Command, compose_config
from hydra import compose, initialize_config_dir
from omegaconf import open_dict, read_write

from compress.config.build import build
from compress.config.sweep import drop_overridden_params, grid_jobs
from compress.io.files import read_json
from compress.io.paths import CONF
from compress.run.job import Job
from compress.run.pipeline import stage_keys
from compress.schema.settings import Recipe
from compress.train.schedule import learning_rate

SMALL = (
    "dataset=digits", "model=resnet20", "model.depth=8", "model.width=4", "model@teacher.model=resnet20",
    "teacher.model.depth=8", "teacher.model.width=6", "device=cpu",
)  # fmt: skip
SHORT = ("pretrain.epochs=1", "threads=1", "tensorboard=false", "plots=false")


def swept() -> dict[str, str]:
    """The sweep that the experiment brings: settings, and their values with commas."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("config", ["experiment=distill_grid"], return_hydra_config=True)
    return {str(key): str(value) for key, value in config.hydra.sweeper.params.items()}


def jobs(**some: str) -> list[tuple[dict[str, str], Job]]:
    """The jobs for small networks on digits, of some of the swept values; and what was swept in each."""
    lines = grid_jobs([f"{key}={values}" for key, values in {**swept(), **some}.items()])
    configs = [compose_config("experiment=distill_grid", *SMALL, *line) for line in lines]
    swept_values = [dict(text.partition("=")[::2] for text in line) for line in lines]
    return list(zip(swept_values, map(build, configs), strict=True))


def test_the_grid_is_that_of_the_notes() -> None:
    assert swept() == {
        "seed": "0,1,2",
        "distill.stages": "[],[sparsify],[finetune],[sparsify,finetune]",
        "finetune.init": "finetune,scratch",
        "percent": "0.05,0.1,0.15,0.2,0.25",
    }
    config = compose_config("experiment=distill_grid")
    names = [config[group]["name"] for group in ("dataset", "model", "method", "teacher", "distill")]
    assert [*names, config["teacher"]["model"]["name"]] == [
        "cifar100", "resnet8x4_cs", "slimming", "zoo", "dist_t4", "resnet32x4",
    ]  # fmt: skip


def test_per_seed_two_sparse_networks_one_dense_one_and_no_training_twice() -> None:
    keys: dict[str, set[str]] = {}
    taught = set()
    for at, job in jobs(seed="0,1", percent="0.05,0.25", **{"finetune.init": "finetune"}):
        of_job = stage_keys(job)
        for step, key in of_job.items():
            keys.setdefault(step, set()).add(key)
        if "sparsify" in at["distill.stages"]:
            taught.add(of_job["sparsify"])
    seeds, arms, percentages = 2, 4, 2
    assert len(keys["sparsify"]) == 2 * seeds
    assert len(taught) == seeds
    assert len(keys["pretrain"]) == seeds
    assert len(keys["prune"]) == len(keys["prune random 1"]) == 2 * percentages * seeds
    assert len(keys["finetune"]) == len(keys["finetune random 1"]) == arms * percentages * seeds


def test_a_teacher_in_no_stage_is_the_run_without_one() -> None:
    config = compose_config("experiment=distill_grid", *SMALL, "percent=0.05", "distill.stages=[]")
    none, plain = build(config), build({**config, "teacher": None, "distill": None})
    assert none.teachers == {}
    assert none.distill is None
    assert stage_keys(none) == stage_keys(plain)


def test_from_scratch_is_a_run_of_its_own_without_a_random_control() -> None:
    (_, finetuned), (_, scratch) = jobs(seed="0", percent="0.05", **{"distill.stages": "[finetune]"})
    assert [job.finetune.init for job in (finetuned, scratch)] == ["finetune", "scratch"]
    assert [len(job.controls) for job in (finetuned, scratch)] == [1, 0]
    one, other = stage_keys(finetuned), stage_keys(scratch)
    assert {step for step in other if one[step] != other[step]} == {"finetune", "eval"}
    assert scratch.finetune.scratch_budget == "E"
    assert scratch.pretrain.epochs == finetuned.finetune.epochs


def test_all_trainings_of_the_grid_have_the_recipe_of_the_dense_network() -> None:
    other = ("epochs=24", "hold_epochs=12", "amp=bf16", "momentum=0.8", "clip_norm=1.0", "weight_decay=0")
    changed = compose_config("experiment=distill_grid", *(f"pretrain.{text}" for text in other))
    for config in (compose_config("experiment=distill_grid"), changed):
        of = {name: config["pretrain"][name] for name in Recipe.__dataclass_fields__}
        assert {name: config["finetune"][name] for name in of} == of
        assert {name: config["method"]["training"][name] for name in of} == of


def rates(recipe: dict[str, Any]) -> dict[int, float]:
    """The rate of the first epoch, counted from 0, and of every epoch that has another one than that before."""
    built = Recipe(**{name: recipe[name] for name in Recipe.__dataclass_fields__})
    found = [learning_rate(built, epoch) for epoch in range(built.epochs)]
    return {at: rate for at, rate in enumerate(found) if at == 0 or rate != found[at - 1]}


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ((), {0: 0.05, 150: 0.005, 180: 5e-4, 210: 5e-5}),
        (
            ("finetune.epochs=60", "finetune.hold_epochs=10", "finetune.step_epochs=10"),
            {0: 0.05, 20: 0.005, 30: 5e-4, 40: 5e-5, 50: 5e-6},
        ),
        (
            ("finetune.epochs=160", "finetune.hold_epochs=80", "finetune.step_epochs=30"),
            {0: 0.05, 110: 0.005, 140: 5e-4},
        ),
    ],
)
def test_the_rates_of_the_commands_of_the_notes(settings: tuple[str, ...], expected: dict[int, float]) -> None:
    config = compose_config("experiment=distill_grid", *settings)
    assert rates(config["finetune"]) == pytest.approx(expected)
    assert rates(config["pretrain"]) == pytest.approx({0: 0.05, 150: 0.005, 180: 5e-4, 210: 5e-5})


def commands_of_the_notes() -> list[str]:
    page = (Path(__file__).parents[1] / "docs" / "notes.md").read_text()
    return [line for line in page.splitlines() if line.startswith("compress experiment=notes/distill_grid ")]


def test_the_notes_have_all_their_commands() -> None:
    assert len(commands_of_the_notes()) == len(set(commands_of_the_notes())) == 11


@pytest.mark.parametrize("line", commands_of_the_notes())
def test_a_command_of_the_notes_is_one_that_runs(line: str) -> None:
    given = [text for text in shlex.split(line)[1:] if not text.startswith("model=")]
    config = compose_config(*given, *SMALL)
    build(config)
    assert config["stages"][-1] == "eval"


def test_the_command_line_replaces_what_a_file_sweeps_over() -> None:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        given = ["experiment=distill_grid", "percent=0.2,0.4", "seed=0", "+finetune.init=finetune"]
        config = compose("config", ["experiment=distill_grid"], return_hydra_config=True)
    with read_write(config), open_dict(config):
        config.hydra.overrides.task = given
    drop_overridden_params(config)
    assert list(config.hydra.sweeper.params) == ["distill.stages"]


@pytest.mark.slow
def test_the_grid_on_digits(command: Command, tmp_path: Path) -> None:
    """One seed and two percentages, which replace those of the experiment; without controls and figures."""
    less = ("seed=0", "percent=0.2,0.4", "finetune.init=finetune", "control=null")
    done = command(
        "-m", "experiment=distill_grid", *less, *SMALL, *SHORT, "stages=[pretrain,sparsify,prune,finetune]"
    )
    assert done.returncode == 0, done.stderr
    lines = [line.split(":")[0] for line in done.stdout.splitlines() if line.endswith(": running")]
    # "pretrain": 2, the teacher's is one; "logits": 2, of the views of either training that the teacher joins
    assert Counter(lines) == {"pretrain": 2, "logits": 2, "sparsify": 2, "prune": 4, "finetune": 8}
    summaries = [read_json(path) for path in (tmp_path / "outputs" / "distill_grid").glob("*/summary.json")]
    assert Counter("teacher" in one["stages"] for one in summaries) == {True: 6, False: 2}
