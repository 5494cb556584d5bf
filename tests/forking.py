"""The command in forks of a process that has loaded what it needs: most of a short run is loading torch.

`run` is `subprocess.run` of `python -m compress ...`, but seconds faster. The process that forks computes nothing and
starts no thread, so that its forks are as good as fresh processes.
"""

import functools
import importlib
import json
import os
import runpy
import select
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

LOADED = (
    "compress.cli", "compress.run.distributed", "compress.run.pipeline", "fvcore.nn", "matplotlib.pyplot",
    "torch._dynamo", "torch.utils.tensorboard", "torchvision",
)  # fmt: skip


def run(
    folder: Path, arguments: list[str], env: dict[str, str], timeout: float
) -> "subprocess.CompletedProcess[str]":
    server = _server()
    assert server.stdin is not None
    assert server.stdout is not None
    with tempfile.TemporaryDirectory() as scratch:
        files = [Path(scratch) / name for name in ("stdout", "stderr")]
        job = {"folder": str(folder), "arguments": arguments, "env": env, "files": [str(file) for file in files]}
        server.stdin.write(json.dumps(job) + "\n")
        server.stdin.flush()
        if not select.select([server.stdout], [], [], timeout)[0]:
            os.killpg(server.pid, signal.SIGKILL)
            _server.cache_clear()
            raise subprocess.TimeoutExpired(arguments, timeout)
        code = int(server.stdout.readline())
        return subprocess.CompletedProcess(arguments, code, *(file.read_text() for file in files))


@functools.cache
def _server() -> "subprocess.Popen[str]":
    """One for each process that tests; it ends with it."""
    return subprocess.Popen(
        [sys.executable, __file__],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def serve() -> None:
    """A line of JSON in, an exit code out, until the input ends; a fork goes on as the command."""
    for name in LOADED:
        importlib.import_module(name)
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            become(json.loads(line))
            return
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


def become(job: dict[str, Any]) -> None:
    """What `python -m compress` would be in that folder, with those arguments and that environment."""
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for target, path in enumerate(job["files"], start=1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), target)
    os.chdir(job["folder"])
    os.environ.clear()
    os.environ.update(job["env"])
    tempfile.tempdir = None  # what was looked up before
    sys.path[:1] = [str(Path.cwd()), *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    sys.argv = ["compress", *job["arguments"]]
    runpy.run_module("compress", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    serve()
