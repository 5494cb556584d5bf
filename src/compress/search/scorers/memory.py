"""What a scorer has scored, in a file beside the cached stages: no widths are ever scored twice.

The file is named by a hash of all that a score depends on (network, images, calibration), so that searches, budgets,
targets and later runs share it. Every line is one candidate and carries a digest of itself; lines that are damaged or
cut short by a kill are ignored, and their candidates scored again. Several processes may append at once.
"""

import json
import logging
import math
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from compress.io.files import JSON, MOST_JSON, hash_of, parse_json, require_regular_file
from compress.io.tensors import state_digest
from compress.measure.accuracy import Score
from compress.prune.method import Problem
from compress.search.scorers.scorer import Widths

log = logging.getLogger(__name__)


def scored_on(problem: Problem, weights: Mapping[str, Tensor]) -> JSON:
    """What every score depends on: the network, by its weights, the images, and the seed that draws some of them."""
    network = state_digest({name: tensor.cpu() for name, tensor in weights.items()})
    groups = [[group.name, group.width] for group in problem.graph]
    return {"network": network, "groups": groups, "data": problem.data.fingerprint(), "seed": problem.seed}


def orders_scored_by(problem: Problem, orders: Mapping[str, Tensor]) -> JSON:
    """What scores depend on besides if the run has a criterion: which channels stay, whoever decided that. Without
    one this follows from the weights."""
    return {} if problem.criterion is None else {"orders": state_digest(dict(orders))}


class ScoreMemory:
    """Scores by widths. `folder` is None where nothing shall be kept beyond this object."""

    def __init__(self, folder: Path | None, depends: Mapping[str, Any]) -> None:
        self._path = None if folder is None else folder / f"scores-{hash_of(depends)}.jsonl"
        self._scores: dict[Widths, Score] = {}
        self._below: dict[Widths, float] = {}  # widths that were given up: their top-1 is less than this
        for widths, found in () if self._path is None else _read(self._path):
            self._learn(widths, found)

    def __len__(self) -> int:
        return len(self._scores)

    def score(self, widths: Widths, least_top1: float, compute: Callable[[], Score | None]) -> Score | None:
        """The score of these widths, remembered or computed. None, which is remembered too, where `compute` gave up
        since their top-1 is below `least_top1`."""
        known = self._scores.get(widths)
        if known is not None or self._below.get(widths, math.inf) <= least_top1:
            return known
        score = compute()
        self._add(widths, least_top1 if score is None else score)
        return score

    def _learn(self, widths: Widths, found: Score | float) -> None:
        if isinstance(found, Score):
            self._scores[widths] = found
        else:
            self._below[widths] = min(found, self._below.get(widths, math.inf))

    def _add(self, widths: Widths, found: Score | float) -> None:
        self._learn(widths, found)
        if self._path is None:
            return
        self._path.parent.mkdir(parents=True, exist_ok=True)
        # one write of one whole line, which the system does not mix with those of other processes
        file = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            os.write(file, f"\n{_line(widths, found)}\n".encode())
        finally:
            os.close(file)


def _line(widths: Widths, found: Score | float) -> str:
    figures = found._asdict() if isinstance(found, Score) else {"below": found}
    entry = {"widths": list(widths), **figures}
    return json.dumps({**entry, "digest": hash_of(entry)})


def _read(path: Path) -> Iterable[tuple[Widths, Score | float]]:
    """The whole lines of a file; none of one that is too large or no plain file."""
    try:
        if not os.path.lexists(path):
            return
        require_regular_file(path)
        if path.stat().st_size > MOST_JSON:
            raise ValueError(f"larger than {MOST_JSON:,} bytes")
        lines = path.read_bytes().split(b"\n")
    except (OSError, ValueError) as error:
        log.warning("%s: is not used (%s); its candidates are scored again", path, error)
        return
    for line in filter(None, lines):
        try:
            entry = parse_json(line)
            digest = entry.pop("digest")
            found = float(entry["below"]) if "below" in entry else _score_of(entry)
            whole = digest == hash_of(entry)
            widths = tuple(map(int, entry["widths"]))
        except (ValueError, TypeError, KeyError, AttributeError):
            whole = False
        if whole:
            yield widths, found


def _score_of(entry: Mapping[str, Any]) -> Score:
    return Score(float(entry["top1"]), float(entry["top5"]), float(entry["loss"]))
