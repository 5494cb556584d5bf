"""Several devices train what one does: the same weights where that can be, one folder, one cache, one voice."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import CPU, Command, compose_config
from safetensors.torch import load_file
from torch import nn

import compress
from compress.config import build
from compress.config.built_jobs import problems_of
from compress.data.memory import MemoryData
from compress.errors import InputError
from compress.io.files import read_json
from compress.parallel import collectives, ddp
from compress.parallel.collectives import ALONE, Team
from compress.parallel.helper_processes import Crew
from compress.run.folder import config_hash
from compress.run.pipeline import stage_keys

NET = """
from torch import nn


def plain(num_classes, in_channels):
    return nn.Sequential(
        nn.Conv2d(in_channels, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 16, 3, 2, 1), nn.GroupNorm(4, 16), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, num_classes),
    )
"""
LEAN = ("device=cpu", "plots=false", "tensorboard=false", "eval.latency_seconds=0.02")
SMALL = ("model.depth=8", "model.width=8", "stages=[pretrain,eval]", *LEAN)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def distance(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    """The largest relative distance of a tensor."""
    assert one.keys() == other.keys()
    return max(float((one[k].double() - other[k].double()).norm() / one[k].double().norm()) for k in one)


def compare_with_one_device(command: Command, base: Path, devices: int, *settings: str) -> None:
    (base / "nets.py").write_text(NET)
    asked = ("model=custom", "model._target_=nets.plain", *settings, *LEAN)
    for count in (1, devices):
        done = command(*asked, f"devices={count}", f"hydra.run.dir=run{count}", PYTHONPATH=path_with(base))
        assert done.returncode == 0, done.stderr
        assert done.stderr == ""
    one, several = (read_json(base / f"run{count}" / "summary.json") for count in (1, devices))
    assert several["devices"] == devices
    assert distance(weights(base / "run1"), weights(base / f"run{devices}")) < 1e-5
    for name, row in one["results"].items():
        assert several["results"][name]["top1"] == pytest.approx(row["top1"], abs=0.5)
    assert [stage["key"] for stage in one["stages"].values()] != [s["key"] for s in several["stages"].values()]


def path_with(folder: Path) -> str:
    return os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])


# momentum, weight decay, clipping, masks that grow, and a last batch of 1078 - 3 * 359 = 1 or 1078 - 8 * 131 = 30
TRAINED = (
    "method=magnitude", "percent=0.6", "method.schedule=linear", "method.steps=3", "method.retraining.epochs=1",
    "pretrain.epochs=2", "pretrain.batch_size=131", "pretrain.clip_norm=0.5", "finetune.epochs=2",
    "finetune.batch_size=359", "finetune.clip_norm=null",
)  # fmt: skip


@pytest.mark.slow
def test_without_batch_norm_two_devices_train_the_weights_of_one(command: Command, tmp_path: Path) -> None:
    compare_with_one_device(command, tmp_path, 2, *TRAINED)


@pytest.mark.slow
def test_three_devices_share_a_last_batch_of_two(command: Command, tmp_path: Path) -> None:
    compare_with_one_device(
        command, tmp_path, 3, "stages=[pretrain,eval]", "pretrain.epochs=2", "pretrain.batch_size=269"
    )


@pytest.mark.slow
def test_with_batch_norm_a_whole_run_leaves_one_folder_and_one_cache(command: Command, tmp_path: Path) -> None:
    small = ("model.depth=8", "model.width=8", "experiment=quick", "method=slimming", "percent=0.3", "device=cpu")
    (tmp_path / "tmp").mkdir()
    done = command(*small, "devices=2", "hydra.run.dir=run", TMPDIR=str(tmp_path / "tmp"))
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert done.stdout.count("pretrain: running") == 1
    assert {path.name for path in tmp_path.iterdir()} == {"outputs", "run", "tmp"}
    assert not list((tmp_path / "tmp").glob("compress-*"))
    assert sorted(path.name.split("-")[0] for path in (tmp_path / "outputs" / "cache").glob("*-????????????")) == [
        "eval", "finetune", "pretrain", "prune", "sparsify",
    ]  # fmt: skip
    summary = read_json(tmp_path / "run" / "summary.json")
    assert (summary["status"], summary["devices"]) == ("done", 2)
    model = compress.load(tmp_path / "run")
    assert any(type(module) is nn.BatchNorm2d for module in model.modules())
    assert not any("module." in name for name in weights(tmp_path / "run"))
    log = (tmp_path / "run" / "compress.log").read_text()
    assert log.count("finetune: done in") == 1


@pytest.mark.slow
def test_a_killed_run_leaves_no_process_and_ends_with_the_same_weights(command: Command, tmp_path: Path) -> None:
    asked = (*SMALL, "devices=2", "pretrain.epochs=12", "pretrain.checkpoint_seconds=0")
    arguments = [sys.executable, "-m", "compress", *asked, "hydra.run.dir=killed"]
    folder = tmp_path / "killed"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(arguments, cwd=tmp_path, env=environment, stdout=subprocess.DEVNULL)
    until(
        lambda: (folder / "metrics.jsonl").is_file() and len((folder / "metrics.jsonl").read_text().split("\n")) > 4
    )
    (helper,) = helpers_of(process.pid)
    process.send_signal(signal.SIGKILL)
    process.wait()
    until(lambda: not alive(helper))
    again = command(*asked, "hydra.run.dir=killed")
    assert again.returncode == 0, again.stderr
    assert "pretrain: continues after epoch" in again.stdout
    calm = command(*asked, "hydra.run.dir=calm", "outputs=other")
    assert "continues" not in calm.stdout
    one, other = weights(folder), weights(tmp_path / "calm")
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.slow
def test_a_killed_helper_ends_the_run_with_a_reason(tmp_path: Path) -> None:
    arguments = [sys.executable, "-m", "compress", *SMALL, "devices=2", "pretrain.epochs=500", "hydra.run.dir=run"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        arguments, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    rows = tmp_path / "run" / "metrics.jsonl"
    until(lambda: rows.is_file() and rows.read_text().count("\n") > 1)
    os.kill(helpers_of(process.pid)[0], signal.SIGKILL)
    _, told = process.communicate()
    assert process.returncode == 2
    assert told.startswith("compress: devices=2: process 1 of 0..1 was killed by SIGKILL")
    assert len(told.splitlines()) == 1
    assert read_json(tmp_path / "run" / "summary.json")["status"] == "failed"


def until(condition: Any, seconds: float = 600) -> None:
    ends = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < ends
        time.sleep(0.05)


def helpers_of(pid: int) -> list[int]:
    """Its children but the one that only counts semaphores."""
    lines = [
        (int(path.name), (path / "stat").read_text().rpartition(")")[2].split(), (path / "cmdline").read_bytes())
        for path in Path("/proc").iterdir()
        if path.name.isdigit() and (path / "cmdline").exists()
    ]
    return [number for number, stat, line in lines if int(stat[1]) == pid and b"spawn_main" in line]


def alive(pid: int) -> bool:
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z"


@pytest.mark.slow
def test_a_sweep_goes_on_after_a_job_that_fails_and_says_why_once(command: Command, tmp_path: Path) -> None:
    done = command("-m", *SMALL, "devices=2", "pretrain.epochs=1", "pretrain.lr=1e20,0.1")
    assert done.returncode == 2
    assert done.stderr.startswith("compress: pretrain: the loss became nan in epoch 1")
    assert len(done.stderr.splitlines()) == 1
    states = [read_json(path)["status"] for path in sorted((tmp_path / "outputs" / "sweeps").glob("*/summary.json"))]
    assert sorted(states) == ["done", "failed"]


def test_torchrun_needs_a_folder_with_a_name(command: Command, tmp_path: Path) -> None:
    refused = command(*SMALL, RANK="0", WORLD_SIZE="2", LOCAL_RANK="0")
    assert refused.returncode == 2
    assert len(refused.stderr.splitlines()) == 1
    assert "each of the 2 processes of the launcher would make a folder of its own" in refused.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_torchrun_leads_to_the_same_run(command: Command, tmp_path: Path) -> None:
    start = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "compress", *SMALL]
    done = subprocess.run(
        [*start, "pretrain.epochs=2", "hydra.run.dir=run"],
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("pretrain: running") == 1
    assert (tmp_path / "run" / "compress.log").read_text().count("pretrain: done in") == 1
    assert read_json(tmp_path / "run" / "summary.json")["devices"] == 2
    own = command(*SMALL, "pretrain.epochs=2", "devices=2", "hydra.run.dir=other")
    assert "pretrain: the dense network is reused" in own.stdout


def _fails(meet: Any, error: Exception) -> None:
    group = meet(CPU)

    def perform(order: Any, team: Team) -> None:
        assert order == "train"
        raise error

    group.serve(perform)


@pytest.mark.slow
@pytest.mark.parametrize("error", [InputError("lr=0: must be > 0"), KeyError("a bug")])
def test_what_only_a_helper_meets_is_told_here(error: Exception) -> None:
    kind, words = (InputError, "lr=0") if isinstance(error, InputError) else (RuntimeError, "KeyError: 'a bug'")
    with (
        pytest.raises(kind, match=words),
        Crew(2, CPU, None, _fails, error) as crew,
        crew.guarded(),
        crew.together("train"),
    ):
        torch.distributed.all_reduce(torch.ones(1))
    assert not torch.distributed.is_initialized()


# -- without a second process ----------------------------------------------------------------------------------


def test_shares_make_up_the_batches_of_one_device(digit_data: MemoryData) -> None:
    for size, world in ((131, 2), (100, 3), (1076, 3)):
        whole = list(digit_data.shuffled(size, 7, CPU))
        parts = [list(digit_data.shuffled(size, 7, CPU, (rank, world))) for rank in range(world)]
        for batch, *pieces in zip(whole, *parts, strict=True):
            assert torch.equal(batch[0], torch.cat([x for x, _ in pieces]))
            assert torch.equal(batch[1], torch.cat([y for _, y in pieces]))
            assert max(len(y) for _, y in pieces) - min(len(y) for _, y in pieces) <= 1
    held = [list(digit_data.ordered("held_out", 100, CPU, (rank, 2))) for rank in (0, 1)]
    assert sum(len(y) for half in held for _, y in half) == 269


@pytest.mark.parametrize("sizes", [(3, 2), (1, 1, 0), (0, 4)])
def test_the_mean_of_weighted_gradients_is_that_of_the_whole_batch(
    sizes: tuple[int, ...],
) -> None:
    team = Team(0, len(sizes))
    torch.manual_seed(0)
    model, images, labels = (
        nn.Linear(4, 3).double(),
        torch.randn(sum(sizes), 4).double(),
        torch.arange(sum(sizes)) % 3,
    )

    def gradient(loss: torch.Tensor) -> torch.Tensor:
        return torch.cat([each.flatten() for each in torch.autograd.grad(loss, list(model.parameters()))])

    expected = gradient(nn.functional.cross_entropy(model(images), labels))
    found = torch.zeros_like(expected)
    for x, y in zip(images.split(sizes), labels.split(sizes), strict=True):
        count = len(y)
        x, y = ddp.padded_shard(x, y)
        loss = nn.functional.cross_entropy(model(x), y)
        found += gradient(ddp.scaled_loss(team, loss, count, sum(sizes))) / len(sizes)
    assert torch.allclose(found, expected, rtol=1e-12)


def test_synchronised_batch_norms_stand_beside_the_network_over_its_own_tensors(tiny: nn.Module) -> None:
    other = ddp.with_sync_batch_norm(tiny)
    assert all(type(m) is not nn.SyncBatchNorm for m in tiny.modules())
    kinds = [type(m) for m in other.modules()]
    assert kinds.count(nn.SyncBatchNorm) == sum(type(m) is nn.BatchNorm2d for m in tiny.modules()) > 5
    assert nn.BatchNorm2d not in kinds
    one, two = ({n: t.data_ptr() for n, t in net.state_dict().items()} for net in (tiny, other))
    assert one == two
    assert [id(p) for p in tiny.parameters()] == [id(p) for p in other.parameters()]


def test_statistics_of_batch_norms_become_their_means_and_other_buffers_those_of_the_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of two processes: what the other has is added where they sum, and the first one's is sent."""
    mine, other = (nn.Sequential(nn.Conv2d(2, 3, 1), nn.BatchNorm2d(3)) for _ in range(2))
    for network, value in ((mine, 1.0), (other, 5.0)):
        network.register_buffer("steps", torch.tensor(int(value)))
        network[1].running_mean.fill_(value)
        network[1].running_var.fill_(2 * value)
    at = {id(tensor): name for name, tensor in mine.named_buffers()}
    theirs = dict(other.named_buffers())
    monkeypatch.setattr(collectives.dist, "all_reduce", lambda tensor: tensor.add_(theirs[at[id(tensor)]]))
    monkeypatch.setattr(collectives.dist, "broadcast", lambda tensor, src: tensor.fill_(7))
    ddp.average_buffers(Team(0, 2), mine)
    assert mine[1].running_mean.tolist() == [3.0] * 3
    assert mine[1].running_var.tolist() == [6.0] * 3
    assert int(mine.get_buffer("steps")) == int(mine[1].num_batches_tracked) == 7


def test_dropout_of_every_process_has_a_seed_of_its_own() -> None:
    parts = [ddp.rank_seed(Team(rank, 3)) for rank in range(3)]
    assert parts[0] == ()  # what one process draws alone
    assert len(set(parts)) == 3


def test_batch_norm_leaves_out_batches_that_cannot_be_shared(tiny: nn.Module) -> None:
    team = Team(0, 3)
    assert ddp.smallest_batch(ALONE, tiny, CPU) == 2
    assert ddp.smallest_batch(team, tiny, CPU) == 6
    assert ddp.smallest_batch(team, tiny, torch.device("cuda")) == 3
    assert ddp.smallest_batch(team, nn.Linear(2, 2), CPU) == 2


def test_devices_are_part_of_what_trained_stages_depend_on() -> None:
    one, two = compose_config("device=cpu"), compose_config("device=cpu", "devices=2")
    assert config_hash(one) == config_hash({key: value for key, value in one.items() if key != "devices"})
    assert config_hash(one) != config_hash(two)
    assert stage_keys(build.build(one))["pretrain"] != stage_keys(build.build(two))["pretrain"]


def test_what_cannot_be_shared_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def told(*overrides: str) -> list[str]:
        return problems_of(compose_config(*overrides))

    assert told("devices=0") == ["devices=0: must be >= 1"]
    assert told("device=cpu", "devices=8", "finetune.batch_size=8") == [
        "finetune.batch_size=8: must be >= 16, two images for each of devices=8"
    ]
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert told("device=cuda", "devices=4") == [
        "devices=4: must be <= 2, the CUDA devices of this machine, or use device=cpu"
    ]
    assert told("device=cuda:1", "devices=2") == [
        "device=cuda:1: is one device, devices=2 take the first 2; use device=cuda"
    ]
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    assert build.pick_device("cuda", 2) == torch.device("cuda", 1)
    assert told("device=cpu", "devices=3") == [
        "devices=3: the launcher has started 2 processes; leave devices at 1, or give devices=2"
    ]


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
def test_synchronised_batch_norm_gives_two_gpus_the_weights_of_one(command: Command, tmp_path: Path) -> None:
    for count in (1, 2):
        done = command(
            *SMALL[:-4], "device=cuda", f"devices={count}", "pretrain.epochs=1", f"hydra.run.dir=run{count}"
        )
        assert done.returncode == 0, done.stderr
    assert distance(weights(tmp_path / "run1"), weights(tmp_path / "run2")) < 0.02
