"""The criterion of a run through the command, on the real digits: methods, searches and controls go by it."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from conftest import CPU, Command, compose_config, run_command
from torch import nn

from compress.config.build import make
from compress.config.command_line import hydra_arguments
from compress.config.criteria import GivenBatches, criterion_of
from compress.config.rules import check
from compress.io.files import read_json
from compress.io.seeds import derive_seed
from compress.prune.criteria.criterion import totals
from compress.prune.method import criterion_of as criterion_of_method
from compress.schema.settings import of_results

SMALL = (
    "experiment=quick", "device=cpu", "model=resnet20", "model.depth=8", "plots=false", "tensorboard=false",
    "stages=[pretrain,prune,eval]",
)  # fmt: skip


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("criteria")


def run(base: Path, name: str, *arguments: str) -> tuple[dict[str, Any], dict[str, Any], str]:
    """The summary, the plan, and what was printed."""
    done = run_command(base, *SMALL, *arguments, f"hydra.run.dir={name}")
    assert done.returncode == 0, done.stderr
    return read_json(base / name / "summary.json"), read_json(base / name / "plan.json"), done.stdout


def kept(plan: dict[str, Any]) -> dict[str, list[int]]:
    return {name: group["kept"] for name, group in plan["groups"].items()}


@pytest.mark.slow
def test_a_ranking_and_its_uniform_control_go_by_it(base: Path) -> None:
    ranking = (
        "method=filter_magnitude",
        "method.coupled=sum",
        "method.scope=global",
        "preserve_ratio=0.5",
        "control=uniform",
    )
    summary, plan, _ = run(base, "taylor", *ranking, "method.criterion=taylor", "method.protect=0.9")
    assert summary["budget"]["met"]
    assert summary["config"]["method"]["criterion"]["name"] == "taylor"
    uniform = kept(read_json(base / "taylor" / "controls" / "uniform" / "plan.json"))
    mine = kept(plan)
    assert all(set(mine[name]) <= set(uniform[name]) or set(uniform[name]) <= set(mine[name]) for name in mine)
    assert mine != uniform  # the same order, other widths


def test_a_search_and_its_uniform_control_keep_the_channels_that_it_says(base: Path) -> None:
    search = ("method=sample", "search.draws=2", "scorer.images=64", "scorer.score_images=64", "control=uniform")
    _, plan, _ = run(base, "sample", *search, "criterion=random", "seed=3")
    sample = GivenBatches(None, CPU, derive_seed(3, "criterion"), "")
    graph = [SimpleNamespace(name=name, width=group["width"]) for name, group in plan["groups"].items()]
    scores = totals(criterion_of("random")(nn.Module(), graph, sample))  # type: ignore[arg-type]
    for told in (plan, read_json(base / "sample" / "controls" / "uniform" / "plan.json")):
        for name, channels in kept(told).items():
            assert channels == scores[name].sort(descending=True).indices[: len(channels)].sort().values.tolist()


def test_a_wrong_criterion_is_told_before_anything_runs(command: Command, tmp_path: Path) -> None:
    for arguments, told in [
        (("method=sample", "criterion=tailor"), "criterion=tailor: unknown choice; did you mean taylor?"),
        (("method=slimming", "criterion=taylor"), "criterion=taylor: this method has no criterion; such as"),
    ]:
        done = command(*arguments)
        assert done.returncode == 2, done.stdout
        assert told in done.stderr
        assert len(done.stderr.strip().splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_the_choice_may_stand_in_the_method_too() -> None:
    assert hydra_arguments(["method.criterion=taylor", "method=sample"]) == ["criterion=taylor", "method=sample"]
    assert hydra_arguments(["-m", "method.criterion=l1,bn_scale"]) == ["-m", "criterion=l1,bn_scale"]
    assert hydra_arguments(["method.criterion=null", "method.criterion.images=3"]) == ["method.criterion.images=3"]
    other = ["method=magnitude", "method.criterion=std"]  # a setting of its own, which is none of channels
    assert hydra_arguments(other) == other
    assert check(compose_config(*other)) == []
    assert check(compose_config(*other, "criterion=l1"))[0].startswith("criterion=l1: this method has no criterion")
    assert check(compose_config("method=sample", "method.criterion=tailor")) == [
        "method.criterion=tailor: must be chosen as a group, criterion=<one of its choices>"
    ]


def test_a_methods_own_setting_of_that_name_is_no_criterion_of_the_run() -> None:
    for method, is_one in (("magnitude", False), ("filter_magnitude", False), ("slimming", False)):
        assert (criterion_of_method(make(compose_config(f"method={method}")["method"])) is not None) == is_one
    taken = make(compose_config("method=filter_magnitude", "criterion=fpgm")["method"])
    assert criterion_of_method(taken) == criterion_of("fpgm")


@pytest.mark.parametrize("method", ["amc", "camc", "sample", "sensitivity", "filter_magnitude"])
def test_every_method_that_orders_channels_takes_one_and_without_it_is_found_as_before(method: str) -> None:
    config = compose_config(f"method={method}", "criterion=taylor")
    assert config["method"]["criterion"]["of"] == "readers"
    assert of_results(config["method"])["criterion"] == config["criterion"]
    without = compose_config(f"method={method}")["method"]
    assert without["criterion"] is None
    assert not {"criterion", "protect"} & of_results(without).keys()  # no part of a cache key
    if "protect" in without:
        assert of_results(without | {"protect": 0.9})["protect"] == 0.9
