"""The command's face: quick help that teaches, and imports that wait."""

import resource
import subprocess
import sys

from conftest import Command


def test_help_shows_groups_budgets_and_six_commands(command: Command) -> None:
    text = command("--help").stdout
    for group in ("dataset:", "model:", "method:", "teacher:", "distill:", "reward:", "experiment:"):
        assert group in text
    for budget in ("preserve_ratio=", "percent=", "flops_limit="):
        assert budget in text
    assert sum(line.startswith("compress ") for line in text.splitlines()) == 6


def test_help_takes_half_a_cpu_second_and_no_torch() -> None:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-m", "compress", "--help"], check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 2  # 0.5 on a quiet machine
    code = "import sys, compress.cli; assert 'torch' not in sys.modules and 'torchvision' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_help_survives_a_closed_pipe() -> None:
    shell = f"{sys.executable} -m compress --help | head -1"
    done = subprocess.run(shell, shell=True, capture_output=True, text=True)
    assert done.stderr == ""


def test_the_job_can_be_looked_at(command: Command) -> None:
    done = command("--cfg", "job", "method=camc", "preserve_ratio=0.4")
    assert done.returncode == 0
    assert "preserve_ratio: 0.4" in done.stdout
