"""sensitivity, and the search greedy, through the command, on the real digits."""

import json
from pathlib import Path
from typing import Any

import pytest
from conftest import compose_config, run_command

from compress.config.build import build
from compress.errors import InputError
from compress.io.files import read_json, read_rows

SMALL = ("experiment=quick", "device=cpu", "model.depth=8", "tensorboard=false", "pretrain.epochs=1")
BUDGETS = ("0.5", "0.3")
GROUPS = 6


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    """A sweep over two budgets: its working folder, and the summaries."""
    base = tmp_path_factory.mktemp("sensitivity")
    done = run_command(base, "-m", "method=sensitivity", f"preserve_ratio={','.join(BUDGETS)}", *SMALL)
    assert done.returncode == 0, done.stderr
    summaries = [read_json(path) for path in sorted(base.glob("outputs/sweeps/*/summary.json"))]
    return base, sorted(summaries, key=lambda summary: -summary["config"]["preserve_ratio"])


def folder_of(base: Path, budget: str) -> Path:
    return next(path.parent for path in base.glob(f"outputs/sweeps/*preserve_ratio={budget}*/summary.json"))


def test_all_budgets_share_one_table(swept: tuple[Path, list[dict[str, Any]]]) -> None:
    base, summaries = swept
    assert [summary["stages"]["sparsify"]["reused"] for summary in summaries] == [False, True]
    assert len({summary["stages"]["prune"]["key"] for summary in summaries}) == 2
    assert len(list(base.glob("outputs/cache/sparsify-*/sensitivity.json"))) == 1
    for summary in summaries:
        assert list(summary["stages"]) == ["pretrain", "sparsify", "prune", "finetune", "eval"]
        assert summary["budget"]["met"]
        assert summary["budget"]["achieved"]["preserve_ratio"] <= summary["budget"]["asked"]["preserve_ratio"]
        assert summary["stages"]["sparsify"]["evaluations"] == 1 + 2 * GROUPS
        assert summary["stages"]["prune"]["evaluations"] == 1
    for budget in BUDGETS:
        assert (folder_of(base, budget) / "plots" / "sensitivity.png").is_file()
        rows = [row for row in read_rows(folder_of(base, budget)) if row["stage"] == "sparsify"]
        assert [row["evaluations"] for row in rows] == list(range(1, 2 + 2 * GROUPS))


def test_compare_counts_the_table_and_the_chosen_widths(swept: tuple[Path, list[dict[str, Any]]]) -> None:
    base, _ = swept
    folders = [str(folder_of(base, budget)) for budget in BUDGETS]
    found = json.loads(run_command(base, "compare", *folders, "--format", "json").stdout)
    rows = found["runs"] if isinstance(found, dict) else found
    assert [row["evaluations"] for row in rows] == [2 + 2 * GROUPS] * 2
    assert all(row["search_seconds"] > 0 for row in rows)


def test_rule_measure_and_counter_need_no_new_table_and_a_scorer_does(
    swept: tuple[Path, list[dict[str, Any]]],
) -> None:
    base, _ = swept
    cut = ("method=sensitivity", *SMALL, "stages=[pretrain,sparsify,prune]", "plots=false")
    for number, (changes, reused) in enumerate(
        (
            (("method.rule=greedy", "method.measure=loss", "method.counter=fvcore", "percent=0.4"), True),
            (("scorer=refit",), False),
        )
    ):
        done = run_command(base, *cut, *changes, f"hydra.run.dir=out-{number}")
        assert done.returncode == 0, done.stderr
        summary = read_json(base / f"out-{number}" / "summary.json")
        assert summary["stages"]["sparsify"]["reused"] == reused
        assert summary["budget"]["met"]


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (["preserve_ratio=0.001"], "preserve_ratio=0.001: out of reach; the narrowest allowed widths have"),
        (["preserve_ratio=0.9", "method.rbound=0.5"], "preserve_ratio=0.9: out of reach; the widest allowed widths"),
        (["method.lbound=0.9", "method.rbound=0.5"], "method.lbound=0.9: must not be above method.rbound=0.5"),
        (["search=greedy"], "search=greedy: this method has no search"),
        (["method.rule=gready"], "method.rule=gready: must be"),
    ],
)
def test_what_cannot_be_is_told_before_the_run(overrides: list[str], told: str) -> None:
    with pytest.raises(InputError) as caught:
        build(compose_config("method=sensitivity", *overrides))
    assert len(caught.value.problems) == 1
    assert told in caught.value.problems[0]


@pytest.mark.slow
def test_greedy_is_a_search_of_sample(swept: tuple[Path, list[dict[str, Any]]]) -> None:
    base, _ = swept
    cut = (*SMALL, "stages=[pretrain,prune]", "hydra.run.dir=greedy")
    done = run_command(base, "method=sample", "search=greedy", "search.step=0.05", *cut)
    assert done.returncode == 0, done.stderr
    summary = read_json(base / "greedy" / "summary.json")
    assert summary["budget"]["met"]
    rows = [row for row in read_rows(base / "greedy") if "iteration" in row]
    assert rows[-1]["evaluations"] == summary["stages"]["prune"]["evaluations"] > GROUPS
    own = read_json(base / "greedy" / "plan.json")["own"]
    assert own["search"] == "greedy"
    assert own["top1"] == own["candidates"][0]["top1"]
    assert {"search.png", "candidates.png"} <= {path.name for path in (base / "greedy" / "plots").iterdir()}
