"""supernet, metaprune and sample through the command, on the real digits."""

import json
from pathlib import Path
from typing import Any

import pytest
from conftest import run_command

from compress.io.files import read_json, read_rows

SMALL = ("experiment=quick", "device=cpu", "model=resnet20", "tensorboard=false", "pretrain.epochs=1")
LIMITS = ("1.6", "1.0")


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]], str]:
    """A sweep over two limits: its working folder, the summaries and what it printed."""
    base = tmp_path_factory.mktemp("supernet")
    done = run_command(base, "-m", "method=supernet", f"flops_limit={','.join(LIMITS)}", *SMALL)
    assert done.returncode == 0, done.stderr
    summaries = [read_json(path) for path in sorted(base.glob("outputs/sweeps/*/summary.json"))]
    return base, sorted(summaries, key=lambda summary: -summary["config"]["flops_limit"]), done.stdout


def folder_of(base: Path, limit: str) -> Path:
    return next(path.parent for path in base.glob(f"outputs/sweeps/*flops_limit={limit}*/summary.json"))


def test_all_limits_share_one_supernet_and_what_it_scored(swept: tuple[Path, list[dict[str, Any]], str]) -> None:
    base, summaries, _ = swept
    assert [summary["stages"]["sparsify"]["reused"] for summary in summaries] == [False, True]
    assert len({summary["stages"]["prune"]["key"] for summary in summaries}) == 2
    assert len(list(base.glob("outputs/cache/scores-*.jsonl"))) == 1
    for summary in summaries:
        assert list(summary["stages"]) == ["sparsify", "prune", "finetune", "eval"]
        assert list(summary["results"]) == ["pruned", "from scratch"]
        assert summary["budget"]["met"]
        assert summary["budget"]["achieved"]["flops_limit"] <= summary["budget"]["asked"]["flops_limit"]
        assert summary["stages"]["finetune"]["init"] == "scratch"


def test_the_plan_lists_the_candidates_best_first_with_every_counter(
    swept: tuple[Path, list[dict[str, Any]], str],
) -> None:
    base, _, _ = swept
    own = read_json(folder_of(base, "1.0") / "plan.json")["own"]
    assert own["gene"] == own["candidates"][0]["gene"]
    keys = [(-one["top1"], one["loss"]) for one in own["candidates"]]
    assert keys == sorted(keys)
    assert len(keys) >= 10
    for one in own["candidates"]:
        counted = one["counters"]
        assert counted["macs"] <= 1.0e6
        assert counted["macs"] < counted["search"] < counted["fvcore"] == counted["ptflops"]
    assert own["counter"] == "macs"
    assert {"supernet.png", "search.png", "candidates.png"} <= {
        path.name for path in (folder_of(base, "1.0") / "plots").iterdir()
    }


def test_rows_tell_generations_evaluations_and_fixed_genes(swept: tuple[Path, list[dict[str, Any]], str]) -> None:
    base, summaries, _ = swept
    rows = read_rows(folder_of(base, "1.6"))
    generations = [row for row in rows if "generation" in row]
    assert [row["generation"] for row in generations] == [0, 1]
    assert generations[-1]["evaluations"] == summaries[0]["stages"]["prune"]["evaluations"] == 6 + 14
    trained = [row for row in rows if row["stage"] == "sparsify"]
    assert {"top1_widest", "top1_middle", "top1_narrow", "top1_drawn_1", "top1_drawn_2", "score"} <= trained[
        -1
    ].keys()


def test_compare_has_columns_of_the_search(swept: tuple[Path, list[dict[str, Any]], str]) -> None:
    base, _, _ = swept
    folders = [str(folder) for folder in sorted(base.glob("outputs/sweeps/*flops*"))]
    table = run_command(base, "compare", *folders)
    assert table.returncode == 0, table.stderr
    assert "candidates" in table.stdout
    assert "20" in table.stdout
    found = json.loads(run_command(base, "compare", *folders, "--format", "json").stdout)
    for row in found["runs"] if isinstance(found, dict) else found:
        assert row["evaluations"] == 20
        assert row["macs"] < row["macs_search"] < row["macs_fvcore"]
    genes = [read_json(folder / "plan.json")["own"]["gene"] for folder in map(Path, folders)]
    shown = [json.loads(row["gene"]) for row in (found["runs"] if isinstance(found, dict) else found)]
    assert sorted(shown) == sorted(genes)


@pytest.mark.slow
def test_another_candidate_or_a_given_gene_is_trained_without_a_new_search(
    swept: tuple[Path, list[dict[str, Any]], str],
) -> None:
    base, _, _ = swept
    first = read_json(folder_of(base, "1.0") / "plan.json")["own"]
    second = ("method=supernet", "method.candidate=2", "flops_limit=1.0", "stages=[sparsify,prune]")
    done = run_command(base, *second, *SMALL, "hydra.run.dir=second")
    assert done.returncode == 0, done.stderr
    summary = read_json(base / "second" / "summary.json")
    assert summary["stages"]["sparsify"]["reused"]
    own = read_json(base / "second" / "plan.json")["own"]
    assert own["widths"] == first["candidates"][1]["widths"]
    gene = f"method.gene=[{','.join(map(str, own['gene']))}]"
    done = run_command(base, "method=supernet", gene, *SMALL, "stages=[prune]", "hydra.run.dir=given")
    assert done.returncode == 0, done.stderr
    given = read_json(base / "given" / "plan.json")
    assert given["own"]["widths"] == own["widths"]
    assert read_json(base / "given" / "summary.json")["budget"]["met"]  # the default budget becomes the gene's own


@pytest.mark.slow
def test_what_cannot_be_is_refused_in_one_line(swept: tuple[Path, list[dict[str, Any]], str]) -> None:
    base, _, _ = swept
    wrong = {
        ("flops_limit=0.001",): "flops_limit=0.001 MMACs: out of reach; the narrowest allowed widths have",
        ("method.gene=[1,2]",): "method.gene=[1,2]: has 2 entries; must have 12",
        ("search.parents=100",): "search.parents=100: must be <= search.select=15",
        ("method.weights=generated", "method.hidden=10000", "model=resnet110"): "method.hidden=",
    }
    for arguments, told in wrong.items():
        done = run_command(base, "method=supernet", *SMALL, *arguments, "hydra.run.dir=wrong")
        assert done.returncode == 2, (arguments, done.stderr)
        assert told in done.stderr
        assert len(done.stderr.splitlines()) == 1
    assert not (base / "wrong").exists()


def test_a_supernet_that_learned_nothing_is_not_searched(tmp_path: Path) -> None:
    """Its search would pick by noise."""
    arguments = ("method=supernet", "method.training.epochs=0", "flops_limit=1.0", "hydra.run.dir=out")
    done = run_command(tmp_path, *arguments, *SMALL, "method.least_over_chance=1.5")
    assert done.returncode == 2
    assert "near chance for 10 classes" in done.stderr
    assert "method.training.epochs" in done.stderr


@pytest.mark.slow
def test_metaprune_generates_its_weights(tmp_path: Path) -> None:
    arguments = ("method=metaprune", "method.hidden=4", "method.training.epochs=6", "hydra.run.dir=out")
    done = run_command(tmp_path, *arguments, *SMALL)
    assert done.returncode == 0, done.stderr
    summary = read_json(tmp_path / "out" / "summary.json")
    assert summary["budget"]["met"]
    gene = read_json(tmp_path / "out" / "plan.json")["own"]["gene"]
    assert len(gene) == 12
    assert all(0 <= option <= 30 for option in gene)


@pytest.mark.slow
@pytest.mark.parametrize("changes", [(), pytest.param(("search=evolution", "scorer=refit"), marks=pytest.mark.slow)])
def test_sample_takes_any_search_on_any_scorer(
    changes: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory
) -> None:
    base = tmp_path_factory.getbasetemp() / "sample"
    base.mkdir(exist_ok=True)
    out = f"hydra.run.dir=out-{len(list(base.iterdir()))}"
    done = run_command(base, "method=sample", *changes, *SMALL, out, "control=uniform", "plots=false")
    assert done.returncode == 0, done.stderr
    summary = read_json(base / out.partition("=")[2] / "summary.json")
    assert summary["budget"]["met"]
    assert {"pruned, uniform", "finetuned, uniform"} <= summary["results"].keys()
    evaluations = summary["stages"]["prune"]["evaluations"]
    assert evaluations == (20 if "search=evolution" in changes else 8)
    pruned, uniform = (summary["results"][name]["macs"] for name in ("pruned", "pruned, uniform"))
    assert uniform <= pruned


@pytest.mark.slow
def test_two_devices_train_one_supernet(tmp_path: Path) -> None:
    """Both ranks draw the same genes, or the gradients would not belong together."""
    arguments = ("method=supernet", "method.training.epochs=8", "devices=2", "hydra.run.dir=out", "plots=false")
    done = run_command(tmp_path, *arguments, *SMALL, "stages=[sparsify,prune]")
    assert done.returncode == 0, done.stderr
    learned = read_json(tmp_path / "out" / "summary.json")["stages"]["sparsify"]
    assert learned["top1_widest"] > 40
