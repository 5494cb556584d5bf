"""Atomic writes, JSON and JSON lines, checksums, text that is safe to print."""

import errno
import hashlib
import itertools
import json
import logging
import mmap
import os
import re
import stat
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from compress.errors import InputError
from compress.io.paths import METRICS

log = logging.getLogger(__name__)

MOST_JSON = 2**28  # bytes
CHUNK = 2**20  # bytes per CRC-32

JSON = dict[str, Any]
Row = Mapping[str, Any]


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Write a file atomically: yields a temporary name beside `path`, which is renamed to `path` when the block ends
    without an error. A reader sees the old file or the new one, never a part.

    Raises:
        OSError: it cannot be written; names `path`.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield part
        with open(part, "rb") as file:
            os.fsync(file.fileno())
        os.replace(part, path)
    except OSError as error:
        if error.filename is None or str(part) in (error.filename, error.filename2):
            raise OSError(error.errno, error.strerror, str(path)) from error  # not the temporary one
        raise
    finally:
        part.unlink(missing_ok=True)


def write_json(path: Path, content: Any) -> None:
    """Write JSON atomically, indented, but lists of numbers on one line: people read these files too."""
    text = re.sub(
        r"\[\n([-+.\deE,\s]+?)\n\s*\]", lambda m: f"[{' '.join(m[1].split())}]", json.dumps(content, indent=1)
    )
    with atomic(path) as part:
        part.write_text(text + "\n")


def parse_json(text: str | bytes) -> Any:
    """
    Raises:
        ValueError: not JSON, or nested deeper than Python's recursion limit.
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def require_regular_file(path: Path) -> None:
    """
    Raises:
        OSError: it does not exist, or is a folder, device or pipe; reading a pipe may never end.
    """
    if not stat.S_ISREG(path.stat().st_mode):
        raise OSError(errno.EINVAL, "no regular file", str(path))


def json_round_trip(content: Mapping[str, Any]) -> Any:
    """Content as it would be read back from JSON: tuples become lists, keys of dicts become strings."""
    return json.loads(json.dumps(content))


def read_json(path: Path) -> Any:
    """
    Raises:
        OSError: it cannot be read.
        ValueError: not JSON, or larger than `MOST_JSON`.
    """
    require_regular_file(path)
    if path.stat().st_size > MOST_JSON:
        raise ValueError(f"larger than {MOST_JSON:,} bytes")
    return parse_json(path.read_text())


def read_rows(folder: Path) -> list[JSON]:
    """The rows of a folder's metrics.jsonl, [] if there is none. A last line without its line break, which a killed
    process left, is ignored.

    Raises:
        ValueError: a line is not a JSON object.
    """
    path = folder / METRICS
    lines = path.read_text().split("\n")[:-1] if path.is_file() else []
    rows = [parse_json(line) for line in lines]
    if not all(isinstance(row, dict) for row in rows):
        raise ValueError(f"{path}: holds lines that are no rows")
    return rows


def digest_of(path: Path) -> str:
    """SHA-256 of a file's content, 16 hex digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def checksum(content: memoryview) -> str:
    """A hash that detects damage: SHA-256 of the CRC-32s of every MiB, which a thread per core computes.

    Takes a third of the time of a SHA-256 of the content. It does not resist deliberate collisions.
    """
    chunks = [content[at : at + CHUNK] for at in range(0, len(content), CHUNK)]
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        parts = [len(content), *threads.map(zlib.crc32, chunks)]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def file_checksum(path: Path) -> str:
    """`checksum` of a file, memory-mapped rather than read into memory.

    Raises:
        OSError: it does not exist, or is not a regular file.
    """
    require_regular_file(path)
    with open(path, "rb") as file:
        if not os.fstat(file.fileno()).st_size:
            return checksum(memoryview(b""))
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped, memoryview(mapped) as content:
            return checksum(content)


def quarantine(path: Path, why: str) -> None:
    """Rename a damaged file or folder to `<name>.damaged`, and log a warning with the reason; nothing is deleted."""
    names = (path.with_name(f"{path.name}.damaged{number or ''}") for number in itertools.count())
    aside = next(name for name in names if not os.path.lexists(name))
    path.rename(aside)
    log.warning("%s is put aside as %s: %s", path, aside.name, why)


def printable(text: str) -> str:
    """Text of unknown origin, safe to print: control characters and line breaks are escaped."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def printable_tree(content: Any) -> Any:
    """`printable` applied to every string in parsed JSON, keys included."""
    if isinstance(content, str):
        return printable(content)
    if isinstance(content, dict):
        return {printable(str(key)): printable_tree(value) for key, value in content.items()}
    return [printable_tree(value) for value in content] if isinstance(content, list) else content


def hash_of(content: Any, length: int = 12) -> str:
    """SHA-256 of JSON content, independent of the order of keys, as `length` hex digits."""
    text = json.dumps(content, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:length]


def refuse_compressed_archive(path: Path) -> None:
    """A guard against zip bombs: torch.save does not compress its archives, and a compressed one could fill the
    memory.

    Raises:
        InputError: the file is a zip archive whose content is more than twice as large as the file.
    """
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        inside = sum(member.file_size for member in archive.infolist())
    if inside > 2 * path.stat().st_size:
        raise InputError(f"{path}: is a compressed archive of {inside:,} bytes; torch.save writes no such files")
