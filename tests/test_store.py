"""A stage is computed once, whole, by one process; what is half done is never taken for done."""

import errno
import json
import multiprocessing
import os
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from compress.config.refusal import error_lines
from compress.errors import InputError
from compress.io.files import atomic, hash_of, read_json, read_rows, write_json
from compress.io.stage_folder import StageFolder
from compress.run.store import Store, stage_key


def ignore(row: Any) -> None:
    pass


def stage(store: Store, compute: Any, *, depends: Any = None, redo: bool = False, on_row: Any = ignore) -> Any:
    return store.stage("prune", depends or {"ratio": 0.5}, compute, redo=redo, on_row=on_row)


def test_the_second_asking_reuses_result_and_rows(tmp_path: Path) -> None:
    store, calls, rows = Store(tmp_path), [], []

    def compute(work: StageFolder) -> Any:
        calls.append(1)
        work.row(stage="prune", epoch=1)
        return {"seconds": 1.0, "made": "x", "value": 7}

    first = stage(store, compute)
    again = stage(Store(tmp_path), compute, on_row=rows.append)
    assert calls == [1]
    assert (first.reused, again.reused) == (False, True)
    assert again.result == first.result == {"seconds": 1.0, "made": "x", "value": 7}
    assert rows == [{"stage": "prune", "epoch": 1}]


def test_other_dependencies_are_another_stage(tmp_path: Path) -> None:
    store = Store(tmp_path)
    keys = {
        stage(store, lambda work: {"seconds": 0, "made": "x"}, depends={"ratio": ratio}).key
        for ratio in (0.3, 0.5, 0.5)
    }
    assert len(keys) == 2
    assert len({stage_key(name, {"ratio": 0.3}) for name in ("prune", "finetune")}) == 2
    assert hash_of({"a": 1, "b": 2}) == hash_of({"b": 2, "a": 1})


def test_a_failed_stage_leaves_progress_and_no_result(tmp_path: Path) -> None:
    store = Store(tmp_path)

    def fail(work: StageFolder) -> Any:
        work.row(epoch=1)
        work.progress(lambda: {"epoch": 1})
        work.row(epoch=2)  # after the last save: dropped when resumed
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        stage(store, fail)
    assert not [folder for folder in tmp_path.iterdir() if folder.is_dir() and folder.suffix != ".partial"]
    seen: list[Any] = []

    def go_on(work: StageFolder) -> Any:
        seen.append(work.resumed)
        work.row(epoch=2)
        return {"seconds": 0, "made": "x"}

    done = stage(store, go_on)
    assert seen == [{"epoch": 1}]
    assert [row["epoch"] for row in read_rows(done.folder)] == [1, 2]
    assert not (done.folder / "progress.pt").exists()


def test_redo_replaces_what_is_there_only_once_the_new_is_whole(tmp_path: Path) -> None:
    store = Store(tmp_path)
    stage(store, lambda work: {"seconds": 0, "made": "x", "value": 1})

    def fail(work: StageFolder) -> Any:
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        stage(store, fail, redo=True)
    assert stage(store, fail).result["value"] == 1
    assert stage(store, lambda work: {"seconds": 0, "made": "x", "value": 2}, redo=True).result["value"] == 2
    assert stage(store, fail).result["value"] == 2


def _count_and_wait(root: Path, seconds: float) -> None:
    def compute(work: StageFolder) -> Any:
        with open(root / "calls", "a") as file:
            file.write("x")
        time.sleep(seconds)
        return {"seconds": seconds, "made": "x"}

    stage(Store(root / "cache"), compute)


def test_two_processes_compute_once(tmp_path: Path) -> None:
    spawn = multiprocessing.get_context("spawn")
    both = [spawn.Process(target=_count_and_wait, args=(tmp_path, 1.0)) for _ in range(2)]
    for process in both:
        process.start()
    for process in both:
        process.join()
    assert [process.exitcode for process in both] == [0, 0]
    assert (tmp_path / "calls").read_text() == "x"


def test_a_killed_holder_frees_the_stage(tmp_path: Path) -> None:
    spawn = multiprocessing.get_context("spawn")
    holder = spawn.Process(target=_count_and_wait, args=(tmp_path, 600.0))
    holder.start()
    while not (tmp_path / "calls").exists():
        time.sleep(0.05)
    holder.kill()
    holder.join()
    started = time.monotonic()
    _count_and_wait(tmp_path, 0.0)
    assert time.monotonic() - started < 300  # it did not wait for the holder to finish
    assert (tmp_path / "calls").read_text() == "xx"


def test_files_appear_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"a": 1})
    with pytest.raises(RuntimeError, match="half"), atomic(path) as part:
        part.write_text('{"a"')
        raise RuntimeError("half")
    assert read_json(path) == {"a": 1}
    assert [file.name for file in tmp_path.iterdir()] == ["a.json"]


def test_a_row_cut_short_by_a_kill_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text(json.dumps({"epoch": 1}) + '\n{"epo')
    assert read_rows(tmp_path) == [{"epoch": 1}]


def finished(tmp_path: Path) -> tuple[Store, Path]:
    def compute(work: StageFolder) -> Any:
        work.plan.write_text("whole")
        return {"seconds": 0, "made": "x", "value": 1}

    store = Store(tmp_path)
    return store, stage(store, compute).folder


def fail(work: StageFolder) -> Any:
    raise AssertionError("computed again")


def test_a_result_that_was_whole_but_not_published_is_published(tmp_path: Path) -> None:
    store, folder = finished(tmp_path)
    folder.rename(folder.with_suffix(".partial"))
    assert stage(store, fail).result["value"] == 1


def test_a_result_that_was_being_replaced_comes_back(tmp_path: Path) -> None:
    store, folder = finished(tmp_path)
    folder.rename(folder.with_suffix(".old"))
    folder.with_suffix(".partial").mkdir()
    assert stage(store, fail).result["value"] == 1


def test_a_damaged_result_is_put_aside_and_computed_again(tmp_path: Path) -> None:
    store, folder = finished(tmp_path)
    (folder / "plan.json").write_text("who")
    assert stage(store, lambda work: {"seconds": 0, "made": "x", "value": 2}).result["value"] == 2
    assert (folder.with_suffix(".damaged") / "plan.json").read_text() == "who"
    (folder / "result.json").write_text("")
    assert stage(store, lambda work: {"seconds": 0, "made": "x", "value": 3}).result["value"] == 3


def loop(path: Path) -> None:
    path.symlink_to(path)


def elsewhere(path: Path) -> None:
    (path.parent / "others").mkdir()
    (path.parent / "others" / "theirs.txt").write_text("theirs")
    path.symlink_to(path.parent / "others")


def full_of(name: str, content: bytes) -> Callable[[Path], None]:
    def put(path: Path) -> None:
        path.mkdir()
        (path / name).write_bytes(content)

    return put


ENTRIES: dict[str, Callable[[Path], Any]] = {
    "an empty folder": Path.mkdir,
    "a pipe": os.mkfifo,
    "a result that is a pipe": lambda path: (path.mkdir(), os.mkfifo(path / "result.json")),
    "a result without an end": lambda path: (path.mkdir(), (path / "result.json").symlink_to("/dev/zero")),
    "a file": lambda path: path.write_bytes(b"theirs"),
    "an empty file": Path.touch,
    "a link to itself": loop,
    "a link to somebody's folder": elsewhere,
    "a link to nothing": lambda path: path.symlink_to("nowhere"),
    "an empty result": full_of("result.json", b""),
    "a result of garbage": full_of("result.json", bytes(range(256))),
    "a deep result": full_of("result.json", b"[" * 100_000),
    "a result that is a list": full_of("result.json", b"[1, 2]"),
    "a result of nulls": full_of("result.json", b'{"files": null, "made": null, "seconds": null, "digest": null}'),
    "somebody's files": full_of("theirs.txt", b"theirs"),
    "other dependencies": full_of("depends.json", b'{"ratio": 0.7}'),
    "deep dependencies": full_of("depends.json", b"[" * 100_000),
}


def seven(work: StageFolder) -> Any:
    work.row(epoch=1)
    work.plan.write_text("plan")
    return {"seconds": 0, "made": "x", "value": 7}


@pytest.mark.parametrize("suffix", ["", ".partial", ".old", ".lock"])
@pytest.mark.parametrize("entry", ENTRIES)
def test_whatever_stands_in_its_place_a_stage_is_computed(entry: str, suffix: str, tmp_path: Path) -> None:
    sound = stage(Store(tmp_path / "sound"), seven).folder
    (tmp_path / "cache").mkdir()
    ENTRIES[entry](tmp_path / "cache" / f"{sound.name}{suffix}")
    done = stage(Store(tmp_path / "cache"), seven)
    assert done.result["value"] == 7
    assert sorted(path.name for path in done.folder.iterdir()) == sorted(path.name for path in sound.iterdir())
    assert stage(Store(tmp_path / "cache"), fail).reused
    theirs = [path for path in tmp_path.rglob("*") if path.is_file() and path.read_bytes() == b"theirs"]
    assert len(theirs) == (entry in ("a file", "somebody's files", "a link to somebody's folder"))  # nothing is lost


@pytest.mark.parametrize("name", ["progress.pt", "metrics.jsonl", "plan.json", "model.safetensors"])
@pytest.mark.parametrize(
    "entry", ["an empty folder", "a file", "a pipe", "an empty file", "a link to itself", "a deep result"]
)
def test_whatever_stands_in_a_partial_stage_it_is_computed(entry: str, name: str, tmp_path: Path) -> None:
    def killed(work: StageFolder) -> Any:
        work.row(epoch=1)
        work.progress(lambda: {"epoch": 1})
        raise RuntimeError("kill")

    store = Store(tmp_path)
    with pytest.raises(RuntimeError, match="kill"):
        stage(store, killed)
    (partial,) = tmp_path.glob("*.partial")
    (partial / name).unlink(missing_ok=True)
    ENTRIES[entry](partial / name)
    done = stage(store, seven)
    assert done.result["value"] == 7
    assert [row["epoch"] for row in read_rows(done.folder)][-1] == 1


def test_progress_of_another_stage_is_none_of_this_one(tmp_path: Path) -> None:
    def killed(work: StageFolder) -> Any:
        work.progress(lambda: {"epoch": 1})
        raise RuntimeError("kill")

    for ratio in (0.3, 0.5):
        with pytest.raises(RuntimeError, match="kill"):
            stage(Store(tmp_path), killed, depends={"ratio": ratio})
    one, other = tmp_path.glob("*.partial")
    (other / "progress.pt").write_bytes((one / "progress.pt").read_bytes())
    assert StageFolder(one).resumed == {"epoch": 1}
    assert StageFolder(other).resumed is None


def test_a_flipped_bit_anywhere_in_a_stage_is_noticed(tmp_path: Path) -> None:
    """In a file of it, in its rows, in what it reported: at the same size."""
    draw = random.Random(0)
    for number in range(30):
        store = Store(tmp_path / str(number))
        folder = stage(store, seven).folder
        name = draw.choice(["plan.json", "metrics.jsonl", "depends.json", "result.json"])
        content = bytearray((folder / name).read_bytes())
        content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
        (folder / name).write_bytes(content)
        again = stage(store, seven)
        told = {key: value for key, value in again.result.items() if key != "files"}
        assert told == {"seconds": 0, "made": "x", "value": 7}
        if again.reused:  # a flip between the words of the JSON may change nothing
            assert name == "result.json"


def test_what_is_forced_does_not_depend_on_clocks(tmp_path: Path) -> None:
    values = iter(range(10))

    def count(work: StageFolder) -> Any:
        return {"seconds": 0, "made": "x", "value": next(values)}

    def forced(launch: str) -> Any:
        return stage(Store(tmp_path, launch), count, redo=True)

    first = forced("one")
    for stamp in (0, 4e9):  # written long ago, or in the future
        os.utime(first.folder / "result.json", (stamp, stamp))
        assert forced("one").reused
    assert [forced("two").result["value"], forced("two").result["value"], forced("one").result["value"]] == [1, 1, 2]


@pytest.mark.parametrize("code", [errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK])
def test_a_file_system_without_locks_is_told(code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And nothing is left behind that would lock the next one out."""

    def refuse(*args: Any) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr("fcntl.flock", refuse)
    with pytest.raises(InputError, match="has no locks") as told:
        stage(Store(tmp_path), seven)
    assert len(told.value.problems) == 1
    (line,) = error_lines(told.value)
    assert line.endswith("; give outputs=<folder> and hydra.run.dir=<folder> on another")
    assert list(tmp_path.iterdir()) == []
    monkeypatch.undo()
    assert stage(Store(tmp_path), seven).result["value"] == 7


def test_damaged_progress_begins_the_stage_anew(tmp_path: Path) -> None:
    (tmp_path / "progress.pt").write_bytes(b"garbage")
    (tmp_path / ".progress.pt.77.part").write_bytes(b"half")
    work = StageFolder(tmp_path)
    assert work.resumed is None
    assert not list(tmp_path.glob(".*.part"))


def test_a_forced_stage_goes_on_after_a_kill_too(tmp_path: Path) -> None:
    store, _ = finished(tmp_path)

    def killed(work: StageFolder) -> Any:
        work.progress(lambda: {"epoch": 3})
        raise RuntimeError("kill")

    with pytest.raises(RuntimeError, match="kill"):
        stage(store, killed, redo=True)
    seen: list[Any] = []

    def go_on(work: StageFolder) -> Any:
        seen.append(work.resumed)
        return {"seconds": 0, "made": "x"}

    stage(store, go_on, redo=True)
    assert seen == [{"epoch": 3}]


def test_seconds_of_earlier_lives_count(tmp_path: Path) -> None:
    one = StageFolder(tmp_path)
    time.sleep(0.2)
    one.progress(dict)
    assert StageFolder(tmp_path).seconds() >= 0.2


def test_what_is_forced_is_computed_once_in_a_launch_and_again_in_the_next(tmp_path: Path) -> None:
    calls: list[str] = []

    def asked(launch: str | None, redo: bool) -> Any:
        def compute(work: StageFolder) -> Any:
            calls.append(str(launch))
            return {"seconds": 1.0, "made": "x"}

        return stage(Store(tmp_path, launch), compute, redo=redo)

    for launch, redo, computed in (
        ("a", False, 1), ("b", True, 2), ("b", True, 2), ("b", False, 2), ("c", False, 2), ("c", True, 3),
        ("b", True, 4), (None, True, 5), (None, True, 6),
    ):  # fmt: skip
        asked(launch, redo)
        assert len(calls) == computed, (launch, redo)
