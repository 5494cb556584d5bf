"""`compress ls` and `compress clean` on the stages of real runs: what anything refers to stays."""

import re
import shutil
from pathlib import Path

import pytest
from conftest import run_command
from test_sweeps import CUT

from compress.io.files import read_json, write_json
from compress.io.locks import locked
from compress.preview.command import main as plan
from compress.storage.cache import Entry, entries
from compress.storage.clean import main as clean
from compress.storage.clean import remove
from compress.storage.ls import listing
from compress.storage.ls import main as ls
from compress.storage.runs import RunFolder, read_run_folder, runs_below
from compress.storage.unused import unused

RUN = (*CUT, "stages=[pretrain,prune,finetune]", "pretrain.epochs=1")


@pytest.fixture(scope="module")
def two_runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder `outputs` of two runs, which share a trained network."""
    base = tmp_path_factory.mktemp("two")
    for name, share in (("first", "0.2"), ("second", "0.4")):
        done = run_command(base, *RUN, f"percent={share}", f"hydra.run.dir=outputs/{name}")
        assert done.returncode == 0, done.stderr
    return base / "outputs"


@pytest.fixture
def outputs(two_runs: Path, tmp_path: Path) -> Path:
    """A copy, whose summaries name folders of the cache by paths that are not its own."""
    return Path(shutil.copytree(two_runs, tmp_path / "outputs"))


def test_a_plan_tells_what_is_cached_and_writes_nothing(
    outputs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def planned(*settings: str) -> dict[str, str]:
        """The column "in the cache" of each stage."""
        assert plan([*RUN, f"outputs={outputs}", *settings]) == 0
        text = capsys.readouterr().out
        assert max(map(len, text.splitlines())) <= 80
        pattern = r"^(pretrain|prune|finetune) +(yes: \S+|no: computed again|no)"
        return dict(re.findall(pattern, text, re.MULTILINE))

    files = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    stages = read_json(outputs / "first" / "summary.json")["stages"]
    cached = {name: f"yes: {Path(stage['folder']).name}" for name, stage in stages.items()}
    assert planned("percent=0.2") == cached
    assert planned("percent=0.2", "force=[prune]", "--no-time") == {
        "pretrain": cached["pretrain"],
        "prune": "no: computed again",
        "finetune": "no: computed again",
    }
    assert planned("percent=0.3") == {"pretrain": cached["pretrain"], "prune": "no", "finetune": "no"}
    assert files == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    assert set(planned("seed=7", "--no-time", f"outputs={tmp_path / 'nowhere'}").values()) == {"no"}
    assert not (tmp_path / "nowhere").exists()


def names(found: list[Entry]) -> set[str]:
    return {entry.path.name for entry in found}


def stages_of(folder: Path) -> set[str]:
    return {Path(stage["folder"]).name for stage in read_json(folder / "summary.json")["stages"].values()}


def test_what_runs_refer_to_stays_and_the_rest_goes(outputs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = stages_of(outputs / "first"), stages_of(outputs / "second")
    assert names(entries(outputs)) == first | second
    assert clean(["--dry-run", str(outputs)]) == 0
    assert "nothing to remove" in capsys.readouterr().out
    shutil.rmtree(outputs / "second")
    assert clean(["--dry-run", str(outputs)]) == 0
    assert "would remove 2 stages" in capsys.readouterr().out
    assert names(entries(outputs)) == first | second, "a dry run removes nothing"
    assert clean(["--yes", str(outputs)]) == 0
    assert names(entries(outputs)) == first
    assert first & second, "both runs share the trained network"
    assert {path.name for path in (outputs / "cache").iterdir() if path.is_dir()} == first


def test_runs_elsewhere_count_where_they_are_named(outputs: Path, tmp_path: Path) -> None:
    (outputs / "second").rename(tmp_path / "elsewhere")
    before = names(entries(outputs))
    assert clean(["--yes", str(outputs), "--runs", str(tmp_path / "elsewhere")]) == 0
    assert names(entries(outputs)) == before


def test_it_asks_and_without_a_terminal_it_removes_nothing(
    outputs: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.rmtree(outputs / "second")
    before = names(entries(outputs))
    monkeypatch.setattr("sys.stdin.isatty", lambda: False, raising=False)
    assert clean([str(outputs)]) == 2
    assert "give --yes" in capsys.readouterr().err
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", lambda question: "")
    assert clean([str(outputs)]) == 0
    assert names(entries(outputs)) == before


def test_a_stage_that_a_process_is_at_stays(outputs: Path) -> None:
    entry = entries(outputs)[0]
    with locked(entry.lock, None) as is_ours:
        assert is_ours
        assert not remove(entry)
    assert entry.path.is_dir()
    assert remove(entry)
    assert not entry.path.exists()


def test_while_a_summary_is_damaged_nothing_goes(outputs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (outputs / "second" / "summary.json").write_text("{")
    before = names(entries(outputs))
    assert clean(["--yes", str(outputs)]) == 2
    assert "damaged" in capsys.readouterr().err
    assert names(entries(outputs)) == before


def test_what_an_interrupted_run_goes_on_from_stays(outputs: Path) -> None:
    summary = read_json(outputs / "second" / "summary.json")
    finetune = Path(summary["stages"].pop("finetune")["folder"]).name  # it was killed in it
    write_json(outputs / "second" / "summary.json", {**summary, "status": "running"})
    assert read_run_folder(outputs / "second").status == "killed"
    begun = f"{finetune}.partial"
    (outputs / "cache" / finetune).rename(outputs / "cache" / begun)
    kept = names(entries(outputs)) - names(unused(entries(outputs), runs_below([outputs])))
    assert begun in kept
    shutil.rmtree(outputs / "second")
    assert begun in names(unused(entries(outputs), runs_below([outputs])))


def stage(name: str, key: str, *parents: str, kind: str = "whole") -> Entry:
    return Entry(Path(f"{name}-{key}.{kind}"), name, key, kind, 1, frozenset(parents))  # type: ignore[arg-type]


def test_a_stage_is_kept_with_all_that_it_was_computed_from() -> None:
    dense, other, agent, plan = stage("pretrain", "a"), stage("pretrain", "b"), stage("sparsify", "c", "a"), None
    plan = stage("prune", "d", "c")
    gone = stage("prune", "e", "c", kind="damaged")
    everything = [dense, other, agent, plan, gone]
    done = RunFolder(Path("run"), "done", {"prune": "prune-d"}, {})
    assert unused(everything, [done]) == [other, gone]
    begun = RunFolder(Path("run"), "interrupted", {}, {})
    assert unused(everything, [done, begun]) == [gone]
    on = RunFolder(Path("run"), "failed", {"pretrain": "pretrain-a"}, {})
    assert unused(everything, [on]) == [other, plan, gone]


def test_the_list_has_every_run_and_the_sizes_on_disk(outputs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert ls([str(outputs)]) == 0
    text = capsys.readouterr().out
    assert "2 runs, 0 sweeps, 5 stages in the cache" in text
    assert max(map(len, text.splitlines()[1:])) <= 80
    for name in ("first", "second"):
        line = next(line for line in text.splitlines() if line.startswith(name))
        assert line.split()[1:3] == ["done", "filter_magnitude"]
    shutil.rmtree(outputs / "second")
    assert "no run refers to 2 stages" in listing(outputs)
    assert sum(entry.bytes for entry in entries(outputs)) == sum(
        path.stat().st_size for path in (outputs / "cache").rglob("*") if path.is_file() and path.suffix != ".lock"
    )


def test_a_folder_that_is_not_there_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for command in (ls, clean):
        assert command([str(tmp_path / "nothing")]) == 2
        assert "no such folder" in capsys.readouterr().err
        assert command(["--frobnicate"]) == 2
        assert "--help" in capsys.readouterr().err
