"""Which settings are columns: laws on small configs, and on the composed ones."""

import pytest
from conftest import compose_config

from compress.report.read.settings import settings_of
from compress.report.table.differences import differing, short_keys
from compress.schema.settings import ADDED_LATER


def composed(*overrides: str) -> dict[str, object]:
    return settings_of(compose_config(*overrides))


def test_runs_of_one_config_differ_in_nothing() -> None:
    assert differing([composed(), composed()]) == []


@pytest.mark.parametrize(
    "methods", [("amc", "slimming"), ("camc", "amc", "magnitude", "filter_magnitude", "slimming")]
)
def test_another_method_is_one_column_and_not_its_inner_settings(methods: tuple[str, ...]) -> None:
    assert differing([composed(f"method={method}") for method in methods]) == ["method"]


def test_an_inner_setting_is_a_column_where_runs_of_one_method_differ_in_it() -> None:
    runs = [composed("method=slimming"), composed("method=slimming", "method.l1=0.5"), composed("method=amc")]
    assert differing(runs) == ["method", "method.l1"]


def test_copies_of_a_recipe_do_not_count_again() -> None:
    runs = [composed("method=slimming", f"pretrain.lr={lr}") for lr in (0.1, 0.2)]
    assert runs[0]["method.training.lr"] == 0.1
    assert differing(runs) == ["pretrain.lr"]
    apart = [composed("method=slimming", f"method.training.lr={lr}") for lr in (0.1, 0.2)]
    assert differing(apart) == ["method.training.lr"]


def test_two_recipes_that_move_together_are_two_columns() -> None:
    runs = [composed(f"pretrain.epochs={n}", f"finetune.epochs={n}", "method=filter_magnitude") for n in (1, 2)]
    assert differing(runs) == ["pretrain.epochs", "finetune.epochs"]


def test_what_changes_no_result_and_budgets_are_no_columns() -> None:
    runs = [composed("percent=0.5"), composed("preserve_ratio=0.5", "threads=1", "device=cpu", "plots=false")]
    assert differing(runs) == []


def test_groups_come_first_and_the_seed_last() -> None:
    runs = [composed("seed=1", "finetune.lr=0.1"), composed("teacher=zoo", "distill=kd", "method=amc")]
    assert differing(runs) == ["method", "teacher", "distill", "finetune.lr", "seed"]


def test_a_reward_is_a_setting_of_its_method() -> None:
    assert differing([composed("method=amc"), composed("method=amc", "reward=acc_flops")])[0] == "method.reward"


def test_names_are_as_short_as_they_are_clear() -> None:
    known = ["finetune.lr", "pretrain.lr", "method.l1", "seed", "model.depth", "teacher.model.depth"]
    assert short_keys(known, known) == {
        "finetune.lr": "finetune.lr",
        "pretrain.lr": "pretrain.lr",
        "method.l1": "l1",
        "seed": "seed",
        "model.depth": "model.depth",
        "teacher.model.depth": "teacher.model.depth",
    }
    assert short_keys(["method.l1"], known, taken=("l1",)) == {"method.l1": "method.l1"}
    assert short_keys(["n", "model.n"], ["n", "model.n"], taken=("n",)) == {"n": "config.n", "model.n": "model.n"}


def test_a_setting_that_older_runs_do_not_have_is_a_column_only_where_it_does_something() -> None:
    old = composed("method=slimming")
    for key in ("devices", *[key for key in old if key.endswith(("hold_epochs", "clip_norm", "label_smoothing"))]):
        del old[key]
    assert differing([old | {"devices": 1}, composed("method=slimming")]) == []
    latency = {"latency.runtime": "torch", "latency.accept": False}
    others = {key: value for key, value in ADDED_LATER.items() if key != "latency"}
    assert settings_of({"seed": 0}) == {"seed": 0} | others | latency
    held = composed("method=slimming", "finetune.hold_epochs=2", "devices=2")
    assert differing([old | {"devices": 1}, held]) == ["devices", "finetune.hold_epochs"]
    assert differing([{"method": "a"}, {"method": "a", "method.l1": 0.5}]) == ["method.l1"]
    assert differing([{}, {"control": "random 1"}]) == ["control"]
