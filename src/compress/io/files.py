"""Files written whole: under another name first, then renamed, so that a reader sees a whole file or none."""

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
CHUNK = 2**20  # bytes that have a checksum of their own

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


def parse_json(text: str | bytes) -> Any:
    """
    Raises:
        ValueError: no JSON, or one that is nested as nobody nests it.
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def need_regular(path: Path) -> None:
    """
    Raises:
        OSError: there is none, or it is a device or a pipe, which may never end.
    """
    if not stat.S_ISREG(path.stat().st_mode):
        raise OSError(errno.EINVAL, "no regular file", str(path))


def as_read(content: Mapping[str, Any]) -> Any:
    """What comes back of content that is written as JSON: lists for tuples, text for the keys of mappings."""
    return json.loads(json.dumps(content))


def read_json(path: Path) -> Any:
    """
    Raises:
        OSError: it cannot be read.
        ValueError: no JSON, or larger than any that a run writes.
    """
    need_regular(path)
    if path.stat().st_size > MOST_JSON:
        raise ValueError(f"larger than {MOST_JSON:,} bytes")
    return parse_json(path.read_text())


def read_rows(folder: Path) -> list[JSON]:
    """The rows of metrics.jsonl; a last line that a kill cut short is left out.

    Raises:
        ValueError: something else stands in it.
    """
    path = folder / METRICS
    lines = path.read_text().split("\n")[:-1] if path.is_file() else []
    rows = [parse_json(line) for line in lines]
    if not all(isinstance(row, dict) for row in rows):
        raise ValueError(f"{path}: holds lines that are no rows")
    return rows


def digest_of(path: Path) -> str:
    """A short name for a file's content."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def checksum(content: memoryview) -> str:
    """That tells damage: the CRC-32 of every MiB, taken by as many threads as there are cores, under one SHA-256.

    A third of the time of a SHA-256 of all. It is no proof against somebody who wants two contents to look alike.
    """
    chunks = [content[at : at + CHUNK] for at in range(0, len(content), CHUNK)]
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        parts = [len(content), *threads.map(zlib.crc32, chunks)]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def file_checksum(path: Path) -> str:
    """The file is read where the system keeps it, not into memory of one's own."""
    need_regular(path)
    with open(path, "rb") as file:
        if not os.fstat(file.fileno()).st_size:
            return checksum(memoryview(b""))
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped, memoryview(mapped) as content:
            return checksum(content)


def put_aside(path: Path, why: str) -> None:
    """Give what stands in the way another name, and say so; nothing of it is deleted."""
    names = (path.with_name(f"{path.name}.damaged{number or ''}") for number in itertools.count())
    aside = next(name for name in names if not os.path.lexists(name))
    path.rename(aside)
    log.warning("%s is put aside as %s: %s", path, aside.name, why)


def printable(text: str) -> str:
    """Foreign text as it may be shown: what steers a terminal, and line breaks, are written out."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def printable_tree(content: Any) -> Any:
    """Of JSON, every text in it."""
    if isinstance(content, str):
        return printable(content)
    if isinstance(content, dict):
        return {printable(str(key)): printable_tree(value) for key, value in content.items()}
    return [printable_tree(value) for value in content] if isinstance(content, list) else content


def hash_of(content: Any, length: int = 12) -> str:
    """A short name for settings: the same content, the same name."""
    text = json.dumps(content, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:length]


def refuse_swelling(path: Path) -> None:
    """torch writes its archives uncompressed; one that is compressed may fill the memory.

    Raises:
        InputError: an archive that holds more than twice what it takes on the disk.
    """
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        inside = sum(member.file_size for member in archive.infolist())
    if inside > 2 * path.stat().st_size:
        raise InputError(f"{path}: is a compressed archive of {inside:,} bytes; torch.save writes no such files")
