"""Whatever is typed: it runs, or one line for each mistake says what is wrong, with exit code 2, before anything is
created. Command lines are drawn from the settings that there are."""

import random
from pathlib import Path
from typing import Any

import pytest
from conftest import compose_config, run_command

from compress.config.command_line import mistakes
from compress.io.files import printable

QUICK = ("device=cpu", "stages=[pretrain]", "pretrain.epochs=0", "tensorboard=false", "plots=false")
METHODS = (
    "camc",
    "amc",
    "slimming",
    "magnitude",
    "filter_magnitude",
    "sample",
    "sensitivity",
    "supernet",
    "metaprune",
)
ODD = (
    "null", "true", "-1", "0", "1", "2.5", "1e400", "-1e400", "nan", "inf", "-inf", "1e-300", str(10**22), "9" * 5000,
    "''", "a", "[]", "[1,a]", "{}", "{a:1}", "[[[[1]]]]", "/", "..", "~", "ä\u202e", "'\\x1b[31m'", "x" * 3000, "1,2",
    "range(0,1,0)", "range(1,3)", "choice(1,2)", "glob(*)", "${seed}", "${nothing}", "${oc.env:NOPE}", "${seed",
    "???", "a b", "[", "'", "=", "1=2",
)  # fmt: skip
LINES = (
    ["dataset.split_seed=" + str(10**22)], ["~dataset._target_"], ["model._target_=..a"], ["model._target_=os"],
    ["model.width=999999999999"], ["seed=" + "9" * 5000], ["threads=1", "-m", "seed=0,1"],
    ["-m", "seed=range(0,1,0)"],
    ["~teacher.model"], ["--method", "camc"], ["--package=foo"], ["method={}"], ["model=[]"], ["~model"],
    ["reward=acc", "method=slimming"], ["method=slimming", "method.min_channels=1000"], ["percent=0.99999999999"],
    ["method=magnitude", "method.steps=99999999"], ["pretrain.epochs=" + "9" * 13], ["preserve_ration=0.5"],
    ["teacher=zoo", "distill=kd", "distill.ce_weight=0", "~distill.terms.kd"], ["-m", "-c"], ["-x"], ["--multirun=3"],
    ["eval.latency_seconds=1e9"], ["hydra.run.dir=/proc/x"], ["--config-name=nope"], ["--config-dir"], ["="], [""],
    ["hydra.job.name=a/b"], ["hydra.job.chdir=3"], ["-m", "seed=interval(0,1)"],
    ["-m", "hydra.sweeper.max_batch_size=0", "seed=0,1"], ["search=evolution", "method=slimming"],
    ["method.default_budget=0"], ["method.default_budget={preserve_ratio: 7}"], ["method.default_budget=null"],
    ["method=metaprune", "method.gene=[1,2]"], ["method=supernet", "search.parents=99"], ["scorer=refit"],
    ["method=sample", "search.draws=0"], ["method=sample", "scorer.images=0"], ["reward.references=x"],
)  # fmt: skip


def keys_of(node: Any, prefix: str = "") -> list[str]:
    found = []
    for key, value in node.items():
        found += [f"{prefix}{key}", *(keys_of(value, f"{prefix}{key}.") if isinstance(value, dict) else [])]
    return found


def drawn(number: int, keys: dict[str, list[str]]) -> list[str]:
    """One command line: a method, and one to three settings of it that are given, added or deleted."""
    draw = random.Random(number)
    method = draw.choice(METHODS)
    line = [f"method={method}"]
    for _ in range(draw.choice((1, 1, 2, 3))):
        key = draw.choice(keys[method]) + draw.choice(("", "", "", "", "", "x", ".x", "."))
        sign = draw.choice(("", "", "", "", "", "", "+", "++", "~"))
        line.append(f"{sign}{key}" if sign == "~" and draw.random() < 0.7 else f"{sign}{key}={draw.choice(ODD)}")
    options = draw.choice(([], [], [], [], ["-m"], ["--multirun"], ["-m", "hydra/launcher=none"]))
    return [*options, *QUICK, *line]


def assert_told(line: list[str], folder: Path) -> tuple[int, int]:
    """The exit code, and how many lines of mistakes there were."""
    folder.mkdir()
    done = run_command(folder, *line)
    assert "Traceback" not in done.stdout + done.stderr, (line, done.stderr)
    assert done.returncode in (0, 2), (line, done.stderr)
    if done.returncode == 2:
        told = done.stderr.splitlines()
        assert told, line
        assert all(text.startswith("compress: ") and text == printable(text) for text in told), (line, told)
        assert all(len(text) < 1500 for text in told), (line, told)
        assert not list(folder.iterdir()), (line, told)
    return done.returncode, len(done.stderr.splitlines())


@pytest.mark.parametrize("numbers", [range(2), pytest.param(range(2, 1000), marks=pytest.mark.slow)])
def test_whatever_is_set_it_runs_or_is_told(numbers: range, tmp_path: Path) -> None:
    keys = {method: keys_of(compose_config(f"method={method}")) for method in METHODS}
    assert min(map(len, keys.values())) > 60
    codes = [assert_told(drawn(number, keys), tmp_path / str(number))[0] for number in numbers]
    assert codes.count(2) > len(codes) // 2


@pytest.mark.parametrize("lines", [LINES[::9], pytest.param(LINES, marks=pytest.mark.slow)], ids=["some", "all"])
def test_known_slips_are_told_in_one_line(lines: tuple[list[str], ...], tmp_path: Path) -> None:
    for number, line in enumerate(lines):
        assert assert_told(line, tmp_path / str(number)) == (2, 1), line


def test_what_is_wrong_as_text_is_told_without_hydra() -> None:
    assert mistakes(["method=camc", "-m", "preserve_ratio=0.5"]) == [
        "-m: options stand before settings: compress -m method=camc preserve_ratio=0.5"
    ]
    assert mistakes(["-m", "seed=0,1", "pretrain.lr=1e-3", "method.watch=[0.1,0.2]"]) == []
    assert mistakes(["--cfg", "job", "--package", "pretrain"]) == []
    for line in (["--method", "camc"], ["--method=camc"], ["seed=1", "--method", "camc"]):
        (told,) = mistakes(line)
        assert told.endswith("no such option; settings are written method=camc")
