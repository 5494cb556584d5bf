"""What lies in the cache of finished stages, by its names: the layout that `compress.run.store` writes."""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from compress.io.files import read_json
from compress.io.paths import CACHE, DEPENDS
from compress.schema.settings import STAGE_ORDER

Kind = Literal["whole", "partial", "old", "damaged", "leftover"]
STAGES = (*STAGE_ORDER, "logits")
# The name that a folder has while it is removed: what a kill leaves of it is no stage.
LEFTOVER = ".removed-"
NAME = re.compile(rf"({'|'.join(STAGES)})-([0-9a-f]{{12}})(?:\.(partial|old|damaged\d*))?")


@dataclass(frozen=True)
class Entry:
    """One folder of a stage: its result, its beginning, or what was put aside."""

    path: Path
    stage: str
    key: str
    kind: Kind
    bytes: int
    parents: frozenset[str] = frozenset()  # keys of the stages that it was computed from
    teachers: frozenset[str] = frozenset()  # names of folders of stages that its logits are those of

    @property
    def lock(self) -> Path:
        """What a process holds that computes this stage."""
        return self.path.with_name(f"{self.stage}-{self.key}.lock")


def entries(outputs: Path) -> list[Entry]:
    """All folders of stages below `outputs`, by name; what has no such name is no entry."""
    return sorted(_entries(outputs / CACHE), key=lambda entry: entry.path)


def _entries(cache: Path) -> Iterator[Entry]:
    for path in _paths(cache):
        name = path.name.removeprefix(LEFTOVER)
        match = NAME.fullmatch(name)
        if match is None or path.is_symlink() or not path.is_dir():
            continue
        ending = (match[3] or "whole").rstrip("0123456789")
        kind: Kind = "leftover" if name != path.name else ending  # type: ignore[assignment]
        parents, teachers = _made_from(path)
        yield Entry(path, match[1], match[2], kind, size(path), parents, teachers)


def _paths(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except OSError:
        return []


def _made_from(folder: Path) -> tuple[frozenset[str], frozenset[str]]:
    try:
        depends = read_json(folder / DEPENDS)
        parent = depends["parent"]
        teacher = depends["settings"].get("teacher")
        network = teacher.get("network") if isinstance(teacher, dict) else None
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return frozenset(), frozenset()
    keys = parent if isinstance(parent, list) else [parent]
    return frozenset(key for key in keys if isinstance(key, str)), frozenset(
        [network] if isinstance(network, str) and NAME.fullmatch(network) else []
    )


def size(path: Path) -> int:
    """Bytes of a file, or of all files below a folder; links are not followed."""
    try:
        if path.is_symlink() or not path.is_dir():
            return path.lstat().st_size
        with os.scandir(path) as listed:
            return sum(size(Path(entry.path)) for entry in listed)
    except OSError:  # gone meanwhile, or not to be read
        return 0
