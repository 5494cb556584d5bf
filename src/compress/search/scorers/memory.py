"""What a scorer has scored, in a file beside the cached stages: no widths are ever scored twice.

The file is named by a hash of all that a score depends on (network, images, calibration), so that searches, budgets,
targets and later runs share it. Every line is one candidate and carries a digest of itself; lines that are damaged or
cut short by a kill are ignored, and their candidates scored again. Several processes may append at once.
"""

import json
import logging
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


class ScoreMemory:
    """Scores by widths. `folder` is None where nothing shall be kept beyond this object."""

    def __init__(self, folder: Path | None, depends: Mapping[str, Any]) -> None:
        self._path = None if folder is None else folder / f"scores-{hash_of(depends)}.jsonl"
        self._scores = {} if self._path is None else dict(_read(self._path))

    def __len__(self) -> int:
        return len(self._scores)

    def score(self, widths: Widths, compute: Callable[[], Score | None]) -> Score | None:
        """The score of these widths, remembered or computed; None, which is not remembered, if `compute` gave up."""
        if widths not in self._scores:
            score = compute()
            if score is None:
                return None
            self._add(widths, score)
        return self._scores[widths]

    def _add(self, widths: Widths, score: Score) -> None:
        self._scores[widths] = score
        if self._path is None:
            return
        self._path.parent.mkdir(parents=True, exist_ok=True)
        # one write of one whole line, which the system does not mix with those of other processes
        file = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            os.write(file, f"\n{_line(widths, score)}\n".encode())
        finally:
            os.close(file)


def _line(widths: Widths, score: Score) -> str:
    entry = {"widths": list(widths), **score._asdict()}
    return json.dumps({**entry, "digest": hash_of(entry)})


def _read(path: Path) -> Iterable[tuple[Widths, Score]]:
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
            score = Score(float(entry["top1"]), float(entry["top5"]), float(entry["loss"]))
            whole = digest == hash_of(entry)
            widths = tuple(map(int, entry["widths"]))
        except (ValueError, TypeError, KeyError, AttributeError):
            whole = False
        if whole:
            yield widths, score
