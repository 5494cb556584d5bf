"""The index of a folder with many runs: it is never seen in what is read, whatever happened to it."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from compress.io.files import read_json, write_json
from compress.io.paths import INDEX, SUMMARY
from compress.report.read import index, runs
from compress.report.read.changes import changed, changes, shape_of
from compress.report.read.run_folders import run_folders
from compress.report.read.runs import read_run, read_runs


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """More runs than an index needs, of two methods, some with a control, one that failed."""
    for at in range(index.MIN_RUNS + 5):
        method = "slimming" if at % 3 else "amc"
        network = {"top1": 80 + at / 10, "macs": 1000 * at}
        control = {"finetuned, random 1": network, "pruned, step 1": network} if at % 2 else {}
        summary = {
            "status": "failed" if at == 4 else "done",
            "config": {"seed": at, "method": {"name": method, "l1": at % 2}, "note": f"caf\u00e9 \x1b {at}"},
            "results": {"dense": {"top1": 90.0, "macs": 9}, "finetuned": network, **control},
            "budget": {"asked": {"percent": 0.5}, "achieved": {"percent": 0.4}},
            "stages": {"pretrain": {"recipe": {"lr": 0.1}, "seconds": at}, "finetune random 1": {"seconds": 1}},
            "seconds": float(at),
            "started": "2026-01-01",
            "split": {"fingerprint": "abc"},
        }
        (tmp_path / f"run{at}").mkdir()
        (tmp_path / f"run{at}" / SUMMARY).write_text(json.dumps(summary))
    return tmp_path


def read(folder: Path) -> list[Any]:
    done, unfinished = read_runs(run_folders([str(folder)]))
    assert len(unfinished) == 1
    return done


def read_plainly(folder: Path) -> list[Any]:
    return [run for run in map(read_run, run_folders([str(folder)])) if isinstance(run, runs.Run)]


def test_what_is_read_with_an_index_is_what_the_summaries_say(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = read_plainly(folder)
    assert read(folder) == plain
    assert len(index.load(folder)) == len(plain) == index.MIN_RUNS + 4
    seen: list[Path] = []
    monkeypatch.setattr(runs, "read_run", lambda path: seen.append(path) or read_run(path))
    again = read(folder)
    assert again == plain
    assert [list(run.results) for run in again] == [list(run.results) for run in plain]
    assert [path.name for path in seen] == ["run4"]  # what is unfinished may go on


def test_a_summary_that_was_written_since_is_read_anew(folder: Path) -> None:
    read(folder)
    file, other = folder / "run7" / SUMMARY, folder / "run7" / "other.json"
    before = file.stat()
    other.write_text(file.read_text().replace('"finetuned": {"top1": 80.7', '"finetuned": {"top1": 11.1'))
    os.utime(other, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert other.stat().st_size == before.st_size
    other.replace(file)
    (folder / "run8" / SUMMARY).unlink()
    (folder / "run8").rmdir()
    assert read(folder) == read_plainly(folder)
    assert [run.results["finetuned"]["top1"] for run in read(folder) if run.folder.name == "run7"] == [11.1]
    (folder / "run9").rename(folder / "other")
    assert read(folder) == read_plainly(folder)


def forged(body: Callable[[list[Any]], Any]) -> Callable[[Path], None]:
    """An index with a right header, of which somebody changed the content."""

    def write(path: Path) -> None:
        text = body(json.loads(path.read_text().partition("\n")[2]))
        text = text if isinstance(text, str) else json.dumps(text, ensure_ascii=False)
        path.write_text(f"{index._header(text)}\n{text}")

    return write


def with_leaf(content: list[Any], value: Any) -> list[Any]:
    content[1][3][3]["results"] = value
    return content


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_text(""),
        lambda path: path.write_text(path.read_text()[:-9]),
        lambda path: path.write_bytes(path.read_bytes().replace(b"80.", b"81.", 1)),
        lambda path: path.write_text(path.read_text().replace(path.read_text()[:4], "0000", 1)),
        lambda path: path.write_bytes(b"\xff" * 99),
        forged(lambda content: []),
        forged(lambda content: "[" * 10**6),
        forged(lambda content: with_leaf(content, 3)),
        forged(lambda content: with_leaf(content, {"dense": 3})),
        forged(lambda content: with_leaf(content, {"dense": {"other": 3}})),
        forged(lambda content: with_leaf(content, {"dense": {"top1": {"a": 1}}})),
        forged(lambda content: json.dumps(content).replace("percent", "per\\u001bcent")),
        forged(lambda content: json.dumps(content, ensure_ascii=False).replace("percent", "per\u202ecent")),
    ],
)
def test_a_damaged_index_is_none(folder: Path, damage: Callable[[Path], None]) -> None:
    before = read(folder)
    damage(folder / INDEX)
    assert index.load(folder) == {}
    assert read(folder) == before
    assert len(index.load(folder)) == len(before)  # and it is written anew


def test_a_pipe_or_a_folder_in_its_place_is_none(folder: Path) -> None:
    os.mkfifo(folder / INDEX)
    assert index.load(folder) == {}
    (folder / INDEX).unlink()
    (folder / INDEX).mkdir()
    assert read(folder) == read_plainly(folder)


def test_few_runs_have_no_index(folder: Path) -> None:
    read_runs([folder / f"run{at}" for at in range(index.MIN_RUNS - 1)])
    assert not (folder / INDEX).exists()


def test_a_part_of_the_runs_keeps_the_entries_of_the_others(folder: Path) -> None:
    read(folder)
    write_json(folder / "run0" / SUMMARY, {"results": {"dense": {"top1": 1.0}}})
    for at in range(1, 4):
        write_json(folder / f"run{at}" / SUMMARY, read_json(folder / f"run{at}" / SUMMARY))
    read_runs([folder / f"run{at}" for at in range(index.MIN_RUNS)])
    assert len(index.load(folder)) == index.MIN_RUNS + 4
    assert read(folder) == read_plainly(folder)


def test_changes_lead_from_one_object_to_the_other() -> None:
    old = {"a": 1, "b": {"c": [1, 2], "d": {}}, "e": None, "f": True}
    new = {"a": 1.0, "b": {"c": [1, 3], "d": {}}, "e": False, "f": 1}
    assert changed(old, changes(old, new)) == new
    assert [type(value) for value in changed(old, changes(old, new)).values()] == [float, dict, bool, int]
    assert changes(old, old) == {}
    assert changed(old, {})["b"] is old["b"]  # shared, not copied
    assert shape_of({"a": {}}) != shape_of({"a": 0}) != shape_of({"b": 0})
    with pytest.raises(ValueError, match="no place"):
        changed(old, {"b": 3})
