"""Which folders are runs."""

from pathlib import Path

import pytest

from compress.report.find import run_folders


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
