"""Child processes with a deadline, one or several side by side; all end with this process."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from gpu_plan import Job, next_job

STOP_SECONDS = 15  # for a command to save what it has after it was interrupted
POLL_SECONDS = 0.2
BENCHMARKS = Path(__file__).resolve().parent
ROOT = BENCHMARKS.parent
COMPRESS = (sys.executable, "-m", "compress")

Process = subprocess.Popen[bytes]


def script(name: str) -> tuple[str, str]:
    return sys.executable, str(BENCHMARKS / name)


def start(command: Sequence[str], log: Path) -> Process:
    """In a process group of its own, with all that it prints at the end of `log`."""
    log.parent.mkdir(parents=True, exist_ok=True)
    sources = os.pathsep.join(filter(None, (str(ROOT / "src"), os.environ.get("PYTHONPATH"))))
    with log.open("ab") as file:
        file.write(f"$ {' '.join(command)}\n".encode())
        file.flush()
        return subprocess.Popen(
            command, stdout=file, stderr=file, stdin=subprocess.DEVNULL, cwd=ROOT, start_new_session=True,
            env={**os.environ, "PYTHONPATH": sources},
        )  # fmt: skip


def stop(processes: Sequence[Process]) -> None:
    """Interrupt all, give them `STOP_SECONDS`, then kill what is left of their groups."""
    for process in processes:
        if process.poll() is None:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGINT)
    deadline = time.monotonic() + STOP_SECONDS
    for process in processes:
        with suppress(subprocess.TimeoutExpired):
            process.wait(max(0.0, deadline - time.monotonic()))
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def run_until(deadline: float, command: Sequence[str], log: Path) -> int | None:
    """The exit code; None if the time was over before."""
    process = start(command, log)
    try:
        return process.wait(max(0.0, deadline - time.monotonic()))
    except subprocess.TimeoutExpired:
        return None
    finally:
        stop([process])


def side_by_side(
    jobs: Callable[[], Sequence[Job]],
    begin: Callable[[Job], Process],
    end: Callable[[Job, float], bool],
    finished: set[Job],
    failed: set[Job],
    workers: int,
    deadline: float,
) -> None:
    """Run jobs until none is left or the time is over, and add each to `finished` or `failed`.

    `jobs()` is asked each time a worker is free, as later jobs may depend on what earlier ones found. `end(job,
    seconds)` keeps the result of a process that ended well, and says whether there was one.
    """
    running: dict[Job, tuple[Process, float]] = {}
    try:
        while time.monotonic() < deadline:
            for job, (process, began) in list(running.items()):
                if process.poll() is not None:
                    del running[job]
                    good = process.returncode == 0 and end(job, time.monotonic() - began)
                    (finished if good else failed).add(job)
            while len(running) < workers and (job := next_job(jobs(), finished, {*running, *failed})):
                running[job] = begin(job), time.monotonic()
            if not running:
                break
            time.sleep(POLL_SECONDS)
    finally:
        stop([process for process, _ in running.values()])
