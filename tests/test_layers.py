"""Imports run one way: a part may import only parts below it in this list."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from conftest import compose_config

import compress
from compress.errors import OWN
from compress.io.paths import CONF
from compress.schema.settings import BUDGETS

PARTS = [
    ["__main__"],
    ["cli", "preview"],
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
    ["storage"],
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


NO_CONFIG_KEYS = ("compress.load(..., model=YourNetwork())", "teacher: %s")  # a call in Python, the name of a stage
KNOW_CONFIG_KEYS = {
    "config": "reads the config and the command line",
    "cli.py": "is the command",
    "api.py": "tells of `model=<name>`",
    "report": "reads the configs that runs have recorded, and tells them by their keys",
}


def keys_of(node: Any, prefix: str = "") -> Iterator[str]:
    """Every key below a node of YAML, in full."""
    for key, value in node.items() if isinstance(node, dict) else ():
        if key != "defaults":
            yield f"{prefix}{key}"
            yield from keys_of(value, f"{prefix}{key}.")


def texts_of(tree: ast.Module) -> Iterator[str]:
    """Every text in code but docstrings; what an f-string puts in stands there as {}, `OWN` as its own sign."""
    inner = {id(value) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for value in node.values}
    told = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}  # docstrings
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in inner | told:
            yield node.value
        elif isinstance(node, ast.JoinedStr):
            yield "".join(
                str(part.value)
                if isinstance(part, ast.Constant)
                else OWN
                if isinstance(part, ast.FormattedValue) and ast.unparse(part.value) == "OWN"
                else "{}"
                for part in node.values
            )


def test_below_config_nobody_knows_the_names_of_config_keys() -> None:
    """An error names a setting behind `OWN`; who has read the config puts the rest of its key before."""
    groups = {path.name for path in CONF.iterdir() if path.is_dir()}
    keys = set(groups)
    for path in CONF.rglob("*.yaml"):
        text = path.read_text()
        stands_at_root = path.parent == CONF or text.startswith("# @package _global_")
        keys |= set(keys_of(yaml.safe_load(text), "" if stands_at_root else f"{path.parent.name}."))
    for path in (CONF / "method").glob("*.yaml"):  # their recipes are other files
        keys |= set(keys_of(compose_config(f"method={path.stem}")))
    assert {"dataset.root", "model.arch", "pretrain.lr", "method.training.lr", "hydra.run.dir", "devices"} <= keys
    dotted = "|".join(map(re.escape, sorted((key for key in keys if "." in key), key=len, reverse=True)))
    at_root = {key for key in keys if "." not in key} - {*BUDGETS}  # which are names of kinds of `Budget` too
    key = rf"(?:{dotted})(?![\w.])|hydra\.\w|@?(?:{'|'.join(sorted(at_root))})="
    named = re.compile(rf"(?<![\w.{OWN}])(?:{key})|^(?:{'|'.join(groups)}): ")
    found = [
        f"{path.relative_to(ROOT)}: {text}"
        for path in sorted(ROOT.rglob("*.py"))
        if path.relative_to(ROOT).parts[0] not in KNOW_CONFIG_KEYS
        for text in texts_of(ast.parse(path.read_text()))
        if named.search(re.sub("|".join(map(re.escape, NO_CONFIG_KEYS)), "", text))
    ]
    assert not found, "\n".join(found)
