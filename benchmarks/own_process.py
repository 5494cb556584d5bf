"""A measurement in a process of its own: with limits, and told why if there is none."""

import json
import resource
import subprocess
import sys
from typing import Any


def result_of(script: str, *arguments: str, seconds: float, most: int) -> dict[str, Any]:
    """The JSON that `script` prints last; or `error`, of at most so many characters."""
    command = [sys.executable, "-W", "ignore", script, *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds)
    except subprocess.TimeoutExpired:
        return {"error": "time"}
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        return {"error": lines[-1][:most] if lines else f"killed by signal {-done.returncode}: time or memory"}
    return json.loads(done.stdout.splitlines()[-1])  # type: ignore[no-any-return]


def limit(seconds: int, gibibytes: int) -> None:
    """CPU seconds and memory of this process."""
    resource.setrlimit(resource.RLIMIT_AS, (gibibytes << 30, gibibytes << 30))
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
