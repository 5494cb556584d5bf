"""Which folders are runs."""

from pathlib import Path

import pytest

from compress.report.read.run_folders import run_folders, without_runs


def make(base: Path, *names: str) -> None:
    for name in names:
        (base / name).mkdir(parents=True)
        (base / name / "summary.json").touch()


def found(base: Path) -> list[str]:
    return [str(path.relative_to(base)) for path in run_folders([str(base)])]


def test_a_link_to_itself_hides_nothing(tmp_path: Path) -> None:
    make(tmp_path, "a", "b/c")
    (tmp_path / "loop").symlink_to("loop")
    assert found(tmp_path) == ["a", "b/c"]


@pytest.mark.parametrize("name", ["plots", "tb", "controls", "cache"])
def test_a_run_may_be_called_like_what_holds_no_runs(tmp_path: Path, name: str) -> None:
    make(tmp_path, name, "other", f"other/{name}/inside")
    assert found(tmp_path) == sorted([name, "other"])


def test_a_folder_without_a_run_is_told_beside_others(tmp_path: Path) -> None:
    make(tmp_path, "runs/a")
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    named = [str(tmp_path / name) for name in ("runs", "runs/a", "empty", "file", "r*")]
    assert run_folders(named) == [tmp_path / "runs" / "a"]
    assert without_runs(named) == [str(tmp_path / "empty")]
