"""The code that a run depends on and that is not this package's: a function of somebody's own, and what it imports.

An edited network or method is another one, so its source is part of the key of what is computed with it.
"""

import ast
import hashlib
import importlib
import importlib.util
import sys
import sysconfig
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

_FOLDERS = [Path(__file__).parents[1], *(Path(sysconfig.get_path(kind)) for kind in ("stdlib", "purelib", "platlib"))]
_INSTALLED = [str(folder.resolve()) for folder in _FOLDERS]


def source_digest(target: str) -> str | None:
    """Of the module that a dotted path lies in, and of all that it imports which is not installed; None if ours."""
    importlib.import_module(target.rpartition(".")[0])
    files: dict[str, Path] = {}
    _collect(target.rpartition(".")[0], files)
    if not files:
        return None
    content = b"".join(name.encode() + b"\0" + files[name].read_bytes() for name in sorted(files))
    return hashlib.sha256(content).hexdigest()[:16]


def source_digests(node: Any) -> dict[str, str]:
    """Of every `_target_` in a config node."""
    if isinstance(node, list):
        return {name: digest for item in node for name, digest in source_digests(item).items()}
    if not isinstance(node, Mapping):
        return {}
    found = {name: digest for item in node.values() for name, digest in source_digests(item).items()}
    digest = source_digest(node["_target_"]) if "_target_" in node else None
    return found | ({node["_target_"]: digest} if digest else {})


def _collect(name: str, files: dict[str, Path]) -> None:
    file = getattr(sys.modules.get(name), "__file__", None)
    if file is None or name in files:
        return
    path = Path(file).resolve()
    if path.suffix != ".py" or any(str(path).startswith(f"{root}/") for root in _INSTALLED):
        return
    files[name] = path
    for imported in _imports(name, path):
        _collect(imported, files)


def _imports(name: str, path: Path) -> Iterator[str]:
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            relative = "." * node.level + (node.module or "")
            module = importlib.util.resolve_name(relative, package) if node.level else relative
            yield module
            yield from (f"{module}.{alias.name}" for alias in node.names)
