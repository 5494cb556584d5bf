"""Disks that are full or cannot be written, files cut short, and Ctrl-C: one clear line, nothing half-trusted."""

import importlib.util
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import compose_config, run_command
from test_sweeps import CUT, job_folders, start, wait_for

from compress.config.build import build
from compress.config.refusal import headline
from compress.errors import InputError
from compress.io.files import read_json
from compress.run.job import RunState

COMPRESS = f"{sys.executable} -m compress"
NO_MOUNTS = (
    subprocess.run(["unshare", "-rm", "true"], capture_output=True).returncode if shutil.which("unshare") else 1
)
needs_mounts = pytest.mark.skipif(NO_MOUNTS != 0, reason="this machine lets no test mount a small disk")


def on_small_disk(folder: Path, script: str) -> list[str]:
    """Run lines of shell in `folder`, where `disk` is one of 1.5 MB that nobody else sees; what was printed."""
    (folder / "disk").mkdir()
    shell = f"mount -t tmpfs -o size=1500k none disk && cd {folder} && {script}"
    done = subprocess.run(
        ["unshare", "-rm", "sh", "-c", shell], cwd=folder, capture_output=True, text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    return (done.stdout + done.stderr).splitlines()


@needs_mounts
@pytest.mark.slow
def test_a_full_disk_is_told_and_the_run_goes_on_when_there_is_room(tmp_path: Path) -> None:
    """The disk holds the progress after one epoch, but not that of the second beside it."""
    run = " ".join([COMPRESS, "outputs=disk/outputs", "hydra.run.dir=disk/run", *CUT, "model.width=16"])
    lines = on_small_disk(
        tmp_path,
        f"{run} >first.txt 2>told.txt; echo $?; find disk -name '.*.part'; "
        f"mount -o remount,size=30m disk && {run} 2>&1 | grep -E 'running|nothing to do|reused'; cp -r disk/run kept",
    )
    (told,) = (tmp_path / "told.txt").read_text().splitlines()
    assert told.startswith("compress: cannot write disk/outputs/cache/")
    assert told.endswith("(No space left on device); what was finished is kept")
    assert lines[0] == "2"
    assert not any(".part" in line for line in lines)
    roomy = run_command(tmp_path, "hydra.run.dir=roomy", *CUT, "model.width=16")
    assert roomy.returncode == 0, roomy.stderr
    kept, other = (tmp_path / name / "model.safetensors" for name in ("kept", "roomy"))
    assert kept.read_bytes() == other.read_bytes()


@pytest.mark.slow
@needs_mounts
def test_what_cannot_be_written_is_told_before_anything_is_computed(tmp_path: Path) -> None:
    run = " ".join([COMPRESS, "outputs=disk/outputs", *CUT])
    sweep = run.replace("compress ", "compress -m seed=0,1 ", 1)
    readonly = f"mkdir disk/outputs && mount -o remount,ro disk && {run}"
    told = on_small_disk(tmp_path, f"{readonly}; echo $?; {sweep}; echo $?")
    assert [line for line in told if line.isdigit()] == ["2", "2"]
    errors = [line for line in told if not line.isdigit()]
    assert len(errors) == 2
    for error in errors:
        assert error.startswith("compress: ")
        assert "Read-only file system" in error


@pytest.mark.slow
def test_control_c_leaves_what_the_same_command_continues(tmp_path: Path) -> None:
    arguments = ("-m", "seed=0,1", "stages=[pretrain,eval]", *CUT, "pretrain.epochs=12")
    sweep = start(tmp_path, *arguments)
    wait_for(sweep, tmp_path, "outputs/sweeps/*seed=1*/summary.json")
    wait_for(sweep, tmp_path, "outputs/cache/pretrain-*.partial/progress.pt")
    sweep.send_signal(signal.SIGINT)
    output, _ = sweep.communicate()
    assert sweep.returncode == 130
    assert output.splitlines()[-1] == (
        "compress: interrupted; 1 of 2 jobs are done; the same command continues from the last epoch or episode"
    )
    assert "Traceback" not in output
    states = [read_json(path / "summary.json")["status"] for path in job_folders(tmp_path).values()]
    assert sorted(states) == ["done", "interrupted"]
    again = run_command(tmp_path, *arguments)
    assert "pretrain: continues after epoch" in again.stdout
    assert again.stdout.count("pretrain: running") == 1
    states = [read_json(path / "summary.json")["status"] for path in job_folders(tmp_path).values()]
    assert states == ["done", "done"]


@pytest.fixture(scope="module")
def a_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = tmp_path_factory.mktemp("files")
    quick = ("experiment=quick", "device=cpu", "threads=1", "tensorboard=false", "plots=false")
    done = run_command(base, "method=amc", "stages=[pretrain,sparsify,prune]", "hydra.run.dir=run", *quick)
    assert done.returncode == 0, done.stderr
    network = torch.nn.Linear(2, 2)
    torch.save(network.state_dict(), base / "whole.pth")
    return base


@pytest.mark.parametrize("share", [0.0, 0.05, 0.5, 0.99])
@pytest.mark.parametrize(
    ("file", "key"),
    [
        ("whole.pth", "model.checkpoint={}"),
        ("run/model.safetensors", "model.checkpoint={}"),
        ("run/model.safetensors", "teacher=run distill=kd teacher.run={}"),
        ("run/agent.pt", "method=amc method.agent={}"),
    ],
)
def test_a_file_cut_short_is_named_and_refused(
    a_run: Path, tmp_path: Path, file: str, key: str, share: float
) -> None:
    whole = (a_run / file).read_bytes()
    cut = tmp_path / Path(file).name
    cut.write_bytes(whole[: int(share * len(whole))])
    named = cut if "checkpoint" in key else cut.parent
    with pytest.raises(InputError) as told:
        build(compose_config(*key.format(named).split()))
    assert len(told.value.problems) == 1
    assert "\n" not in told.value.problems[0]
    assert str(named) in told.value.problems[0]


def test_before_the_traceback_it_says_whose_code_raised(tmp_path: Path) -> None:
    (tmp_path / "their_reward.py").write_text("def reward(outcome):\n    return outcome.accuracy / 0\n")
    spec = importlib.util.spec_from_file_location("their_reward", tmp_path / "their_reward.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    job = build(compose_config("device=cpu"))
    theirs = replace(job.method, reward=module.reward)
    with pytest.raises(ZeroDivisionError) as raised:
        theirs.check(RunState(job, {}).problem())
    told = headline(raised.value)
    assert told.startswith(f"your code ended it, {tmp_path / 'their_reward.py'}:2 in reward: ZeroDivisionError: ")
    with pytest.raises(AttributeError) as ours:
        job.method.check(None)
    assert headline(ours.value).startswith("a bug of ours ended it")
