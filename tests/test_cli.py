"""The command's face: quick help that teaches, and imports that wait."""

import re
import resource
import subprocess
import sys

import yaml
from conftest import Command

from compress.config.comments import commented


def test_help_shows_groups_budgets_and_six_commands(command: Command) -> None:
    text = command("--help").stdout
    for group in ("dataset:", "model:", "method:", "teacher:", "distill:", "reward:", "experiment:"):
        assert group in text
    for budget in ("preserve_ratio=", "percent=", "flops_limit="):
        assert budget in text
    assert sum(line.startswith("compress ") for line in text.splitlines()) == 6


def test_help_is_quick_and_loads_no_torch() -> None:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-m", "compress", "--help"], check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 4  # 0.7 on a quiet machine
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


def test_the_printed_job_has_the_comments_of_its_files_and_is_the_same_yaml(command: Command) -> None:
    line = ("method=slimming", "dataset=cifar10", "teacher=zoo", "distill=[kd,at]")
    whole = command("--cfg", "job", *line).stdout
    part = command("--cfg", "job", "--package", "dataset", *line).stdout
    assert yaml.safe_load(whole)["dataset"] == yaml.safe_load(part)
    rows = [re.sub(" +", " ", row).strip() for row in whole.splitlines()]
    assert "flops_limit: null # MMACs left" in rows
    assert "lr: 0.1 # peak learning rate" in rows
    assert "lr: ${pretrain.lr} # peak learning rate" in rows, "the recipe of a method has that of pretrain"
    assert "skip: null" in rows
    assert any("layers left alone" in row for row in rows[: rows.index("skip: null")])
    assert "held_out: 0.1 # 5,000 of the 50,000 training images" in rows
    assert "held_out: 0.1 # 5,000 of the 50,000 training images" in [re.sub(" +", " ", r) for r in part.splitlines()]
    assert len(rows) > 150
    assert sum("#" in row for row in rows) > 100


def test_a_text_that_comments_would_change_is_printed_as_it_is() -> None:
    text = "pretrain: |\n  lr: 0.1"
    assert commented(text) == text
    assert commented("flops_limit: 3").split("#")[1] == " MMACs left"
