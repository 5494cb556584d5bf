"""benchmarks/gpu.py: its rows, its tables and its processes; the command itself on the digits (slow)."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import gpu_processes
import gpu_speed
import pytest
import torch
from conftest import compose_config
from gpu import PARTS, RESERVE, Bench, parsed, run_parts
from gpu_plan import Job, time_shares
from gpu_quality import Quality, best_method, keep_in_bf16
from gpu_report import quality_rows, report, speed_rows
from gpu_results import read_or, write
from gpu_rows import METHODS, PEER, PRESETS, ROWS, TAUGHT, Table
from gpu_speed import augmented, half, noise
from safetensors.torch import load_file, save_file
from torch import nn

from compress.config.build import build

ROOT = Path(__file__).parents[1]


def digits_table(folder: Path, **changes: object) -> Quality:
    settings = {"preset": PRESETS["digits"], "out": folder, "device": "cpu", "workers": 1, "seeds": 2, **changes}
    return Quality(**settings)  # type: ignore[arg-type]


def add_result(quality: Quality, row: str, seed: int, top1: float, held_out: float) -> None:
    job = Job("resnet20-2.1x", row, seed)
    write(quality.result_file(job), {
        "table": job.table, "row": row, "seed": seed, "method": row, "epochs": 4, "macs": 90_000, "dense_top1": 95.0,
        "pruned_top1": 20.0, "top1": top1, "held_out_top1": held_out, "epoch_seconds": 2.0,
        "card": "a card", "torch": "2.0",
    })  # fmt: skip


# -- rows -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("preset", "row"), [("cifar10", "filter_magnitude"), *(("digits", row) for row in ROWS if row != PEER)]
)
def test_every_row_is_a_command_that_runs_to_the_same_macs(preset: str, row: str, tmp_path: Path) -> None:
    quality = digits_table(tmp_path, preset=PRESETS[preset])
    table = quality.preset.tables[0]
    command = quality.command(Job(table.name, row, 1), epochs=8)
    settings = [text for text in command[3:] if not text.startswith("hydra.")]
    config = compose_config(*settings, *(["dataset=digits"] if preset == "cifar10" else []))
    job = build(config)
    assert job.seed == 1
    assert job.finetune.epochs == job.pretrain.epochs == 8
    if row != "base":
        assert job.budget.value == pytest.approx(1.0 if row == "dense" else 1 / 2.1, abs=1e-5)
    if row == "slimming":
        assert config["method"]["training"]["epochs"] == 2


def test_the_best_is_chosen_on_held_out_images_of_the_first_seed_and_taught(tmp_path: Path) -> None:
    quality = digits_table(tmp_path)
    table = quality.preset.tables[0]
    for number, row in enumerate(METHODS[1:]):
        add_result(quality, row, 0, top1=90.0 - number, held_out=80.0 + number)
    assert best_method(table, quality.results()) is None
    assert best_method(table, quality.results(), [Job(table.name, METHODS[0], 0)]) == METHODS[-1]
    add_result(quality, METHODS[0], 0, top1=10.0, held_out=99.0)
    add_result(quality, "dense", 0, top1=99.0, held_out=100.0)
    assert best_method(table, quality.results()) == METHODS[0]
    taught = [job for job in quality.jobs() if job.row == TAUGHT]
    assert [job.seed for job in taught] == [0, 1]
    assert {"method=slimming", "teacher=self", "distill=kd"} <= set(quality.command(taught[0], 4))


def test_a_result_is_not_computed_again_and_epochs_stay_those_of_the_first_run(tmp_path: Path) -> None:
    quality = digits_table(tmp_path)
    jobs = quality.jobs()
    assert jobs[0].row == "base"
    assert {job.row for job in jobs} >= {"dense", *METHODS, "uniform", "random", "scratch E"}
    assert quality.finished() == set()
    add_result(quality, "amc", 1, 90, 90)
    assert quality.finished() == {Job("resnet20-2.1x", "amc", 1, ("base",))}
    assert quality.kept_epochs() is None
    epochs = quality.epochs(1e4)
    assert quality.epochs(1.0) == epochs > 1
    assert quality.clash() is None
    assert "settings" in str(digits_table(tmp_path, settings=("finetune.amp=bf16",)).clash())


def test_epochs_are_planned_after_the_speed_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["gpu.py", "--dataset", "digits", "--device", "cpu", "--out", str(tmp_path)])
    kept: dict[str, int | None] = {}

    def run(bench: Bench, part: str, deadline: float) -> bool:
        kept[part] = bench.quality.kept_epochs()
        return True

    monkeypatch.setattr(Bench, "run", run)
    chosen = [part for part in PARTS if part.name in ("speed", "search", "quality")]
    run_parts(Bench(parsed(), digits_table(tmp_path)), chosen, time.monotonic() + 3600)
    assert kept == {"speed": None, "search": 200, "quality": 200}


def test_controls_wait_for_the_row_beside_which_they_are_trained() -> None:
    assert ROWS["uniform"].after == ROWS["random"].after == ("filter_magnitude",)
    assert ROWS["base"].after == ()


def test_costs_grow_with_measured_epochs(tmp_path: Path) -> None:
    quality = digits_table(tmp_path)
    job = Job("resnet20-2.1x", "dense", 0)
    assert quality.epoch_seconds() == pytest.approx(17 * 0.020)
    add_result(quality, "amc", 1, 90, 90)
    assert quality.epoch_seconds() == 2.0
    assert quality.cost(job, 8) - quality.cost(job, 4) == 8.0


def test_ten_minutes_and_ten_hours_on_a_card_by_the_estimates(tmp_path: Path) -> None:
    planned = {}
    for minutes in (10, 600):
        shares = time_shares(PARTS, 60 * minutes - RESERVE)
        card = {"preset": PRESETS["cifar10"], "device": "cuda", "workers": 5}
        planned[minutes] = digits_table(tmp_path / str(minutes), **card).epochs(shares["quality"])
    assert 4 <= planned[10] <= 16
    assert planned[600] == 200


# -- tables ---------------------------------------------------------------------------------------------------------


def test_a_line_has_the_mean_and_the_spread_over_its_seeds_the_best_first(tmp_path: Path) -> None:
    quality = digits_table(tmp_path)
    for seed, top1 in enumerate((90.0, 92.0)):
        add_result(quality, "amc", seed, top1, 0)
    add_result(quality, "sample", 0, 93.5, 0)
    assert quality_rows(quality.results()) == [
        ["sample", "0.09", 4, "95.00", "20.00", "93.50", 1],
        ["amc", "0.09", 4, "95.00 ± 0.00", "20.00 ± 0.00", "91.00 ± 1.41", 2],
    ]


def test_the_table_of_steps_has_shares_of_the_bare_loop() -> None:
    one = {"network": "resnet20", "images_per_second": 6400.0}
    rows, heads = speed_rows({"a": {**one, "way": "bare", "ms": 20.0}, "b": {**one, "way": "graph", "ms": 5.0}})
    assert rows == [["resnet20", "20.00 (1.00)", "5.00 (0.25)", "6,400"]]
    assert heads[1:3] == ["bare", "graph"]


def test_all_figures_are_in_one_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    quality = digits_table(tmp_path)
    add_result(quality, "amc", 0, 90, 90)
    write(tmp_path / "search.json", {"amc": {"evaluations": 30, "seconds": 60.0, "card": "another", "torch": "2.1"}})
    report(quality)
    told = capsys.readouterr().out
    assert "amc: 0.50 episodes a second (30 of them)" in told
    assert "| amc |" in told
    assert told.splitlines()[1:3] == ["another, torch 2.1", "a card, torch 2.0"]
    kept = read_or(tmp_path / "gpu.json", {})
    assert kept["torch"] == torch.__version__
    assert [one["row"] for one in kept["quality"]] == ["amc"]


def test_networks_come_back_in_bf16_with_their_description(tmp_path: Path) -> None:
    save_file({"w": torch.tensor([1.0, 1.001]), "n": torch.tensor(3)}, tmp_path / "model.safetensors", {"of": "x"})
    keep_in_bf16(tmp_path / "model.safetensors", tmp_path / "small" / "one.safetensors")
    kept = load_file(tmp_path / "small" / "one.safetensors")
    assert kept["w"].dtype == torch.bfloat16
    assert kept["n"].dtype == torch.int64
    assert kept["w"].tolist() == [1.0, 1.0]


# -- processes ------------------------------------------------------------------------------------------------------


def test_jobs_run_side_by_side_and_what_the_deadline_meets_is_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu_processes, "STOP_SECONDS", 1)
    jobs = [Job("t", "good", 0), Job("t", "bad", 0), Job("t", "later", 0, ("good",)), Job("t", "long", 0)]
    jobs.append(Job("t", "never", 0, ("bad",)))
    commands = {"good": "exit 0", "bad": "exit 3", "later": "exit 0", "long": f"echo $$ > {tmp_path}/pid; sleep 60"}
    finished, failed = set[Job](), set[Job]()
    gpu_processes.side_by_side(
        lambda: jobs, lambda job: gpu_processes.start(["sh", "-c", commands[job.row]], tmp_path / "log"),
        lambda job, seconds: True, finished, failed, workers=2, deadline=time.monotonic() + 3,
    )  # fmt: skip
    assert {job.row for job in finished} == {"good", "later"}
    assert {job.row for job in failed} == {"bad"}
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


# -- the loops beside ours ------------------------------------------------------------------------------------------


def test_an_augmented_image_is_a_shift_of_itself_or_of_its_mirror_image() -> None:
    torch.manual_seed(0)
    x = torch.rand(20, 2, 5, 6)
    padded = [nn.functional.pad(one, (1,) * 4, mode="reflect") for one in (x, x.flip(3))]
    mirrored = set()
    for image, got in enumerate(augmented(x, 1)):
        found = [
            (side, down, right)
            for side, of in enumerate(padded)
            for down in range(3)
            for right in range(3)
            if torch.equal(got, of[image, :, down : down + 5, right : right + 6])
        ]
        assert len(found) == 1
        mirrored.add(found[0][0])
    assert mirrored == {0, 1}


def test_half_of_a_network_leaves_batch_norms_alone() -> None:
    model = half(nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2)))
    assert [parameter.dtype for parameter in model.parameters()] == [torch.bfloat16] * 2 + [torch.float32] * 2


def test_what_is_out_of_time_is_not_complete(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = ["--images", "8", "--batch", "4", "--steps", "1", "--epochs", "1", "--networks", "resnet8x4"]
    given = ["gpu_speed.py", "--out", str(tmp_path / "speed.json"), "--device", "cpu", *sizes, "--seconds"]
    monkeypatch.setattr(sys, "argv", [*given, "-1"])
    with pytest.raises(SystemExit, match="3"):
        gpu_speed.main()
    assert not (tmp_path / "speed.json").exists()
    monkeypatch.setattr(sys, "argv", [*given, "100"])
    with pytest.raises(SystemExit, match="0"):
        gpu_speed.main()
    assert {one["way"] for one in read_or(tmp_path / "speed.json", {}).values()} >= {
        "bare",
        "airbench-style",
        "eager",
    }


def test_the_noise_is_whole_batches() -> None:
    for images in (32, 12_800):
        assert len(noise(8, images).split()["train"]) == images


# -- the command ----------------------------------------------------------------------------------------------------


def gpu(out: Path, *more: str) -> str:
    command = [sys.executable, str(ROOT / "benchmarks" / "gpu.py"), "--dataset", "digits", "--device", "cpu"]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*command, "--out", str(out), *more], capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_the_command_on_digits_goes_on_where_it_was(tmp_path: Path) -> None:
    first = gpu(tmp_path, "--minutes", "3", "--seeds", "1")
    assert first.index("| plan") < first.index("== speed") < first.index("a step, ms")
    names = {path: path.stat().st_mtime for path in (tmp_path / "quality").glob("*/*.json")}
    assert names
    assert {path.stem for path in (tmp_path / "networks").rglob("*")} >= {path.stem for path in names}
    second = gpu(tmp_path, "--minutes", "1.5", "--seeds", "1", "--parts", "speed", "quality")
    assert "done in an earlier run" in second
    kept = json.loads((tmp_path / "gpu.json").read_text())
    assert len(kept["quality"]) > len(names) or kept["parts"]["quality"]["complete"]
    assert all(path.stat().st_mtime == names[path] for path in names)


def test_without_a_gpu_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for given in (["--cifar10", "data"], ["--device", "cpu"]):
        monkeypatch.setattr(sys, "argv", ["gpu.py", "--out", str(tmp_path), *given])
        with pytest.raises(SystemExit, match="2"):
            parsed()


def test_tables_of_the_whole_grid() -> None:
    names = [table.name for table in PRESETS["cifar10"].tables]
    assert names[:2] == ["resnet56-2.1x", "resnet56-4x"]
    assert len(names) == 6
    assert Table("vgg16_bn", 4.0).name in names
