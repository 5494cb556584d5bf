"""Whole runs on the real digits: what they leave, what they reuse, and what a kill costs."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Command, compose_config, run_command, zoo

import compress
from compress.config.build import build
from compress.io.files import read_json, read_rows, write_json
from compress.run.folder import foreign_run, put_run_aside
from compress.run.pipeline import finished_summary, stage_keys

QUICK = ("experiment=quick", "device=cpu")


def run_folder(output: str, base: Path) -> Path:
    line = next(line for line in output.splitlines() if line.startswith("run folder: "))
    return base / line.removeprefix("run folder: ").split("  (")[0]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """One quick run; its working folder and what it printed."""
    base = tmp_path_factory.mktemp("run")
    command = [sys.executable, "-m", "compress", "method=camc", "preserve_ratio=0.5", *QUICK]  # in no fork
    done = subprocess.run(command, cwd=base, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return base, done.stdout


def test_it_prints_one_table_with_asked_and_achieved_side_by_side(finished: tuple[Path, str]) -> None:
    _, output = finished
    lines = output.splitlines()
    head = next(i for i, line in enumerate(lines) if "test top-1" in line)
    assert all(
        word in lines[head]
        for word in ("MACs", "of dense", "asked preserve_ratio", "achieved", "params", "file", "latency")
    )
    assert [line.split()[0] for line in lines[head + 2 : head + 5]] == ["dense", "pruned", "finetuned"]
    assert "50.00 %" in lines[head + 3]


def test_the_run_folder_explains_itself(finished: tuple[Path, str]) -> None:
    folder = run_folder(finished[1], finished[0])
    for name in ("summary.json", "metrics.jsonl", "plan.json", "model.safetensors", "split.json", "compress.log"):
        assert (folder / name).is_file(), name
    assert (folder / ".hydra" / "config.yaml").is_file()
    drawn = sorted(path.name for path in (folder / "plots").iterdir())
    assert drawn == ["policy.png", "search.png", "training.png", "widths.png"]
    assert (folder / "agent.pt").is_file()
    assert list((folder / "tb").iterdir())

    summary = read_json(folder / "summary.json")
    assert summary["status"] == "done"
    assert list(summary["stages"]) == ["pretrain", "sparsify", "prune", "finetune", "eval"]
    for stage in summary["stages"].values():
        assert {"key", "seconds", "reused"} <= set(stage)
    assert list(summary["results"]) == ["dense", "pruned", "finetuned"]
    for row in summary["results"].values():
        assert {"top1", "top5", "macs", "params", "bytes", "latency_ms"} <= set(row)
        assert 0 <= row["top1"] <= row["top5"] <= 100
    assert summary["budget"]["asked"] == {"preserve_ratio": 0.5}
    assert {"preserve_ratio", "percent", "macs"} <= set(summary["budget"]["achieved"])
    macs = summary["results"]["pruned"]["macs"]
    assert macs == summary["budget"]["achieved"]["macs"] == summary["results"]["finetuned"]["macs"]
    assert macs / summary["results"]["dense"]["macs"] == pytest.approx(0.5, abs=0.03)
    assert summary["config"]["method"]["name"] == "camc"
    assert sum(summary["split"][part] for part in ("train", "held_out", "test")) == 1797
    assert "torch" in summary["versions"]

    rows = read_rows(folder)
    assert [row["epoch"] for row in rows if row["stage"] == "pretrain"] == [1, 2]
    assert [row["episode"] for row in rows if row["stage"] == "sparsify"] == list(range(1, 13))
    plan = read_json(folder / "plan.json")
    for group in plan["groups"].values():
        assert group["kept_width"] == len(group["kept"]) <= group["width"]
    assert plan["own"]["widths"] == [group["kept_width"] for group in plan["groups"].values()]
    assert len(plan["own"]["strategy"]) == len(plan["own"]["d_primes"]) == len(plan["own"]["layers"]) == 22


def test_the_network_loads_in_a_fresh_process_with_the_same_logits(finished: tuple[Path, str]) -> None:
    folder = run_folder(finished[1], finished[0])
    summary = read_json(folder / "summary.json")
    code = (
        "import sys, torch, compress; model = compress.load(sys.argv[1]); "
        "x = torch.arange(128.).view(2, 1, 8, 8) / 64; print(model(x).tolist())"
    )
    fresh = subprocess.run([sys.executable, "-c", code, str(folder)], capture_output=True, text=True)
    model = compress.load(folder)
    expected = model(torch.arange(128.0).view(2, 1, 8, 8) / 64)
    assert torch.allclose(torch.tensor(json.loads(fresh.stdout)), expected, atol=1e-5)
    assert sum(p.numel() for p in model.parameters()) == summary["results"]["finetuned"]["params"]


@pytest.mark.slow
def test_another_ratio_reuses_network_and_agent(finished: tuple[Path, str]) -> None:
    base, _ = finished
    done = run_command(base, "preserve_ratio=0.3", *QUICK)
    assert done.returncode == 0, done.stderr
    assert "pretrain: the dense network is reused from" in done.stdout
    assert "sparsify: the agent is reused from" in done.stdout
    assert "reused: pretrain, sparsify" in done.stdout
    summary = read_json(run_folder(done.stdout, base) / "summary.json")
    assert {name: stage["reused"] for name, stage in summary["stages"].items()} == {
        "pretrain": True, "sparsify": True, "prune": False, "finetune": False, "eval": False,
    }  # fmt: skip
    rows = read_rows(run_folder(done.stdout, base))
    assert {row["stage"] for row in rows} == {"pretrain", "sparsify", "finetune", "eval"}


def test_force_computes_a_stage_and_what_follows_again(finished: tuple[Path, str]) -> None:
    base, _ = finished
    done = run_command(base, "preserve_ratio=0.5", "force=[finetune]", *QUICK)
    summary = read_json(run_folder(done.stdout, base) / "summary.json")
    assert [name for name, stage in summary["stages"].items() if not stage["reused"]] == ["finetune", "eval"]


@pytest.mark.slow
def test_a_fixed_folder_is_never_written_over(command: Command, tmp_path: Path) -> None:
    fixed = ("hydra.run.dir=mine", "stages=[pretrain,eval]", *QUICK)
    first = command(*fixed)
    assert first.returncode == 0, first.stderr
    again = command(*fixed)
    assert "is a finished run of this config: nothing to do" in again.stdout
    before = (tmp_path / "mine" / ".hydra" / "config.yaml").read_text()
    other = command(*fixed, "seed=1")
    assert other.returncode == 2
    assert other.stderr.startswith(
        "compress: mine: holds a run of another config (seed: 0 -> 1); choose another hydra.run.dir"
    )
    assert (tmp_path / "mine" / ".hydra" / "config.yaml").read_text() == before
    config = compose_config(*fixed[1:])
    assert foreign_run(tmp_path / "mine", config, "hydra.run.dir", devices=1) == []
    (told,) = foreign_run(tmp_path / "mine", config, "hydra.run.dir", devices=2)
    assert told.endswith("mine: holds a run that was trained on 1 devices, not on 2; choose another hydra.run.dir")

    summary = read_json(tmp_path / "mine" / "summary.json")
    job, digest = build(config), summary["config_hash"]
    assert finished_summary(tmp_path / "mine", job, digest) == summary
    for damage in (
        {"stages": None},
        {"stages": {"pretrain": None}},
        {"status": None},
        {"results": {}},
        {"seconds": "x"},
        {},
    ):
        broken = {**summary, **damage} if damage else {"config_hash": digest}
        (tmp_path / "mine" / "summary.json").write_text(json.dumps(broken))
        assert finished_summary(tmp_path / "mine", job, digest) is None
    write_json(tmp_path / "mine" / "summary.json", summary)
    network = tmp_path / "mine" / "model.safetensors"
    content = bytearray(network.read_bytes())
    content[-5] ^= 1
    network.write_bytes(content)
    assert finished_summary(tmp_path / "mine", job, digest) is None


def test_what_shows_when_images_are_read_is_told_by_its_key(command: Command) -> None:
    told = command("dataset.held_out=0.0001")
    assert told.returncode == 2
    assert told.stderr == "compress: dataset.held_out=0.0001: holds 0 of 1347 images out; each part needs some\n"


@pytest.mark.parametrize("damage", ["[" * 100_000, "", "{}", '{"config": [1]}', "\0" * 50])
def test_what_a_damaged_run_left_is_put_aside(damage: str, tmp_path: Path) -> None:
    (tmp_path / "summary.json").write_text(damage)
    (tmp_path / "plan.json").write_text("theirs")
    (tmp_path / ".hydra").mkdir()
    assert foreign_run(tmp_path, {}, "hydra.run.dir") == []
    put_run_aside(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".hydra", "damaged"]
    assert (tmp_path / "damaged" / "plan.json").read_text() == "theirs"
    put_run_aside(tmp_path)  # nothing is there any more
    assert sorted(path.name for path in tmp_path.iterdir()) == [".hydra", "damaged"]


def test_a_folder_of_something_else_is_no_run_folder(tmp_path: Path) -> None:
    (tmp_path / ".hydra").mkdir()
    (tmp_path / "metrics.jsonl").touch()
    assert foreign_run(tmp_path, {}, "hydra.run.dir") == []  # of a run that was killed at its start
    (tmp_path / "thesis.tex").touch()
    (told,) = foreign_run(tmp_path, {}, "hydra.run.dir")
    assert told == f"{tmp_path}: holds other things than a run (thesis.tex); choose another hydra.run.dir"


@pytest.mark.slow
def test_bad_input_is_told_in_lines_and_leaves_nothing(command: Command, tmp_path: Path) -> None:
    bad = command("preserve_ratio=1.7", "pretrain.epochs=x", "dataset=cifar10", "dataset.root=/nope")
    assert bad.returncode == 2
    assert len(bad.stderr.splitlines()) == 3
    assert all(line.startswith("compress: ") for line in bad.stderr.splitlines())
    unknown = command("preserv_ratio=0.5")
    assert (unknown.returncode, len(unknown.stderr.splitlines())) == (2, 1)
    assert command("--config-dir", "/nope").stderr == "compress: --config-dir /nope: no such folder\n"
    choice = command("-m", "model=resnet20,resnet21")
    assert "model=resnet21 -> model=resnet21: unknown choice; did you mean resnet" in choice.stderr
    assert "Warning" not in choice.stderr
    sweep = command("-m", "preserve_ratio=0.5,1.7,0.3,-1")
    assert sweep.returncode == 2
    assert "2 of 4 jobs are wrong; nothing was started" in sweep.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_what_changes_a_result_changes_what_is_reused(finished: tuple[Path, str]) -> None:
    """Augmentation decides the trained weights; where the images lie, the device and the threads do not."""
    from conftest import compose_config

    from compress.config.build import build
    from compress.run.stages import STAGES

    def settings(stage: str, *overrides: str) -> Any:
        return STAGES[stage].depends_on(build(compose_config("device=cpu", *overrides)))

    for stage in ("pretrain", "finetune"):
        plain = settings(stage)
        for change in ("dataset.pad=0", "dataset.flip=true", f"{stage}.epochs=3", "seed=1", "dataset.held_out=0.3"):
            assert settings(stage, change) != plain, change
        for same in (
            "preserve_ratio=0.3",
            "method.default_budget.preserve_ratio=0.3",
            "outputs=elsewhere",
            "threads=1",
            "tensorboard=false",
            "reward=acc",
        ):
            assert settings(stage, same) == plain, same
    assert settings("sparsify") == settings("sparsify", "preserve_ratio=0.3") != settings("sparsify", "reward=acc")
    assert (
        settings("sparsify") == settings("sparsify", "method.rollouts=1") != settings("sparsify", "method.lbound=0.3")
    )
    assert settings("sparsify") == settings("sparsify", "method.default_budget.preserve_ratio=0.3")
    assert settings("prune") != settings("prune", "preserve_ratio=0.3")


def test_what_changes_a_stage_changes_all_that_follow_and_nothing_before() -> None:
    fixed = ("method=slimming", "percent=0.3", "control=uniform", "device=cpu")
    plain = stage_keys(build(compose_config(*fixed)))
    order = ["pretrain", "sparsify", "prune", "finetune", "prune uniform", "finetune uniform", "eval"]
    assert list(plain) == order
    cuts, controls = order[2:4], order[4:6]
    for change, changed in (
        ("pretrain.lr=0.06", order),
        ("dataset.pad=2", order),
        ("method.l1=0.002", order[1:]),
        ("percent=0.4", [*cuts, *controls, "eval"]),
        ("finetune.lr=0.06", ["finetune", "finetune uniform", "eval"]),
        ("eval.latency_threads=2", ["eval"]),
        ("pretrain.checkpoint_seconds=60", []),  # of the recipes of sparsify and finetune too
        ("finetune.checkpoint_seconds=60", []),
    ):
        others = stage_keys(build(compose_config(*fixed, change)))
        assert [name for name in order if others[name] != plain[name]] == changed, change


@pytest.mark.slow
def test_jobs_of_a_sweep_never_share_a_folder(command: Command, tmp_path: Path) -> None:
    same = command("-m", "seed=0,1", "hydra.sweep.subdir=same", "stages=[pretrain,eval]", *QUICK)
    assert same.returncode == 2
    assert "2 jobs would share the folder outputs/sweeps/same" in same.stderr
    assert list(tmp_path.iterdir()) == []


def test_what_goes_wrong_in_a_run_is_told_on_standard_error(command: Command, tmp_path: Path) -> None:
    bad = command("pretrain.lr=1e20", *QUICK)
    assert bad.returncode == 2
    assert bad.stderr.startswith("compress: pretrain: the loss became nan in epoch 1")
    assert "; try pretrain.lr=1e+19, pretrain.warmup_epochs=5 or pretrain.clip_norm=1" in bad.stderr
    assert len(bad.stderr.splitlines()) == 1
    log = next(tmp_path.glob("outputs/*/*/compress.log")).read_text()
    assert "the loss became nan" in log
    summary = read_json(next(tmp_path.glob("outputs/*/*/summary.json")))
    assert summary["status"] == "failed"


@pytest.mark.slow
def test_a_folder_that_cannot_be_made_is_told(command: Command, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    bad = command("outputs=file", *QUICK)
    assert bad.returncode == 2
    assert bad.stderr.startswith("compress: outputs: cannot make the folder file")
    sweep = command("-m", "seed=0,1", "hydra.sweep.dir=file", *QUICK)
    assert (sweep.returncode, len(sweep.stderr.splitlines())) == (2, 1)
    assert sweep.stderr.startswith("compress: hydra.sweep.dir: cannot make the folder file")


@pytest.mark.slow
def test_a_sweep_gives_each_job_a_folder_and_skips_what_is_finished(command: Command, tmp_path: Path) -> None:
    sweep = ("-m", "stages=[pretrain,eval]", "seed=0,1", *QUICK)
    assert command(*sweep).returncode == 0
    folders = sorted(path.name for path in (tmp_path / "outputs" / "sweeps").iterdir() if path.is_dir())
    assert len(folders) == 2
    again = command(*sweep)
    assert again.stdout.count("is a finished run of this config: nothing to do") == 2


@pytest.mark.slow
def test_the_dense_network_of_a_run_teaches_what_becomes_of_it(command: Command, tmp_path: Path) -> None:
    small = ("model.depth=8", "model.width=8", "method=filter_magnitude", "plots=false", *QUICK)
    taught = command(*small, "teacher=self", "distill=kd", "hydra.run.dir=taught")
    assert taught.returncode == 0, taught.stderr
    summary, rows = read_json(tmp_path / "taught" / "summary.json"), read_rows(tmp_path / "taught")
    assert list(summary["stages"]) == ["pretrain", "prune", "finetune", "eval"]  # nothing is trained for it alone
    held_out = summary["stages"]["pretrain"]["held_out_top1"]
    assert f"finetune: the teacher's held-out top-1 is {held_out:.2f} %" in taught.stdout
    (row,) = [row for row in rows if row["stage"] == "finetune"]
    assert row["loss"] == pytest.approx(row["loss_ce"] + row["loss_kd"], abs=1e-5)
    assert not [key for row in rows if row["stage"] == "pretrain" for key in row if key.startswith("loss_")]
    refused = command(*small, "teacher=self", "distill=kd", "stages=[finetune]")
    assert refused.returncode == 2
    assert "teacher.stage=pretrain: pretrain is not among the stages of this run" in refused.stderr


def test_a_teacher_changes_the_keys_of_the_trainings_that_it_joins_and_of_no_others() -> None:
    def keys(*overrides: str) -> dict[str, str]:
        return stage_keys(build(compose_config("method=slimming", "device=cpu", *overrides)))

    kd = ("teacher=self", "distill=kd")
    plain = keys()
    both = keys(*kd, "distill.stages=[sparsify,finetune]")
    first, last = keys(*kd, "distill.stages=[sparsify]"), keys(*kd, "distill.stages=[finetune]")
    for stage in ("pretrain", "sparsify", "prune"):
        assert first[stage] == both[stage]
        assert last[stage] == plain[stage]
    assert first["sparsify"] != plain["sparsify"]
    assert len({one["finetune"] for one in (plain, both, first, last)}) == 4
    zoo = keys("teacher=zoo", "model@teacher.model=resnet32", "distill=kd")
    other = keys("teacher=zoo", "model@teacher.model=resnet44", "distill=kd")
    assert len({one["finetune"] for one in (plain, last, zoo, other)}) == 4
    assert keys(*kd, "distill.ce_weight=0.5")["finetune"] != last["finetune"]
    of_other = (keys(*overrides, "pretrain.epochs=3")["finetune"] for overrides in (kd, ("seed=0",)))
    assert len({*of_other, plain["finetune"], last["finetune"]}) == 4


def test_a_teacher_of_the_zoo_and_of_a_run_join_finetuning(command: Command, tmp_path: Path) -> None:
    small = ("model.depth=8", "model.width=8", *QUICK)
    zoo = command(*small, "teacher=zoo", "teacher.model.depth=8", "teacher.model.width=8", "distill=kd")
    assert zoo.returncode == 0, zoo.stderr
    assert "teacher" in {row["stage"] for row in read_rows(run_folder(zoo.stdout, tmp_path))}
    assert "the teacher's held-out top-1 is" in zoo.stdout
    summary = read_json(run_folder(zoo.stdout, tmp_path) / "summary.json")
    assert (
        summary["stages"]["teacher"]["key"] == summary["stages"]["pretrain"]["key"]
    )  # the same network: trained once
    run = command(*small, "teacher=run", f"teacher.run={run_folder(zoo.stdout, tmp_path)}", "distill=kd")
    assert run.returncode == 0, run.stderr
    other = read_json(run_folder(run.stdout, tmp_path) / "summary.json")
    assert other["stages"]["prune"]["reused"]
    assert other["stages"]["finetune"]["key"] != summary["stages"]["finetune"]["key"]


@pytest.mark.slow
def test_a_checkpoint_replaces_pretraining(command: Command, tmp_path: Path) -> None:
    small = ("model.depth=8", "model.width=8", "stages=[pretrain,eval]", *QUICK)
    first = command(*small)
    folder = run_folder(first.stdout, tmp_path)
    second = command(*small, f"model.checkpoint={folder / 'model.safetensors'}")
    assert second.returncode == 0, second.stderr
    results = [read_json(run_folder(done.stdout, tmp_path) / "summary.json")["results"] for done in (first, second)]
    assert results[0]["dense"]["top1"] == results[1]["dense"]["top1"]
    assert read_json(run_folder(second.stdout, tmp_path) / "summary.json")["stages"]["pretrain"]["source"].endswith(
        "model.safetensors"
    )


@pytest.mark.slow
def test_a_finished_run_is_not_that_of_another_file_of_the_same_name(command: Command, tmp_path: Path) -> None:
    arguments = ("stages=[pretrain,eval]", *QUICK, "model.checkpoint=mine.pth", "hydra.run.dir=checked")
    keys = set()
    for seed in (0, 1):
        torch.manual_seed(seed)
        torch.save(zoo("resnet20", (1, 8, 8)).state_dict(), tmp_path / "mine.pth")
        done = command(*arguments)
        assert done.returncode == 0, done.stderr
        assert "nothing to do" not in done.stdout
        keys.add(read_json(tmp_path / "checked" / "summary.json")["stages"]["pretrain"]["key"])
    assert len(keys) == 2


@pytest.mark.slow
def test_killed_at_random_moments_it_ends_with_the_same_weights(tmp_path: Path) -> None:
    arguments = [
        sys.executable, "-m", "compress", *QUICK, "pretrain.epochs=6", "finetune.epochs=4",
        "pretrain.checkpoint_seconds=0", "finetune.checkpoint_seconds=0.5",
        "method.search.episodes=40", "plots=false", "tensorboard=false",
    ]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}

    def start(folder: Path) -> "subprocess.Popen[str]":
        folder.mkdir(exist_ok=True)
        return subprocess.Popen(
            arguments, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

    began = time.monotonic()
    calm = start(tmp_path / "calm")
    calm_output = calm.communicate()[0]
    assert calm.returncode == 0, calm_output
    whole = time.monotonic() - began

    moments = random.Random(0)
    for _ in range(3):
        process = start(tmp_path / "killed")
        time.sleep(2.0 + moments.random() * max(whole - 2.5, 0.5))
        process.send_signal(signal.SIGKILL)
        process.communicate()
    last = start(tmp_path / "killed")
    output = last.communicate()[0]
    assert last.returncode == 0, output

    def weights(base: Path) -> dict[str, Any]:
        return {
            f"{path.parent.name}/{path.name}": path.read_bytes()
            for path in (base / "outputs" / "cache").glob("*/*.safetensors")
        }

    assert weights(tmp_path / "calm") == weights(tmp_path / "killed")
    assert len(weights(tmp_path / "calm")) == 5  # pretrain and finetune with their best, prune


def test_keys_tell_apart_what_a_search_is_calibrated_on(tmp_path: Path) -> None:
    """With a checkpoint nothing is trained, and augmentation would not show in the first stage's key."""
    torch.save(zoo("resnet20", (1, 8, 8)).state_dict(), tmp_path / "net.pth")
    asked = ("method=amc", f"model.checkpoint={tmp_path / 'net.pth'}")
    one, two = (stage_keys(build(compose_config(*asked, f"dataset.pad={pad}"))) for pad in (0, 2))
    assert one["pretrain"] == two["pretrain"]
    assert one["sparsify"] != two["sparsify"]
    other = stage_keys(build(compose_config(*asked, "dataset.pad=0", "method.rollouts=9", "preserve_ratio=0.5")))
    assert other["sparsify"] == one["sparsify"]
    assert other["prune"] != one["prune"]
