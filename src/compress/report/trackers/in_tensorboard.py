"""Rows in TensorBoard, in tb/ of the run folder: what `tensorboard=true` asks for."""

import logging
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from compress.io.files import JSON
from compress.report.trackers.tracker import Entry

FOLDER = "tb"


@dataclass(frozen=True)
class TensorBoard:
    def require(self, asked_by: str) -> None:
        """It is installed with the package."""

    def begin(self, folder: Path, summary: JSON) -> "Board":
        from torch.utils.tensorboard import SummaryWriter

        logging.getLogger("tensorboard").setLevel(logging.ERROR)
        return Board(SummaryWriter(str(folder / FOLDER)))


class Board:
    def __init__(self, writer: Any) -> None:
        self._writer = writer

    def row(self, entry: Entry) -> None:
        for name, number in entry.scalars().items():
            self._writer.add_scalar(name, number, entry.step)
        for name, value in entry.row.items():
            if isinstance(value, dict) and value.keys() == {"edges", "counts"}:
                self._histogram(f"{entry.prefix}/{name}", value["edges"], value["counts"], entry.step)
            elif isinstance(value, dict):
                for key, item in value.items():
                    self._writer.add_text(f"{entry.prefix}/{name}/{key}", str(item), entry.step)

    def _histogram(self, name: str, edges: list[float], counts: list[int], step: int) -> None:
        """Every value is taken for the middle of its bin."""
        middles = [(low + high) / 2 for low, high in pairwise(edges)]
        self._writer.add_histogram_raw(
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

    def end(self, summary: JSON) -> None:
        self._writer.close()
