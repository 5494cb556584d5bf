"""Digests of user code: of a module that a config names, and of everything that it imports and that is not installed.

A network or method that was edited is a different one, so a digest of its source is part of the cache key of a stage.
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
    """Digest of the module of a dotted path and of all modules that it imports, transitively, without those of this
    package, the standard library and site-packages; None if no module is left."""
    importlib.import_module(target.rpartition(".")[0])
    files: dict[str, Path] = {}
    _collect(target.rpartition(".")[0], files)
    if not files:
        return None
    content = b"".join(name.encode() + b"\0" + files[name].read_bytes() for name in sorted(files))
    return hashlib.sha256(content).hexdigest()[:16]


def source_digests(node: Any) -> dict[str, str]:
    """`source_digest` of every `_target_` in a config node, by dotted path, where it is not None."""
    if isinstance(node, list):
        return {name: digest for item in node for name, digest in source_digests(item).items()}
    if not isinstance(node, Mapping):
        return {}
    found = {name: digest for item in node.values() for name, digest in source_digests(item).items()}
    digest = source_digest(node["_target_"]) if "_target_" in node else None
    return found | ({node["_target_"]: digest} if digest else {})


def _collect(name: str, files: dict[str, Path]) -> None:
    """Add the file of an imported module to `files` (module name -> file), and those of its imports."""
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
    """Absolute names of everything that a module's source may import; `from a import b` may mean the module a.b."""
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            relative = "." * node.level + (node.module or "")
            module = importlib.util.resolve_name(relative, package) if node.level else relative
            yield module
            yield from (f"{module}.{alias.name}" for alias in node.names)
