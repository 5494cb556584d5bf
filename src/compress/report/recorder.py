"""Writes the rows of a run as they come, to metrics.jsonl and to TensorBoard."""

import json
import logging
import shutil
import warnings
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

from compress.io.files import Row
from compress.io.paths import METRICS
from compress.report.read.metrics import step_of


class Recorder:
    """Of one run folder. Its files begin anew: the pipeline hands over the rows of reused stages too."""

    def __init__(self, folder: Path, tensorboard: bool) -> None:
        self._file = open(folder / METRICS, "w")  # noqa: SIM115 (open as long as the run)
        self._board: Any = None
        self._count: Counter[str] = Counter()
        shutil.rmtree(folder / "tb", ignore_errors=True)
        if tensorboard:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of TensorBoard's own dependencies
                from torch.utils.tensorboard import SummaryWriter

                logging.getLogger("tensorboard").setLevel(logging.ERROR)
                self._board = SummaryWriter(str(folder / "tb"))

    def row(self, row: Row) -> None:
        self._file.write(json.dumps(row) + "\n")
        self._file.flush()
        if self._board is None:
            return
        counted = step_of(row)
        step = self._count[row["stage"]] if counted is None else int(counted.value)
        self._count[row["stage"]] += 1
        no_values = ("target", counted and counted.name)
        prefix = f"{row['stage']}/{row['target']:g}" if "target" in row else row["stage"]
        for name, value in row.items():
            if isinstance(value, int | float) and name not in no_values and value == value:
                self._board.add_scalar(f"{prefix}/{name}", value, step)
            elif isinstance(value, dict) and value.keys() == {"edges", "counts"}:
                self._histogram(f"{prefix}/{name}", value["edges"], value["counts"], step)
            elif isinstance(value, dict):
                for key, item in value.items():
                    self._board.add_text(f"{prefix}/{name}/{key}", str(item), step)

    def _histogram(self, name: str, edges: list[float], counts: list[int], step: int) -> None:
        """Every value is taken for the middle of its bin."""
        middles = [(low + high) / 2 for low, high in pairwise(edges)]
        self._board.add_histogram_raw(
            name,
            min=edges[0],
            max=edges[-1],
            num=sum(counts),
            sum=sum(n * x for n, x in zip(counts, middles, strict=True)),
            sum_squares=sum(n * x * x for n, x in zip(counts, middles, strict=True)),
            bucket_limits=edges[1:],
            bucket_counts=counts,
            global_step=step,
        )

    def close(self) -> None:
        self._file.close()
        if self._board is not None:
            self._board.close()
