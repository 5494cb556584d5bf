"""Files for people and machines alike."""

from pathlib import Path
from typing import Any

import pytest

from compress.io.files import read_json, write_json


@pytest.mark.parametrize(
    "content",
    [
        {"kept": [1, 2, 3], "ratio": 0.5, "name": "a[1, 2]", "none": None, "nested": {"b": [[1.5e-3, -2], []]}},
        {"text": "[ 1, 2 ]", "mixed": [1, "2", True]},
    ],
)
def test_lists_of_numbers_take_one_line_and_nothing_changes(tmp_path: Path, content: dict[str, Any]) -> None:
    write_json(tmp_path / "a.json", content)
    assert read_json(tmp_path / "a.json") == content
    if "kept" in content:
        assert '"kept": [1, 2, 3]' in (tmp_path / "a.json").read_text()
