"""A stage is computed once, whole, by one process; what is half done is never taken for done."""

import json
import multiprocessing
import time
from pathlib import Path
from typing import Any

import pytest

from compress.files import atomic, hash_of, read_json, read_rows, write_json
from compress.store import Store, stage_key
from compress.work import Work


def ignore(row: Any) -> None:
    pass


def stage(store: Store, compute: Any, *, depends: Any = None, redo: bool = False, on_row: Any = ignore) -> Any:
    return store.stage("prune", depends or {"ratio": 0.5}, compute, redo=redo, on_row=on_row)


def test_the_second_asking_reuses_result_and_rows(tmp_path: Path) -> None:
    store, calls, rows = Store(tmp_path), [], []

    def compute(work: Work) -> Any:
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

    def fail(work: Work) -> Any:
        work.row(epoch=1)
        work.progress(lambda: {"epoch": 1})
        work.row(epoch=2)  # after the last save: dropped when resumed
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        stage(store, fail)
    assert not [folder for folder in tmp_path.iterdir() if folder.is_dir() and folder.suffix != ".partial"]
    seen: list[Any] = []

    def go_on(work: Work) -> Any:
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

    def fail(work: Work) -> Any:
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        stage(store, fail, redo=True)
    assert stage(store, fail).result["value"] == 1
    assert stage(store, lambda work: {"seconds": 0, "made": "x", "value": 2}, redo=True).result["value"] == 2
    assert stage(store, fail).result["value"] == 2


def _count_and_wait(root: Path, seconds: float) -> None:
    def compute(work: Work) -> Any:
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
    def compute(work: Work) -> Any:
        work.plan.write_text("whole")
        return {"seconds": 0, "made": "x", "value": 1}

    store = Store(tmp_path)
    return store, stage(store, compute).folder


def fail(work: Work) -> Any:
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


def test_damaged_progress_begins_the_stage_anew(tmp_path: Path) -> None:
    (tmp_path / "progress.pt").write_bytes(b"garbage")
    (tmp_path / ".progress.pt.77.part").write_bytes(b"half")
    work = Work(tmp_path)
    assert work.resumed is None
    assert not list(tmp_path.glob(".*.part"))


def test_a_forced_stage_goes_on_after_a_kill_too(tmp_path: Path) -> None:
    store, _ = finished(tmp_path)

    def killed(work: Work) -> Any:
        work.progress(lambda: {"epoch": 3})
        raise RuntimeError("kill")

    with pytest.raises(RuntimeError, match="kill"):
        stage(store, killed, redo=True)
    seen: list[Any] = []

    def go_on(work: Work) -> Any:
        seen.append(work.resumed)
        return {"seconds": 0, "made": "x"}

    stage(store, go_on, redo=True)
    assert seen == [{"epoch": 3}]


def test_seconds_of_earlier_lives_count(tmp_path: Path) -> None:
    one = Work(tmp_path)
    time.sleep(0.2)
    one.progress(dict)
    assert Work(tmp_path).seconds() >= 0.2


def test_what_is_forced_is_computed_once_in_a_launch_and_again_in_the_next(tmp_path: Path) -> None:
    calls: list[str] = []

    def asked(launch: str | None, redo: bool) -> Any:
        def compute(work: Work) -> Any:
            calls.append(str(launch))
            return {"seconds": 1.0, "made": "x"}

        return stage(Store(tmp_path, launch), compute, redo=redo)

    for launch, redo, computed in (
        ("a", False, 1), ("b", True, 2), ("b", True, 2), ("b", False, 2), ("c", False, 2), ("c", True, 3),
        ("b", True, 4), (None, True, 5), (None, True, 6),
    ):  # fmt: skip
        asked(launch, redo)
        assert len(calls) == computed, (launch, redo)
