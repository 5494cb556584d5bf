"""Measured times of blocks by their widths, kept in files that networks share.

A file holds all times of one block in one place: it is named by a hash of the block, of what it runs in (runtime,
versions, threads, batch) and of the machine. What a file has is not measured again.
"""

import logging
import platform
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from compress.io.files import JSON, hash_of, read_json, write_json
from compress.io.locks import locked
from compress.measure.latency import device_name, interleaved
from compress.prune.latency.blocks import Block
from compress.prune.latency.runtime import Where

log = logging.getLogger(__name__)

SECONDS = 0.02  # of measuring per entry
AT_ONCE = 32  # entries that take turns

Widths = tuple[int, int]  # channels in, channels out
Times = Mapping[Widths, float]  # in milliseconds


class Wanted(NamedTuple):
    block: Block
    widths: Sequence[Widths]


def where_json(where: Where) -> JSON:
    """All that a time belongs to, besides what was timed."""
    return {**where.to_json(), "device": device_name(where.device), "machine": platform.node()}


def times_of(wanted: Iterable[Wanted], where: Where, folder: Path | None) -> list[Times]:
    """Of every block the times at its widths, from the files in `folder` or measured now and kept there."""
    wanted = list(wanted)
    kept = [_read(_path(folder, each.block, where)) for each in wanted]
    missing = sum(len(set(each.widths) - known.keys()) for each, known in zip(wanted, kept, strict=True))
    if missing:
        total = sum(len(each.widths) for each in wanted)
        log.info(
            "latency: measuring %d of %d layers at their widths, some %.0f s", missing, total, 2 * SECONDS * missing
        )
    return [_times(each, where, folder) for each in wanted]


def _times(wanted: Wanted, where: Where, folder: Path | None) -> Times:
    path = _path(folder, wanted.block, where)
    if path is None:
        return _measured(wanted.block, wanted.widths, where)
    if not set(wanted.widths) - _read(path).keys():
        return _read(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with locked(path.with_suffix(".lock"), f"{path.name}: another process is measuring it; waiting"):
        known = _read(path)
        missing = [widths for widths in wanted.widths if widths not in known]
        known = {**known, **_measured(wanted.block, missing, where)}
        told = {f"{inputs}x{outputs}": ms for (inputs, outputs), ms in known.items()}
        write_json(path, {"block": wanted.block.to_json(), "where": where_json(where), "ms": told})
    return known


def _measured(block: Block, widths: Sequence[Widths], where: Where) -> Times:
    found: dict[Widths, float] = {}
    for first in range(0, len(widths), AT_ONCE):
        passes = {f"{i}x{o}": block.run(i, o, where) for i, o in widths[first : first + AT_ONCE]}
        timed = interleaved(passes, where.device, seconds=SECONDS, threads=where.threads)
        found |= {(i, o): timed[f"{i}x{o}"].median_ms for i, o in widths[first : first + AT_ONCE]}
    return found


def _path(folder: Path | None, block: Block, where: Where) -> Path | None:
    name = hash_of({"block": block.to_json(), "where": where_json(where)})
    return None if folder is None else folder / "latency" / f"{name}.json"


def _read(path: Path | None) -> Times:
    """The times in a file; none of one that is not there or damaged."""
    try:
        told = read_json(path)["ms"] if path is not None else {}
        found = {}
        for name, ms in told.items():
            inputs, _, outputs = name.partition("x")
            if not 0 < float(ms) < 1e9:
                return {}
            found[(int(inputs), int(outputs))] = float(ms)
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return {}
    return found
