"""The figures and snippets of docs/ and README.md are those of the code, links lead somewhere, versions agree."""

import ast
import re
import tomllib
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from conftest import zoo
from test_layers import LEVEL

from compress.config.zoo import zoo_names
from compress.measure.counts import counts

ROOT = Path(__file__).parents[1]
ROWS = [
    [cell.strip() for cell in line.strip("|\n ").split("|")]
    for line in (ROOT / "docs" / "zoo.md").read_text().split("## Counts")[1].splitlines()
    if line.startswith("| `") and "model=" not in line
]


def test_the_table_holds_every_network_of_the_zoo() -> None:
    assert {row[0].strip("`").split()[0] for row in ROWS} == set(zoo_names()) - {"custom", "timm", "torchvision"}
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
    assert len(found) == 3
    names: dict[str, Any] = {}
    exec("\n".join(found), names)
    assert {group.name: group.width for group in names["groups"]} == {"words": 32, "state": 64}
    assert (tmp_path / "small.onnx").stat().st_size > 1_000_000


def test_the_snippet_about_criteria_runs() -> None:
    (snippet,) = snippets("docs/criteria.md")
    images = torch.randn(4, 3, 32, 32)
    given = {"model": zoo("resnet20").eval(), "images": images, "batches": [(images, torch.arange(4))]}
    exec(snippet, given)
    assert given["small"](images).shape == (4, 10)  # type: ignore[operator]


def test_the_snippets_of_the_readme_are_python() -> None:
    found = snippets("README.md")
    assert len(found) == 2
    for snippet in found:
        ast.parse(snippet)


# -- links -----------------------------------------------------------------------------------------------------------


def pages() -> list[Path]:
    return [
        *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")),
        *(ROOT / "docs").glob("*.md"),
    ]


def links(page: Path) -> Iterator[tuple[Path, str]]:
    """Of a page, those within the repository: the file, and the heading in it or nothing."""
    text = re.sub(r"```.*?```|`[^`\n]*`", "", page.read_text(), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if not target.startswith(("http://", "https://")):
            path, _, heading = target.partition("#")
            yield (page.parent / path).resolve() if path else page, heading


def headings(page: Path) -> set[str]:
    """As GitHub names them in links."""
    titles = re.findall(r"^#+ (.*)$", re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def test_every_link_leads_to_a_file_or_heading_that_is_there() -> None:
    found = [(page, *link) for page in pages() for link in links(page)]
    assert len(found) >= 50
    assert [(page.name, str(file)) for page, file, _ in found if not file.exists()] == []
    assert [(page.name, heading) for page, file, heading in found if heading and heading not in headings(file)] == []


def test_the_index_names_every_page_and_the_readme_the_index() -> None:
    there = {path.resolve() for path in (ROOT / "docs").glob("*.md")} - {ROOT / "docs" / "index.md"}
    assert len(there) >= 11
    linked = [file for file, _ in links(ROOT / "docs" / "index.md")]
    assert there <= set(linked)
    assert len(linked) == len(set(linked))
    assert {ROOT / "docs" / "index.md", ROOT / "CONTRIBUTING.md"} <= {file for file, _ in links(ROOT / "README.md")}


# -- CONTRIBUTING.md -------------------------------------------------------------------------------------------------


def table(title: str) -> list[list[str]]:
    """Cells of the rows of the table under a heading of CONTRIBUTING.md."""
    part = (ROOT / "CONTRIBUTING.md").read_text().split(f"\n## {title}\n")[1].split("\n## ")[0]
    rows = [line.strip("| ").split(" | ") for line in part.splitlines() if line.startswith("|")]
    return rows[2:]


def test_every_part_of_the_package_has_its_row_in_the_order_of_imports() -> None:
    listed = [re.findall(r"`(\w+)`", row[0]) for row in table("Where a thing belongs")]
    assert listed == [[part for part in LEVEL if LEVEL[part] == level] for level in sorted(set(LEVEL.values()))]


def test_every_law_names_a_test_that_is_there() -> None:
    named = [row[1].strip("` |").split("::") for row in table("Laws")]
    assert len(named) >= 25
    gone = [name for file, name in named if f"\ndef {name}(" not in (ROOT / file).read_text()]
    assert gone == []


def test_every_file_that_is_named_for_an_addition_is_there() -> None:
    named = re.findall(r"`((?:src|conf|tests)/[^`<]*)`", "\n".join(" ".join(row) for row in table("How to add one")))
    assert len(named) >= 15
    assert [path for path in named if not (ROOT / path).exists()] == []


# -- a release -------------------------------------------------------------------------------------------------------


def test_one_version_is_that_of_the_changelog_the_citation_and_the_installed_package() -> None:
    own = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    entries = re.findall(r"^## \[(\d+\.\d+\.\d+)\] - (.*)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert entries[0][0] == own
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\d", day) for _, day in entries[1:])
    assert entries[0][1] == "Unreleased" or re.fullmatch(r"\d{4}-\d\d-\d\d", entries[0][1])
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["cff-version"] == "1.2.0"
    assert citation["version"] == own
    assert citation.get("date-released", "Unreleased") == entries[0][1]
    assert version("compress-lab") == own, "the installed package is of another version: install it again"


def test_the_hooks_before_a_commit_are_the_checks_of_make_lint() -> None:
    (local,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    assert local["repo"] == "local"
    lint = (ROOT / "Makefile").read_text().split("\nlint:")[1].split("\n\n")[0]
    checks = [line.strip().removeprefix("$(BIN)/").removesuffix(" .") for line in lint.splitlines()[1:]]
    assert len(checks) >= 3
    assert [hook["entry"] for hook in local["hooks"] if hook["language"] == "system"] == checks
    assert {hook["language"] for hook in local["hooks"]} == {"system", "pygrep"}
