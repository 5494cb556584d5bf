"""What a start loads, told by imports, not by seconds (benchmarks/startup.py has those); a job is built once."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from test_sweeps import CUT

from compress.io.files import read_json

HEAVY = ("torch", "torch._dynamo", "torchvision")
COMMAND = """
import atexit, runpy, sys
atexit.register(lambda: print("LOADED", *(name for name in {heavy} if name in sys.modules)))
atexit.register(lambda: print("BUILT", len(built)))
built = []
sys.argv = ["compress", *sys.argv[1:]]
if {count}:
    import compress.config.build as module
    whole = module.Job
    module.Job = lambda **parts: built.append(1) or whole(**parts)
runpy.run_module("compress", run_name="__main__", alter_sys=True)
"""


def loaded(folder: Path, *arguments: str, count: bool = False) -> tuple[list[str], str]:
    """The heavy modules that a command has loaded at its end, and what it printed."""
    code = COMMAND.format(heavy=HEAVY, count=count)
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=folder, capture_output=True, text=True, env=env
    )
    line = next(line for line in done.stdout.splitlines() if line.startswith("LOADED"))
    return line.split()[1:], done.stdout


@pytest.mark.parametrize(
    "line",
    [
        ["--help"],
        ["--version"],
        ["help"],
        ["ls"],
        ["clean", "--dry-run"],
        ["foo"],
        ["preserve_ration=0.5"],
        ["method=camcc", "seed=-1"],
    ],
)
def test_what_is_told_without_torch_does_not_load_it(line: list[str], tmp_path: Path) -> None:
    assert loaded(tmp_path, *line)[0] == []


def test_a_run_loads_neither_compiler_nor_torchvision(tmp_path: Path) -> None:
    run = (*CUT, "hydra.run.dir=run", "pretrain.epochs=1")
    modules, first = loaded(tmp_path, *run, count=True)
    assert "BUILT 1" in first
    assert modules == ["torch"], (
        "half of the seconds before the first step were the compiler's, asked by the optimizer"
    )
    assert read_json(tmp_path / "run" / "summary.json")["status"] == "done"
    modules, again = loaded(tmp_path, *run)
    assert "is a finished run of this config" in again
    assert modules == ["torch"]
    modules, cached = loaded(tmp_path, *run, "hydra.run.dir=other", "stages=[pretrain]")
    assert "the dense network is reused" in cached
    assert modules == ["torch"]


def test_each_job_of_a_sweep_is_built_once(tmp_path: Path) -> None:
    _, output = loaded(tmp_path, "-m", "seed=0,1", *CUT, "pretrain.epochs=0", "stages=[pretrain]", count=True)
    assert "BUILT 2" in output, output


def test_versions_and_unknown_commands_say_what_to_type(tmp_path: Path) -> None:
    for line, code, told in (
        (["--version"], 0, "compress "),
        (["help"], 0, "== Commands =="),
        (["foo"], 2, "compress: foo: no such command; "),
        (["comapre"], 2, "did you mean compress compare"),
        (["camc"], 2, "did you mean method=camc"),
        (["list"], 2, "compress ls lists runs"),
        (["help", "ls"], 0, "usage: compress ls"),
    ):
        done = subprocess.run([sys.executable, "-m", "compress", *line], cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == code, (line, done.stderr)
        assert told in done.stdout + done.stderr
