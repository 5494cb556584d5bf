"""The index of a folder with many runs: what their summaries say, in one file that is read in a tenth of the time.

It stands beside the runs, as `INDEX`. Of every finished run it holds the fields of its `Run`, as changes to those of
an earlier run of the same shape, and the stamp of the summary that they were read from. A run whose summary has
another stamp by now is read anew. An index that is damaged, was written by another version of the code that reads
runs, or holds what no summary could have put there is none; then, or where too many of its runs are stale, it is
written anew. Where it cannot be written there is none.
"""

import hashlib
import json
import os
import re
import zlib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from compress.io.files import JSON, MOST_JSON, atomic, parse_json, require_regular_file
from compress.io.paths import INDEX
from compress.report.read.changes import changed, changes, shape_of

MIN_RUNS = 100  # that a folder holds at least before its index is worth a file
MAX_STALE = 0.02  # share of the runs that is read anew each time before the index is written anew
# A control character in a string: what is read of a summary has none, see `printable_tree`.
STEERING = re.compile(r"(?<!\\)(?:\\\\)*\\[^\\\"]")

Stamp = list[int]  # of a summary: its time in ns, size and inode


class Entry(NamedTuple):
    stamp: Stamp
    record: JSON  # the fields of a run, as JSON


def stamp_of(file: str) -> Stamp | None:
    """None where there is no such file. A summary is never changed in place, so another one has another inode."""
    try:
        found = os.stat(file)
    except OSError:
        return None
    return [found.st_mtime_ns, found.st_size, found.st_ino]


def load(folder: Path) -> dict[str, Entry]:
    """The entries of a folder's index by the names of the run folders; none if the index is not what `save` wrote."""
    path = folder / INDEX
    try:
        require_regular_file(path)
        if path.stat().st_size > MOST_JSON:
            return {}
        header, _, body = path.read_text().partition("\n")
        if header != _header(body) or not body.isprintable() or STEERING.search(body):
            return {}
        return _entries(parse_json(body))
    except (OSError, ValueError, TypeError, KeyError, IndexError, AttributeError):
        return {}


def save(folder: Path, entries: Mapping[str, Entry]) -> None:
    """Write the index atomically, or leave what is there if that is not possible."""
    body = json.dumps(_content(entries), ensure_ascii=False, separators=(",", ":"))
    if body.isprintable():
        with suppress(OSError, UnicodeError), atomic(folder / INDEX) as part:
            part.write_text(f"{_header(body)}\n{body}")


def is_worth_writing(runs: int, stale: int) -> bool:
    return runs >= MIN_RUNS and stale > MAX_STALE * runs


def _content(entries: Mapping[str, Entry]) -> list[Any]:
    """[bases, [name, stamp, base, changes] of every run]: the first run of a shape is the base of the others."""
    bases: list[JSON] = []
    known: dict[Any, int] = {}
    rows = []
    for name, (stamp, record) in entries.items():
        shape = shape_of(record)
        if shape not in known:
            known[shape] = len(bases)
            bases.append(record)
        rows.append([name, stamp, known[shape], changes(bases[known[shape]], record)])
    return [bases, rows]


def _entries(content: list[Any]) -> dict[str, Entry]:
    bases, rows = content
    return {name: Entry(stamp, changed(bases[base], by)) for name, stamp, base, by in rows}


def _header(body: str) -> str:
    return f"{_code()} {len(body)} {zlib.crc32(body.encode()):08x}"


@cache
def _code() -> str:
    """A digest of the code that makes runs of summaries: what other code made of them may not be what this would."""
    folder = Path(__file__).parent
    files: Sequence[Path] = [*sorted(folder.glob("*.py")), folder.parents[1] / "schema" / "settings.py"]
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:16]
