"""Sweeps: stages shared, jobs left to others or taken over from the dead, failures told, folders named."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from conftest import Command, run_command

from compress.io.files import read_json
from compress.io.locks import locked
from compress.io.paths import LOCK
from compress.run.sweep_jobs import SweepJob, exit_code, forget_failure, left_undone, mark_died

SMALL = (
    "device=cpu", "threads=1", "model.depth=8", "model.width=4", "pretrain.epochs=2", "finetune.epochs=1",
    "eval.latency_seconds=0.01", "tensorboard=false", "plots=false",
)  # fmt: skip
CUT = ("method=filter_magnitude", *SMALL)
OFTEN = ("pretrain.checkpoint_seconds=0", "finetune.checkpoint_seconds=0")


def start(folder: Path, *arguments: str) -> "subprocess.Popen[str]":
    folder.mkdir(exist_ok=True)
    return subprocess.Popen(
        [sys.executable, "-u", "-m", "compress", *arguments],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,  # a group of its own, as a terminal gives a command
    )


def wait_for(process: "subprocess.Popen[str]", path: Path, pattern: str) -> None:
    """However slow the machine is, as long as the process lives."""
    while not list(path.glob(pattern)):
        assert process.poll() is None, f"ended before {pattern} came:\n{process.communicate()[0]}"
        time.sleep(0.02)


def job_folders(base: Path) -> dict[str, Path]:
    return {path.parent.name: path.parent for path in base.glob("outputs/sweeps/*/summary.json")}


def weights(base: Path) -> dict[str, bytes]:
    """The network that each job of a sweep ended with."""
    return {name: (folder / "model.safetensors").read_bytes() for name, folder in job_folders(base).items()}


def computed(*outputs: str) -> Counter[str]:
    """How often each stage was computed, from what was printed."""
    return Counter(
        line.split(":")[0] for output in outputs for line in output.splitlines() if line.endswith(": running")
    )


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep that nothing disturbed."""
    base = tmp_path_factory.mktemp("calm")
    done = run_command(base, "-m", "percent=0.2,0.4,0.6", *CUT)
    assert done.returncode == 0, done.stderr
    assert computed(done.stdout) == {"pretrain": 1, "prune": 3, "finetune": 3, "eval": 3}
    return base


def test_what_was_reused_and_saved_is_told(calm: Path) -> None:
    summaries = [read_json(folder / "summary.json") for folder in job_folders(calm).values()]
    assert sorted(summary["stages"]["pretrain"]["reused"] for summary in summaries) == [False, True, True]
    for summary in summaries:
        stages = summary["stages"].values()
        assert summary["saved_seconds"] == pytest.approx(sum(s["seconds"] for s in stages if s["reused"]), abs=1e-3)
    again = run_command(calm, "-m", "percent=0.2,0.4,0.6", *CUT)
    assert again.stdout.count("is a finished run of this config: nothing to do") == 3
    saved = sum(summary["saved_seconds"] for summary in summaries)
    assert f"saved {saved:.1f} s of computing" in again.stdout
    assert computed(again.stdout) == {}


@pytest.mark.slow
def test_a_longer_sweep_computes_what_is_new(calm: Path, tmp_path: Path) -> None:
    shutil.copytree(calm / "outputs", tmp_path / "outputs")
    longer = run_command(tmp_path, "-m", "percent=0.2,0.4,0.5", *CUT)
    assert computed(longer.stdout) == {"prune": 1, "finetune": 1, "eval": 1}
    assert len(job_folders(tmp_path)) == 4
    assert weights(tmp_path).items() > weights(calm).items()


@pytest.mark.slow
def test_two_launchers_share_the_work(calm: Path, tmp_path: Path) -> None:
    sweeps = [start(tmp_path, "-m", "percent=0.2,0.4,0.6", *CUT) for _ in range(2)]
    outputs = [sweep.communicate()[0] for sweep in sweeps]
    assert [sweep.returncode for sweep in sweeps] == [0, 0], outputs
    assert computed(*outputs) == {"pretrain": 1, "prune": 3, "finetune": 3, "eval": 3}
    assert sum(output.count("\nrun folder: ") for output in outputs) == 3  # no job was run twice
    assert weights(tmp_path) == weights(calm)
    assert outputs[0].split("\n\n")[-1].splitlines()[:5] == outputs[1].split("\n\n")[-1].splitlines()[:5]  # the table


def read_until(process: "subprocess.Popen[str]", ending: str) -> None:
    assert process.stdout is not None
    told = []
    while not told or not told[-1].endswith(f"{ending}\n"):
        told.append(process.stdout.readline())
        assert told[-1], "".join(told)


@pytest.mark.slow
def test_a_job_of_a_killed_launcher_is_taken_over(tmp_path: Path) -> None:
    """Also by a launcher that was at another job when the first one died."""
    sweep = ("-m", "stages=[pretrain]", *CUT, "pretrain.epochs=12")
    first = start(tmp_path, *sweep, "seed=0")
    wait_for(first, tmp_path, "outputs/cache/*.partial/progress.pt")
    os.killpg(first.pid, signal.SIGSTOP)  # it holds its locks and does nothing
    waiting = start(tmp_path, *sweep, "seed=0")
    read_until(waiting, "another process is at it; waiting")
    waiting.send_signal(signal.SIGINT)
    rest, _ = waiting.communicate()
    assert waiting.returncode == 130
    assert rest.startswith("compress: interrupted; 0 of 1 jobs are done")
    second = start(tmp_path, *sweep, "seed=0,1")
    read_until(second, "another process is at it; the other jobs go first")
    first.kill()  # what it has started ends with it
    first.communicate()
    rest, _ = second.communicate()
    assert second.returncode == 0, rest
    assert "pretrain: continues after epoch" in rest
    states = [read_json(folder / "summary.json")["status"] for folder in job_folders(tmp_path).values()]
    assert states == ["done", "done"]


@pytest.mark.slow
def test_what_is_forced_is_computed_once_for_all_jobs(calm: Path, tmp_path: Path) -> None:
    shutil.copytree(calm / "outputs", tmp_path / "outputs")
    forced = run_command(tmp_path, "-m", "percent=0.2,0.4", "force=[pretrain]", *CUT)
    assert forced.returncode == 0, forced.stderr
    assert computed(forced.stdout) == {"pretrain": 1, "prune": 2, "finetune": 2, "eval": 2}
    assert weights(tmp_path) == weights(calm)


@pytest.mark.parametrize(
    ("sweep", "told"),
    [
        (("model=glob(resnet2*)", "percent=1.7,0.2"), "percent=1.7: must be in [0, 1)"),
        (("seed=range(3,3)",), "this sweep has no job"),
        (("seed=0,1", "hydra.sweep.subdir='${now:%S}'"), "must be known before it runs"),
        (("seed=0,1", "hydra.sweep.subdir='${oc.env:NOT_SET_HERE}'"), "'NOT_SET_HERE' not found"),
    ],
)
def test_no_way_to_write_a_sweep_gets_past_the_check(
    sweep: tuple[str, ...], told: str, command: Command, tmp_path: Path
) -> None:
    bad = command("-m", *sweep, *SMALL)
    assert bad.returncode == 2
    assert told in bad.stderr
    assert list(tmp_path.iterdir()) == []
    assert "Warning" not in bad.stderr
    assert bad.stdout == ""


@pytest.mark.slow
def test_a_failed_job_is_named_and_stops_no_other(command: Command, tmp_path: Path) -> None:
    failing = command("-m", "pretrain.lr=1e20,0.1", "seed=0,1", "stages=[pretrain,eval]", *CUT)
    assert failing.returncode == 2
    status = {name: read_json(path / "summary.json")["status"] for name, path in job_folders(tmp_path).items()}
    assert sorted(status.values()) == ["done", "done", "failed", "failed"]
    assert "2 of 4 jobs are not done" in failing.stdout
    named = [line for line in failing.stdout.splitlines() if line.startswith("  pretrain.lr=1e+20 seed=")]
    assert [line.split(": ")[:3] for line in named] == [
        [f"  pretrain.lr=1e+20 seed={seed}", "failed", "pretrain"] for seed in (0, 1)
    ]
    assert len(failing.stderr.splitlines()) == 2


def test_what_failed_in_a_launch_is_left_to_the_next(tmp_path: Path) -> None:
    job = SweepJob(tmp_path, {}, "hash")
    assert not job.has_failed("this")
    for status in ("failed", "interrupted", "done"):
        summary = {"status": status, "config_hash": "hash", "launch": "this"}
        (tmp_path / "summary.json").write_text(json.dumps(summary))
        assert job.has_failed("this") == (status == "failed")
        assert not job.has_failed("another")


def jobs_of(base: Path, *summaries: dict[str, Any]) -> list[SweepJob]:
    jobs = []
    for number, summary in enumerate(summaries):
        job = SweepJob(base / str(number), {"seed": str(number)}, "hash")
        job.folder.mkdir(parents=True)
        if summary:
            (job.folder / "summary.json").write_text(json.dumps({"config_hash": "hash", **summary}))
        jobs.append(job)
    return jobs


def test_the_exit_code_is_that_of_bad_input_only_where_no_other_job_failed(tmp_path: Path) -> None:
    done, bad = {"status": "done"}, {"status": "failed", "bad_input": True}
    failed, begun = {"status": "failed", "bad_input": False}, {"status": "running"}
    for number, (summaries, code) in enumerate(
        [
            ([done, done], 0), ([done, bad], 2), ([bad, bad], 2), ([bad, failed], 1), ([failed], 1), ([begun], 1),
            ([done, {}], 1), ([{**done, "config_hash": "another"}], 1), ([{**bad, "config_hash": "another"}], 1),
        ]
    ):  # fmt: skip
        assert exit_code(jobs_of(tmp_path / str(number), *summaries)) == code, summaries


def test_what_is_left_undone_neither_ended_nor_failed(tmp_path: Path) -> None:
    statuses = [{"status": name} for name in ("done", "failed", "interrupted", "running")]
    jobs = jobs_of(tmp_path, *statuses, {}, {"status": "done", "config_hash": "another"})
    assert [job.is_done() for job in jobs] == [True, False, False, False, False, False]
    assert left_undone(jobs) == jobs[2:]


def test_a_job_that_died_is_one_that_ran_in_this_launch_and_holds_no_lock(tmp_path: Path) -> None:
    summaries = {
        "done": {"status": "done", "launch": "this"},
        "earlier": {"status": "running", "launch": "another"},
        "alive": {"status": "running", "launch": "this"},
        "dead": {"status": "running", "launch": "this"},
    }
    jobs = [SweepJob(tmp_path / name, {"name": name}, "hash") for name in summaries]
    for job, summary in zip(jobs, summaries.values(), strict=True):
        job.folder.mkdir()
        (job.folder / "summary.json").write_text(json.dumps({**summary, "config_hash": "hash"}))
    with locked(tmp_path / "alive" / LOCK, None):
        assert [str(job) for job in mark_died(jobs, "this", "killed")] == ["name=dead"]
    assert jobs[3].summary()["status"] == "failed"
    assert jobs[3].summary()["error"] == "killed"
    assert exit_code(jobs) == 1
    forget_failure(jobs[3])
    assert not jobs[3].has_failed("this")


DYING = """
import os, signal
from torch import nn
class Net(nn.Sequential):
    def __init__(self, *, dies: str, in_channels: int, num_classes: int):
        head = nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, num_classes)
        super().__init__(nn.Conv2d(in_channels, 4, 3), *head)
        self.dies = dies
    def forward(self, x):
        if self.training and self.dies != "no" and not os.path.exists("mended"):
            os.kill(os.getpid(), getattr(signal, self.dies))
        return super().forward(x)
"""


@pytest.mark.parametrize(
    "launcher",
    ["basic", *(pytest.param(name, marks=pytest.mark.slow) for name in ("joblib", "submitit_local"))],
)
def test_a_job_that_dies_by_a_signal_takes_no_other_with_it(launcher: str, tmp_path: Path) -> None:
    (tmp_path / "nets.py").write_text(DYING)
    dying = ["SIGSEGV"] if launcher == "basic" else ["SIGSEGV", "SIGKILL"]
    small = [text for text in CUT if not text.startswith("model.")]
    side = ["hydra.launcher.n_jobs=2"] if launcher == "joblib" else []
    sweep = (
        "-m", f"hydra/launcher={launcher}", *side, "model=custom", "model._target_=nets.Net",
        f"+model.dies={','.join(dying)},no", "stages=[pretrain,eval]", *small,
    )  # fmt: skip
    done = run_command(tmp_path, *sweep, PYTHONPATH=".")
    assert done.returncode == 1, done.stderr
    assert f"{len(dying)} of {len(dying) + 1} jobs are not done" in done.stdout
    named = [line.split(" (")[0] for line in done.stdout.splitlines() if line.startswith("  +model.dies=SIG")]
    by = {name: f"was killed by {name}" if launcher == "basic" else "died" for name in dying}
    assert named == [f"  +model.dies={name}: failed: its process {how}" for name, how in by.items()]
    states = Counter(read_json(folder / "summary.json")["status"] for folder in job_folders(tmp_path).values())
    assert states == {"failed": len(dying), "done": 1}
    (tmp_path / "mended").touch()
    again = run_command(tmp_path, *sweep, PYTHONPATH=".")  # rerun, what died is tried again, and only that
    assert again.returncode == 0, again.stderr
    assert computed(again.stdout)["pretrain"] == len(dying) or launcher != "basic"
    assert {read_json(folder / "summary.json")["status"] for folder in job_folders(tmp_path).values()} == {"done"}


@pytest.mark.parametrize(
    ("sent", "code"), [(signal.SIGKILL, -9), pytest.param(signal.SIGTERM, 143, marks=pytest.mark.slow)]
)
def test_a_sweep_ends_with_the_process_that_was_started(sent: signal.Signals, code: int, tmp_path: Path) -> None:
    """By kill -9, which that process cannot pass on, and by a signal to it alone, which it can."""
    sweep = start(tmp_path, "-m", "seed=0", "stages=[pretrain]", *CUT, "pretrain.epochs=500")
    wait_for(sweep, tmp_path, "outputs/cache/*.partial/progress.pt")
    sweep.send_signal(sent)
    output, _ = sweep.communicate()  # returns when nobody holds the pipe any more
    assert sweep.returncode == code, output
    (summary,) = (read_json(folder / "summary.json") for folder in job_folders(tmp_path).values())
    assert summary["status"] == ("running" if sent == signal.SIGKILL else "interrupted")


@pytest.mark.slow
def test_a_bug_in_one_job_is_no_end_of_the_sweep(tmp_path: Path) -> None:
    (tmp_path / "nets.py").write_text(
        "from torch import nn\n"
        "class Net(nn.Sequential):\n"
        "    def __init__(self, *, bad: bool, in_channels: int, num_classes: int):\n"
        "        super().__init__(nn.Conv2d(in_channels, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(),\n"
        "                         nn.Linear(4, num_classes))\n"
        "        self.bad = bad\n"
        "    def forward(self, x):\n"
        "        return super().forward(x / (0 if self.bad and len(x) > 8 and self.undefined else 1))\n"
    )
    small = [text for text in CUT if not text.startswith("model.")]
    mine = ("model=custom", "model._target_=nets.Net", "+model.bad=true,false", "stages=[pretrain,eval]")
    done = run_command(tmp_path, "-m", *mine, *small, PYTHONPATH=".")
    assert done.returncode == 1, done.stderr
    assert "AttributeError" in done.stderr
    assert "Traceback" in done.stderr
    assert "1 of 2 jobs are not done" in done.stdout
    assert "model.bad=true" in done.stdout.lower()
    summaries = [read_json(folder / "summary.json") for folder in job_folders(tmp_path).values()]
    assert sorted(summary["status"] for summary in summaries) == ["done", "failed"]
    assert {summary.get("bad_input") for summary in summaries} == {None, False}


@pytest.mark.slow
def test_no_override_breaks_the_name_of_a_folder(command: Command, tmp_path: Path) -> None:
    odd = tmp_path / "it's" / "a net, 2nd=best.safetensors"
    odd.parent.mkdir()
    only = ("stages=[pretrain,eval]", "pretrain.epochs=1")
    assert command(*CUT, *only, "hydra.run.dir=first").returncode == 0
    (tmp_path / "first" / "model.safetensors").rename(odd)
    long = ",".join(f"0.{n:03}" for n in range(1, 100))
    done = command(
        "-m", "method=slimming", *SMALL, *only, f'model.checkpoint="{odd}"', f"method.watch=[{long}],[0.5]"
    )
    assert done.returncode == 0, done.stderr
    names = sorted(job_folders(tmp_path))
    assert len(names) == 2
    for name in names:
        assert name.startswith("method=slimming,")
        assert len(name) < 120
        assert not set(name) - set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.,=+-")
    assert [path.parent for path in job_folders(tmp_path).values()] == [tmp_path / "outputs" / "sweeps"] * 2


@pytest.mark.parametrize("launcher", ["joblib", "submitit_local"])
@pytest.mark.slow
def test_launchers_give_the_same_networks(launcher: str, calm: Path, tmp_path: Path) -> None:
    """Two jobs at a time, in other processes, on one cache."""
    pytest.importorskip(f"hydra_plugins.hydra_{launcher.partition('_')[0]}_launcher")
    more = ["hydra.launcher.n_jobs=2"] if launcher == "joblib" else []
    done = run_command(tmp_path, "-m", f"hydra/launcher={launcher}", *more, "percent=0.2,0.4", *CUT)
    assert done.returncode == 0, done.stderr
    assert weights(tmp_path).items() < weights(calm).items()
    logs = [path.read_text() for path in tmp_path.glob("outputs/sweeps/*/compress.log")]
    lines = Counter(line.split("] ")[-1] for log in logs for line in log.splitlines() if line.endswith(": running"))
    assert lines == {"pretrain: running": 1, "prune: running": 2, "finetune: running": 2, "eval: running": 2}
    assert "percent" in done.stdout.split("\n\n")[-1]  # the table of the sweep


@pytest.mark.slow
def test_two_runs_at_once_get_two_folders(tmp_path: Path) -> None:
    runs = [start(tmp_path, "stages=[pretrain,eval]", *CUT) for _ in range(2)]
    outputs = [run.communicate()[0] for run in runs]
    assert [run.returncode for run in runs] == [0, 0], outputs
    summaries = [read_json(path) for path in tmp_path.glob("outputs/2*/*/summary.json")]
    assert [summary["status"] for summary in summaries] == ["done", "done"]
    assert sorted(summary["stages"]["pretrain"]["reused"] for summary in summaries) == [False, True]


def killed_again_and_again(base: Path, calm: Path, times: int, arguments: tuple[str, ...]) -> None:
    """Kill a sweep at random moments, then let it end: what it leaves is what the calm one left, nothing twice."""
    moments = random.Random(0)
    outputs = []
    for _ in range(times):
        sweep = start(base, *arguments)
        time.sleep(2.0 + 5.0 * moments.random())
        sweep.kill()
        outputs.append(sweep.communicate()[0])
    last = start(base, *arguments)
    outputs.append(last.communicate()[0])
    assert last.returncode == 0, outputs[-1]
    assert weights(base) == weights(calm)
    finished: Any = Counter(
        line.split(": done in")[0] for text in outputs for line in text.splitlines() if ": done in" in line
    )
    assert finished <= Counter({"pretrain": 1, "prune": 3, "finetune": 3, "eval": 3}), finished
    assert not list(base.glob("outputs/cache/*.partial"))
    for name, folder in job_folders(base).items():
        ours, theirs = (
            read_json(path / name / "summary.json") for path in (base / "outputs/sweeps", calm / "outputs/sweeps")
        )
        assert ours["status"] == "done"
        assert [row["top1"] for row in ours["results"].values()] == [
            row["top1"] for row in theirs["results"].values()
        ]
        assert (folder / "plan.json").read_bytes() == (calm / "outputs/sweeps" / name / "plan.json").read_bytes()


@pytest.mark.slow
def test_a_sweep_killed_at_a_random_moment_loses_nothing(calm: Path, tmp_path: Path) -> None:
    killed_again_and_again(tmp_path / "killed", calm, 1, ("-m", "percent=0.2,0.4,0.6", *CUT))


@pytest.mark.slow
def test_a_sweep_killed_at_twenty_random_moments_loses_nothing(tmp_path: Path) -> None:
    """Of a sweep that takes about as long as so many kills."""
    arguments = ("-m", "percent=0.2,0.4,0.6", *CUT, "pretrain.epochs=60", "finetune.epochs=60", *OFTEN)
    calm = start(tmp_path / "calm", *arguments)
    output = calm.communicate()[0]
    assert calm.returncode == 0, output
    killed_again_and_again(tmp_path / "killed", tmp_path / "calm", 20, arguments)
