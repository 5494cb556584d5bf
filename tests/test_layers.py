"""Imports run one way: a part may import only parts below it in this list."""

import ast
from pathlib import Path

import compress

PARTS = [
    ["__main__"],
    ["cli"],
    ["api"],
    ["config"],
    ["run"],
    ["methods"],
    ["search", "distill"],
    ["prune"],
    ["graph", "agents"],
    ["train"],
    ["parallel", "measure"],
    ["data", "models"],
    ["report"],
    ["schema"],
    ["io"],
    ["errors"],
]
LEVEL = {part: level for level, parts in enumerate(PARTS) for part in parts}
ROOT = Path(compress.__file__).parent


def imports_of(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("compress."):
            found.add(node.module.split(".")[1])
        elif isinstance(node, ast.ImportFrom) and node.module == "compress":
            found |= {alias.name for alias in node.names}
    return found


def test_parts_import_downwards_only() -> None:
    checked = 0
    for path in sorted(ROOT.rglob("*.py")):
        part = path.relative_to(ROOT).parts[0].removesuffix(".py")
        if part == "__init__":
            continue
        for other in imports_of(path) - {part}:
            assert LEVEL[part] < LEVEL[other], f"{path.relative_to(ROOT)} imports {other}, which is above it"
            checked += 1
    assert checked > 80


def test_every_part_is_listed() -> None:
    there = {path.relative_to(ROOT).parts[0].removesuffix(".py") for path in ROOT.rglob("*.py")} - {"__init__"}
    assert there == set(LEVEL)


def test_agents_know_no_networks() -> None:
    for path in (ROOT / "agents").glob("*.py"):
        assert imports_of(path) <= {"agents", "schema", "errors"}


def test_every_folder_says_in_one_sentence_what_it_holds() -> None:
    folders = [path for path in ROOT.rglob("__init__.py") if path.parent != ROOT]
    assert len(folders) >= 20
    for path in folders:
        said = ast.get_docstring(ast.parse(path.read_text()))
        assert said, path
        assert len(said.splitlines()) == 1, path
