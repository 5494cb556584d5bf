"""Files written whole: under another name first, then renamed, so that a reader sees a whole file or none."""

import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from compress.paths import METRICS

JSON = dict[str, Any]
Row = Mapping[str, Any]


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """A temporary name beside `path`; what is written there becomes `path` when the block ends well."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield part
        with open(part, "rb") as file:
            os.fsync(file.fileno())
        os.replace(part, path)
    except OSError as error:
        if error.filename is None or str(part) in (error.filename, error.filename2):
            raise OSError(error.errno, error.strerror, str(path)) from error  # the name that people know
        raise
    finally:
        part.unlink(missing_ok=True)


def write_json(path: Path, content: Any) -> None:
    """Indented, with lists of numbers on one line: people read these files too."""
    text = re.sub(
        r"\[\n([-+.\deE,\s]+?)\n\s*\]", lambda m: f"[{' '.join(m[1].split())}]", json.dumps(content, indent=1)
    )
    with atomic(path) as part:
        part.write_text(text + "\n")


def read_json(path: Path) -> Any:
    return json.loads(path.read_text())


def read_rows(folder: Path) -> list[JSON]:
    """The rows of metrics.jsonl; a last line that a kill cut short is left out."""
    path = folder / METRICS
    lines = path.read_text().split("\n")[:-1] if path.is_file() else []
    return [json.loads(line) for line in lines]


def digest_of(path: Path) -> str:
    """A short name for a file's content."""
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


def hash_of(content: Any, length: int = 12) -> str:
    """A short name for settings: the same content, the same name."""
    text = json.dumps(content, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:length]
