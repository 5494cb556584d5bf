"""`compress compare` on runs of the real digits, and on folders that something happened to."""

import csv
import io
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import run_command

from compress.errors import InputError
from compress.io.files import read_json, write_json
from compress.report.compare import main
from compress.report.read.run_folders import run_folders

SMALL = ("experiment=quick", "device=cpu", "plots=false", "tensorboard=false", "model.depth=8", "model.width=8")


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """outputs/ of two methods at one budget, each with a control."""
    base = tmp_path_factory.mktemp("compared")
    jobs = ("method=filter_magnitude,slimming", "preserve_ratio=0.5", "control=random", "control_draws=1")
    done = run_command(base, "-m", *SMALL, *jobs)
    assert done.returncode == 0, done.stderr
    for file in base.glob("outputs/sweeps/*/summary.json"):  # what is told apart would depend on the machine
        summary = read_json(file)
        for network in summary["results"].values():
            network["latency_spread_ms"] = None
        write_json(file, summary)
    return base / "outputs"


@pytest.fixture
def outputs(sweep: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy to spoil, as outputs/ of the working folder."""
    shutil.copytree(sweep, tmp_path / "outputs")
    monkeypatch.chdir(tmp_path)
    return Path("outputs")


@pytest.fixture
def compare(outputs: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    def run(*arguments: str) -> str:
        assert main(arguments) == 0, capsys.readouterr().err
        return capsys.readouterr().out

    return run


def of(outputs: Path, method: str) -> Path:
    """The folder of the sweep's run of a method."""
    summaries = outputs.glob("sweeps/*/summary.json")
    return next(path.parent for path in summaries if read_json(path)["config"]["method"]["name"] == method)


def like(outputs: Path, name: str, change: Callable[[dict[str, Any]], None], method: str = "slimming") -> Path:
    """Another run folder: that of `method` with a summary that is changed."""
    first = of(outputs, method)
    summary = read_json(first / "summary.json")
    change(summary)
    shutil.copytree(first, outputs / name)
    write_json(outputs / name / "summary.json", summary)
    return outputs / name


def seeded(outputs: Path) -> None:
    """Both methods with three more seeds."""
    for method in ("slimming", "filter_magnitude"):
        for seed in (1, 2, 3):

            def change(summary: dict[str, Any], seed: int = seed) -> None:
                summary["config"]["seed"] = seed
                summary["results"]["finetuned"]["top1"] = 90.0 + seed

            like(outputs, f"{method}-{seed}", change, method)


def raw(compare: Callable[..., str], *arguments: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads(compare("outputs", *arguments, "--format", "json"))
    return rows


def test_it_needs_no_torch_no_hydra_and_no_matplotlib(outputs: Path) -> None:
    heavy = ("torch", "hydra", "omegaconf", "matplotlib", "numpy", "yaml")
    code = (
        "import sys; sys.argv[1:] = ['compare', 'outputs']; import compress.__main__ as command\n"
        "try: command.main()\n"
        f"except SystemExit as end: assert end.code == 0; print([m for m in {heavy} if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.endswith("[]\n"), done.stdout + done.stderr


def test_figures_are_those_of_the_summaries(outputs: Path, compare: Callable[..., str]) -> None:
    rows = raw(compare)
    assert [row["method"] for row in rows] == ["filter_magnitude", "slimming"]
    for row in rows:
        summary = read_json(Path(row["run"]) / "summary.json")
        results = summary["results"]
        assert row["top1"] == row["finetuned"] == results["finetuned"]["top1"]
        assert row["delta"] == results["finetuned"]["top1"] - results["dense"]["top1"]
        assert row["macs_share"] == results["finetuned"]["macs"] / results["dense"]["macs"]
        assert (row["budget"], row["asked"]) == ("preserve_ratio", 0.5)
        assert row["achieved"] == summary["budget"]["achieved"]["preserve_ratio"]
        stages = {name: stage["seconds"] for name, stage in summary["stages"].items() if "random" not in name}
        assert row["seconds"] == pytest.approx(sum(stages.values()))
        assert row["seconds_run"] == summary["seconds"]
        assert all(network["weights"] == "last" for network in results.values())
        assert row["marks"] == []


def test_controls_are_rows_if_asked_for(outputs: Path, compare: Callable[..., str]) -> None:
    rows = raw(compare, "--controls")
    assert [row["control"] for row in rows] == [None, "random 1"] * 2
    results = read_json(of(outputs, "slimming") / "summary.json")["results"]
    assert rows[3]["finetuned"] == results["finetuned, random 1"]["top1"]
    assert rows[3]["dense"] == rows[2]["dense"]


def test_every_way_to_name_runs_finds_them_once(outputs: Path) -> None:
    folders = run_folders(["outputs"])
    assert len(folders) == 2
    assert run_folders(["outputs/sweeps/*"]) == folders
    assert run_folders(["outputs/**/summary.json"]) == folders
    assert run_folders([*map(str, folders), "outputs", "outputs/sweeps"]) == folders
    (outputs / "link").symlink_to("sweeps")
    assert len(run_folders(["outputs"])) == 2
    (outputs / "link" / "loop").symlink_to("..")
    assert len(run_folders(["outputs"])) == 2


def test_neither_the_cache_nor_controls_are_runs(outputs: Path) -> None:
    shutil.copytree(run_folders(["outputs"])[0], outputs / "cache" / "run")
    shutil.copytree(outputs / "cache" / "run", run_folders(["outputs"])[0] / "controls" / "run")
    assert len(run_folders(["outputs"])) == 2


def test_budgets_are_found_in_the_order_of_their_size(tmp_path: Path) -> None:
    for name in ("flops_limit=100", "flops_limit=60", "percent=0.45", "percent=0.5", "percent=0.05"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "summary.json").touch()
    names = [path.name for path in run_folders([str(tmp_path)])]
    assert names == ["flops_limit=60", "flops_limit=100", "percent=0.05", "percent=0.45", "percent=0.5"]


def test_what_is_unfinished_is_listed_with_the_reason(outputs: Path, compare: Callable[..., str]) -> None:
    def status(name: str, **more: Any) -> None:
        like(outputs, name, lambda summary: summary.update({**more, "results": {}, "stages": {"pretrain": {}}}))

    status("a", status="running")
    status("b", status="failed", error="no space\nleft")
    status("c", status="interrupted", error="KeyboardInterrupt")
    status("d", status="done")
    (like(outputs, "e", dict.clear) / "summary.json").write_text("{")
    (like(outputs, "f", dict.clear) / "summary.json").write_text('{"results": []}')
    (like(outputs, "g", dict.clear) / "summary.json").write_text('{"results": {"dense": 3}}')
    (outputs / "h" / ".hydra").mkdir(parents=True)
    text = compare("outputs")
    reasons = {
        "a": "running, after pretrain; last written to ",
        "b": "failed, after pretrain: no space",
        "c": "interrupted, after pretrain",
        "d": "done, but no network was measured",
        "e": "damaged summary.json (Expecting property name",
        "g": "damaged summary.json (results.dense is not an object)",
        "h": "no summary.json",
    }
    below = text[text.index("without results (8):") :]
    assert text.index("slimming") < text.index("without results")
    for name, reason in reasons.items():
        assert f"outputs/{name}: {reason}" in below
    assert "outputs/f: " in below


def test_a_summary_of_another_program_is_shown_with_what_it_has(outputs: Path, compare: Callable[..., str]) -> None:
    foreign = {"config": {"method": {"name": "theirs"}}, "results": {"finetuned": {"top1": 99.5, "weights": "best"}}}
    (outputs / "foreign").mkdir()
    write_json(outputs / "foreign" / "summary.json", foreign)
    row = next(row for row in raw(compare) if row["method"] == "theirs")
    assert (row["top1"], row["macs"], row["delta"]) == (99.5, None, None)
    text = compare("outputs")
    assert "theirs" in text
    assert "finetuned: top-1 of the best epoch, not of the last" in text


def test_marks_stand_in_the_table_with_footnotes(outputs: Path, compare: Callable[..., str]) -> None:
    like(outputs, "missed", lambda summary: summary["budget"].update(met=False))

    def longer(summary: dict[str, Any]) -> None:
        summary["stages"]["finetune"]["recipe"]["epochs"] = summary["stages"]["finetune"]["epochs"] = 7

    like(outputs, "longer", longer)
    text = compare("outputs")
    lines = text.splitlines()
    marks = {line.split()[-1]: line for line in lines if line.split()[-1:] in (["a"], ["b"])}
    notes = {line[0]: line[3:] for line in lines if line[1:3] == ": "}
    assert "longer" in marks["a"]
    assert notes["a"].startswith("finetune.epochs 7, not 1 as in 3 of 4")
    assert "missed" in marks["b"]
    assert notes["b"].startswith("missed its budget")


def test_seeds_become_mean_and_deviation(outputs: Path, compare: Callable[..., str]) -> None:
    seeded(outputs)
    rows = raw(compare, "--by", "method", "--where", "seed>0", "--sort", "-method")
    assert [(row["method"], row["n"]) for row in rows] == [("slimming", 3), ("filter_magnitude", 3)]
    assert [(row["finetuned"], row["finetuned_sd"]) for row in rows] == [(92.0, 1.0)] * 2
    text = compare("outputs", "--by", "method", "--where", "seed>0")
    assert text.count("92.00 ± 1.00") == 2
    assert "runs differ" not in text


def test_the_front_is_recomputed_for_what_is_left(outputs: Path, compare: Callable[..., str]) -> None:
    like(outputs, "beaten", lambda summary: summary["results"]["finetuned"].update(top1=1.0))
    like(outputs, "small", lambda summary: summary["results"]["finetuned"].update(top1=2.0, macs=1000))
    folders = [row["run"] for row in raw(compare, "--pareto")]
    assert "outputs/small" in folders
    assert "outputs/beaten" not in folders


@pytest.mark.parametrize("style", ["table", "csv", "json", "markdown", "latex"])
def test_every_format_holds_every_run(outputs: Path, compare: Callable[..., str], style: str) -> None:
    seeded(outputs)
    text = compare("outputs", "--format", style)
    assert text.count("filter_magnitude" if style != "latex" else r"filter\_magnitude") >= 4
    if style == "csv":
        rows = list(csv.DictReader(io.StringIO(text)))
        assert len(rows) == 8
        assert {row["seed"] for row in rows} == {"0", "1", "2", "3"}
        assert float(rows[0]["top1"]) > 0
    if style == "latex":
        rules = (r"\toprule", r"\midrule", r"\bottomrule")
        assert [text.count(rule) for rule in rules] == [1, 1, 1]
        body = text[: text.index(r"\end{tabular}")]
        assert not [line for line in body.splitlines() if "%" in line.replace(r"\%", "")]
    if style == "markdown":
        assert text.splitlines()[1].startswith("|--")


def test_two_runs_are_laid_side_by_side(outputs: Path, compare: Callable[..., str]) -> None:
    first, second = map(str, run_folders(["outputs"]))
    text = compare(first, second)
    assert f"a: {first}\nb: {second}" in text
    assert any(line.split() == ["method", "filter_magnitude", "slimming"] for line in text.splitlines())
    results = [read_json(Path(path) / "summary.json")["results"]["finetuned"]["top1"] for path in (first, second)]
    figures = next(line for line in text.splitlines() if line.startswith("finetuned top-1")).split()
    assert figures[2:] == [f"{results[0]:.2f}", f"{results[1]:.2f}", f"{results[1] - results[0]:+.2f}"]
    plans = [read_json(Path(path) / "plan.json")["layers"] for path in (first, second)]
    ratios = [{name: layer["kept_width"] / layer["width"] for name, layer in plan.items()} for plan in plans]
    apart = {name: ratios[1][name] - ratios[0][name] for name in ratios[0]}
    shown = text[text.index("a keeps") :].splitlines()[2:-1]
    assert 1 <= len(shown) <= 10
    most = max(apart.values(), key=abs)
    assert float(shown[0].split()[5]) == pytest.approx(100 * most, abs=0.01)
    assert shown[0].split()[0] in [name for name in apart if abs(apart[name]) == pytest.approx(abs(most))]


def test_two_runs_without_a_plan_say_so(outputs: Path, compare: Callable[..., str]) -> None:
    first, second = run_folders(["outputs"])
    (second / "plan.json").write_text("{")
    assert "the plans cannot be compared" in compare(str(first), str(second))
    (second / "plan.json").unlink()
    assert "no such file" in compare(str(first), str(second))


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("nothing",), "nothing: no such folder"),
        (("out*x",), "out*x: nothing matches it"),
        (("outputs/cache",), "outputs/cache: no run found"),
        (("outputs", "--sort", "top"), "--sort top: unknown key; did you mean top1?"),
        (("outputs", "--sort", "-lr"), "--sort lr: more than one setting"),
        (("outputs", "--where", "metod=amc"), "did you mean method?"),
        (("outputs", "--by", "colour"), "--by colour: unknown key; choices: "),
        (("outputs", "--format", "xml"), "invalid choice: 'xml'"),
        (("outputs", "--wher", "x"), "unrecognized arguments: --wher"),
        (("outputs", "--plot", "outputs/file"), "--plot outputs/file: cannot make the folder"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    outputs: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], says: str
) -> None:
    (outputs / "file").touch()
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("compress compare: ")
    assert says in error
    assert error.count("\n") == 1


def test_a_closed_pipe_is_quiet(outputs: Path) -> None:
    shell = f"{sys.executable} -m compress compare outputs | head -c 1"
    assert subprocess.run(shell, shell=True, capture_output=True, text=True).stderr == ""


def test_the_exit_code_and_the_line_reach_the_shell(outputs: Path) -> None:
    done = run_command(Path(), "compare", "outputs", "--sort", "nothing")
    assert done.returncode == 2
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    assert run_command(Path(), "compare", "--help").stdout.startswith("usage: compress compare")


def test_figures_are_drawn(outputs: Path, compare: Callable[..., str]) -> None:
    seeded(outputs)
    (outputs / "slimming-3" / "metrics.jsonl").write_text("no row\n")
    compare("outputs", "--plot", "drawn/here")
    names = sorted(path.name for path in Path("drawn/here").iterdir())
    assert names == ["budgets.png", "front.png", "layers.png", "training.png"]  # nothing was searched
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in Path("drawn/here").iterdir())


def test_no_run_or_all_unfinished_is_not_an_error(outputs: Path, compare: Callable[..., str]) -> None:
    for folder in run_folders(["outputs"]):
        (folder / "summary.json").write_text("")
    text = compare("outputs")
    assert text.startswith("no finished run\n")
    assert "without results (2)" in text
    assert main(["outputs", "--where", "nonsense"]) == 2
    assert main(["outputs", "--where", "top1>high"]) == 2
    assert main(["outputs", "--plot", str(outputs / "sweeps" / "multirun.yaml")]) == 2


def test_a_folder_that_holds_no_run_is_named_beside_others(outputs: Path, compare: Callable[..., str]) -> None:
    (outputs / "empty").mkdir()
    text = compare("outputs", "outputs/empty", "--sort", "macs")
    assert text.endswith("without results (1):\n  outputs/empty: no run found in it\n")


def test_a_path_that_is_not_there_is_told_beside_others(outputs: Path) -> None:
    with pytest.raises(InputError, match="a: no such folder(.|\n)*b: no such folder"):
        run_folders(["outputs", "a", "b"])


def test_foreign_text_steers_no_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of a summary, of a name of a folder, of a damaged file; in every format."""
    evil = "\x1b[2J\x1b]0;owned\x07\u202e"
    results = {"dense": {"top1": 90.0, "macs": 10**6, "params": 10}}
    for number, name in enumerate(("one", f"two{evil}")):
        summary = {
            "status": "done", "config": {"seed": number, "model": {"name": f"net{number}{evil}\nrow"}, evil: evil},
            "config_hash": evil, "results": results, "stages": {evil: {"seconds": 1.0}}, "versions": {evil: evil},
        }  # fmt: skip
        (tmp_path / name).mkdir()
        write_json(tmp_path / name / "summary.json", summary)
    failed = {"status": "failed", "config": {}, "results": {}, "stages": {}, "error": f"it{evil}"}
    (tmp_path / "three").mkdir()
    write_json(tmp_path / "three" / "summary.json", failed)
    for style in ("table", "markdown", "csv", "json", "latex"):
        assert main([str(tmp_path), "--format", style, "--details"]) == 0
        shown = "".join(capsys.readouterr())
        assert "net" in shown
        assert not set(shown) & {"\x1b", "\x07", "\u202e"}
    assert main([str(tmp_path / f"none{evil}")]) == 2
    assert "\x1b" not in capsys.readouterr().err


def test_only_the_figures_that_are_asked_for_in_their_order(compare: Callable[..., str]) -> None:
    by = ("outputs", "--by", "method", "--columns", "epochs,top1,macs")
    header, *_ = compare(*by, "--format", "latex").split("toprule\n")[1].splitlines()
    assert [cell.strip(" \\") for cell in header.split("&")] == ["method", "n", "epochs", "top1", "MACs, M"]
    (row, _) = raw(compare, "--columns", "epochs,top1")
    assert [key for key in row if key in ("epochs", "top1", "macs", "params")] == ["epochs", "top1"]


def test_settings_are_columns_too(outputs: Path, compare: Callable[..., str]) -> None:
    seeded(outputs)
    (first, *_) = raw(compare, "--columns", "finetune.lr,seed,top1")
    assert list(first)[:4] == ["finetune.lr", "seed", "budget", "top1"]
    rows = raw(compare, "--by", "method", "--columns", "seed,quick,epochs")
    assert [list(row)[:4] for row in rows] == [["method", "seed", "quick", "n"]] * 2
    assert {(row["seed"], row["n"]) for row in rows} == {("0 | 1 | 2 | 3", 4)}  # not their mean


def test_a_figure_that_no_run_has_is_refused(outputs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["outputs", "--columns", "epochs,top2"]) == 2
    told = capsys.readouterr().err
    assert told.startswith("compress compare: --columns top2: unknown key; did you mean top1?")
    assert len(told.splitlines()) == 1
