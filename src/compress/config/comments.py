"""The comments of conf/ beside the settings that `compress --cfg job` prints."""

import re
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import yaml

from compress.io.paths import CONF
from compress.schema.settings import Recipe

WIDTH = 118
COLUMN = 40  # where comments begin, if the setting leaves room
KEY = re.compile(r"^(?P<indent> *)(?P<key>[\w$.-]+):(?P<value>(?: [^#]*?)?)(?: +# (?P<comment>.*))?$")
MORE = re.compile(r"^ +# (?P<comment>.*)$")
RECIPE = {field.name for field in fields(Recipe)}


def commented(text: str, package: str = "") -> str:
    """YAML as Hydra prints it, with the comments of the files of its choices; `package` is where it stands in the
    config, "" for all of it. As YAML it is what it was."""
    node = yaml.safe_load(text)
    config = node
    for key in reversed(package.split(".") if package else []):
        config = {key: config}
    known = comments_of(config if isinstance(config, dict) else {})
    lines: list[str] = []
    for line, path in _with_paths(text.splitlines(), package):
        lines += _beside(line, next((known[name] for name in _names(path) if name in known), ""))
    result = "\n".join(lines)
    return result if yaml.safe_load(result) == node else text


def comments_of(config: Mapping[str, Any]) -> dict[str, str]:
    """The comment of every key by its path: from the root file, and from the files of the chosen groups, which their
    `name` tells."""
    found = _comments_in(CONF / "config.yaml", "")
    for group in sorted(path for path in CONF.iterdir() if path.is_dir()):
        node = config.get(group.name)
        chosen = str(node.get("name", "")).split("+") if isinstance(node, Mapping) else []
        files = [group / f"{name}.yaml" for name in chosen if name]
        for file in [base for path in files if path.is_file() for base in _bases(path)]:  # the later ones win
            at_root = file.read_text().startswith("# @package _global_")
            found |= _comments_in(file, "" if at_root else group.name)
    for file in sorted((CONF / "method" / "limits").glob("*.yaml")):  # which every method takes
        found |= _comments_in(file, "method")
    return found


def _names(path: str) -> Iterator[str]:
    """Where a comment on a setting may stand: at its own place; for the groups that a method takes in, at theirs; for
    a recipe, at that of `pretrain`."""
    yield path
    yield path.removeprefix("method.")
    _, _, key = path.rpartition(".")
    if "." in path and key in RECIPE:
        yield f"pretrain.{key}"


def _bases(file: Path) -> list[Path]:
    """The file itself and, before it, those of the same group in its defaults list."""
    content = yaml.safe_load(file.read_text()) or {}
    named = [entry for entry in content.get("defaults", []) if isinstance(entry, str) and entry != "_self_"]
    files = [file.with_name(f"{name}.yaml") for name in named]
    return [*(base for path in files if path.is_file() for base in _bases(path)), file]


def _comments_in(file: Path, package: str) -> dict[str, str]:
    """The comments of the keys of one file: behind a key, going on below it, or on lines of their own above it."""
    found: dict[str, list[str]] = {}
    above: list[str] = []
    last: str | None = None
    for line, path in _with_paths(file.read_text().splitlines(), package):
        if path:
            comment = KEY.fullmatch(line)
            beside = comment["comment"] if comment else None
            found[path] = [*above, *([beside] if beside else [])]
            above, last = [], path if beside else None
        elif (more := MORE.fullmatch(line)) and last:
            found[last].append(more["comment"])
        elif line.lstrip().startswith("# ") and not line.startswith("# @package"):
            above.append(line.lstrip()[2:])
            last = None
        else:
            above, last = [], None
    return {path: " ".join(part.strip() for part in parts) for path, parts in found.items() if parts}


def _with_paths(lines: list[str], package: str) -> Iterator[tuple[str, str]]:
    """Each line with the path of the key that it has, "" for none."""
    stack: list[tuple[int, str]] = []
    for line in lines:
        match = KEY.match(line) if not line.lstrip().startswith(("#", "- ")) else None
        if match is None:
            yield line, ""
            continue
        indent = len(match["indent"])
        stack = [*((depth, key) for depth, key in stack if depth < indent), (indent, match["key"])]
        yield line, ".".join(filter(None, [package, *(key for _, key in stack)]))


def _beside(line: str, comment: str) -> list[str]:
    """The comment behind the line where both fit, else on lines above it."""
    if not comment:
        return [line]
    short = f"{line:<{COLUMN}}  # {comment}"
    if len(short) <= WIDTH:
        return [short]
    indent = line[: len(line) - len(line.lstrip())]
    return [*textwrap.wrap(comment, WIDTH, initial_indent=f"{indent}# ", subsequent_indent=f"{indent}# "), line]
