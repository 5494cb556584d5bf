"""What a sweeper that searches is told of a run, and that it searches for the better networks."""

from pathlib import Path
from typing import Any

import pytest
from conftest import Command, compose_config
from omegaconf import OmegaConf
from test_sweeps import CUT, computed, job_folders

from compress.config.rules import check
from compress.config.sweeper_objectives import check_direction
from compress.io.files import read_json
from compress.run.folder import config_hash
from compress.run.sweep_jobs import SweepJob, begun_jobs, forget_begun, note_begun
from compress.run.sweeper_objective import objective

SUMMARY: dict[str, Any] = {
    "stages": {"pretrain": {"held_out_top1": 90.0}, "prune": {}, "finetune": {"held_out_top1": 80.0}},
    "results": {
        "dense": {"top1": 91.0, "macs": 100}, "finetuned": {"top1": 81.0, "macs": 50},
        "finetuned, random 1": {"top1": 1.0, "macs": 1},
    },
}  # fmt: skip


def test_the_objective_is_of_the_last_network_on_held_out_images_unless_asked() -> None:
    assert objective(SUMMARY, "held_out_top1", lambda: None) == 80.0
    assert objective(SUMMARY, "top1", lambda: None) == 81.0
    assert objective(SUMMARY, ["held_out_top1", "macs"], lambda: None) == (80.0, 50.0)
    assert objective(SUMMARY, ["top1", "bytes"], lambda: None) is None
    assert compose_config()["objective"] == "held_out_top1"


def test_a_network_that_nobody_trained_since_is_measured() -> None:
    cut = {"stages": {"pretrain": {"held_out_top1": 90.0}, "prune": {}}, "results": {}}
    assert objective(cut, "held_out_top1", lambda: 12.0) == 12.0
    assert objective(cut, "held_out_top1", lambda: None) is None
    assert objective(cut, "top1", lambda: 12.0) is None


def test_it_is_outside_of_what_results_depend_on() -> None:
    assert config_hash(compose_config("objective=top1")) == config_hash(compose_config("objective=macs"))


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["objective=accuracy"], "objective=accuracy: must be one of held_out_top1, top1"),
        (["objective=top1", "stages=[pretrain]"], "objective=top1: eval is not among the stages of this run"),
    ],
)
def test_a_figure_that_a_run_will_not_have_is_told(overrides: list[str], expected: str) -> None:
    (problem,) = check(compose_config(*overrides))
    assert problem.startswith(expected)


@pytest.mark.parametrize(
    ("figures", "direction", "told"),
    [
        ("held_out_top1", None, ""),
        ("held_out_top1", "maximize", ""),
        ("macs", "minimize", ""),
        ("held_out_top1", "minimize", "would find the worst network; give maximize"),
        (["held_out_top1", "macs"], ["maximize", "minimize"], ""),
        (["held_out_top1", "macs"], "maximize", "must be one for each of objective=held_out_top1,macs"),
    ],
)
def test_a_sweeper_is_to_search_in_the_right_direction(figures: Any, direction: Any, told: str) -> None:
    sweeper = {} if direction is None else {"direction": direction}
    problems = check_direction(OmegaConf.create({"objective": figures, "hydra": {"sweeper": sweeper}}))
    assert [told in problem for problem in problems] == ([True] if told else [])


def test_jobs_that_a_sweeper_thought_of_are_known_once_they_begin(tmp_path: Path) -> None:
    for number, seed in enumerate((0, 1, 0)):
        note_begun(tmp_path, "this", SweepJob(tmp_path / str(seed), {"seed": str(seed), "a": "b"}, f"hash{number}"))
    assert [str(job) for job in begun_jobs(tmp_path, "this")] == ["seed=0", "seed=1"]
    assert begun_jobs(tmp_path, "another") == []
    forget_begun(tmp_path, "this")
    assert list(tmp_path.iterdir()) == []


def test_optuna_searches_by_the_held_out_images_and_ends_in_one_table(command: Command, tmp_path: Path) -> None:
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper")
    sweep = ("-m", "hydra/sweeper=optuna", "hydra.sweeper.n_trials=3", "hydra.sweeper.sampler.seed=0", *CUT)
    wrong = command(*sweep, "percent=interval(0.2,1.6)", "hydra.sweeper.direction=maximize")
    assert wrong.returncode == 2
    assert "percent=1.6: must be in [0, 1)" in wrong.stderr
    assert list(tmp_path.iterdir()) == []
    searched = (
        tmp_path / "mine" / "experiment" / "search.yaml"
    )  # what is searched can stand in a file, as Hydra has it
    searched.parent.mkdir(parents=True)
    searched.write_text("# @package _global_\nhydra:\n  sweeper:\n    params:\n      percent: interval(0.2,0.6)\n")
    asked = ("experiment=search", "hydra.sweeper.direction=maximize")
    sweep = ("-m", "--config-dir", "mine", *sweep[1:])
    done = command(*sweep, *asked)
    assert done.returncode == 0, done.stderr
    summaries = [read_json(folder / "summary.json") for folder in job_folders(tmp_path).values()]
    assert len(summaries) == 3
    best = max(summary["stages"]["finetune"]["held_out_top1"] for summary in summaries)
    found = OmegaConf.load(tmp_path / "outputs/sweeps/optimization_results.yaml")
    assert found.best_value == pytest.approx(best)
    assert "\n3 runs; all: " in done.stdout.split("\n\n")[-1]
    assert not list(tmp_path.glob("outputs/sweeps/.begun-*"))
    again = command(*sweep, *asked)  # what is finished is worth the same as before
    assert again.returncode == 0, again.stderr
    assert computed(again.stdout) == {}
    assert OmegaConf.load(tmp_path / "outputs/sweeps/optimization_results.yaml") == found
