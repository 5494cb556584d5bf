"""The figures and snippets of docs/ and README.md are those of the code."""

import ast
import re
from pathlib import Path

import pytest
from conftest import zoo

from compress.config.zoo import zoo_names
from compress.measure.counts import counts

ROOT = Path(__file__).parents[1]
ROWS = [
    [cell.strip() for cell in line.strip("|\n ").split("|")]
    for line in (ROOT / "docs" / "zoo.md").read_text().split("## Counts")[1].splitlines()
    if line.startswith("| `") and "model=" not in line
]


def test_the_table_holds_every_network_of_the_zoo() -> None:
    assert {row[0].strip("`").split()[0] for row in ROWS} == set(zoo_names()) - {"custom", "torchvision"}
    assert len(ROWS) == 38


@pytest.mark.parametrize("row", ROWS, ids=[row[0] for row in ROWS])
def test_a_row_of_the_table_is_what_is_counted(row: list[str]) -> None:
    name, *settings = row[0].strip("`").split()
    changes = dict(setting.split("=") for setting in settings)
    literal = {
        key: {"true": True}.get(value) or (int(value) if value.isdigit() else value) for key, value in changes.items()
    }
    size, classes, params, with_selection, *others = [int(cell.replace(",", "") or 0) for cell in row[1:]]
    got = counts(zoo(name, (3, size, size), classes, **literal), (3, size, size))
    assert [got.macs, got.amc, got.fvcore, got.ptflops, got.metapruning] == others
    assert got.params == params
    assert got.params_with_selection == (with_selection or params)


def snippets(page: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)


def test_the_snippet_about_surgery_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = snippets("docs/surgery.md")
    assert len(found) == 2
    exec("\n".join(found), {})
    assert (tmp_path / "small.onnx").stat().st_size > 1_000_000


def test_the_snippets_of_the_readme_are_python() -> None:
    found = snippets("README.md")
    assert len(found) == 2
    for snippet in found:
        ast.parse(snippet)
