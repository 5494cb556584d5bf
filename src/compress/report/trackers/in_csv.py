"""Rows as one table, metrics.csv in the run folder, for spreadsheets and data frames."""

import csv
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compress.io.files import JSON, Row, atomic, read_rows
from compress.io.paths import METRICS_TABLE
from compress.report.trackers.tracker import Entry


@dataclass(frozen=True)
class Csv:
    def require(self, asked_by: str) -> None:
        """It needs nothing."""

    def begin(self, folder: Path, summary: JSON) -> "Table":
        return Table(folder)


class Table:
    """Columns are those of all rows until now, in the order of their first row. A row with a new one has the file
    written anew from metrics.jsonl, which happens about once a stage; the others are put behind it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._columns: list[str] = []

    def row(self, entry: Entry) -> None:
        new = [name for name in entry.row if name not in self._columns]
        self._columns += new
        if not new:
            with open(self._folder / METRICS_TABLE, "a", newline="") as file:
                self._writer(file).writerow(_cells(entry.row))
            return
        with atomic(self._folder / METRICS_TABLE) as part, open(part, "w", newline="") as file:
            writer = self._writer(file)
            writer.writeheader()
            writer.writerows(_cells(row) for row in read_rows(self._folder))

    def _writer(self, file: Any) -> "csv.DictWriter[str]":
        return csv.DictWriter(file, self._columns, restval="", lineterminator="\n")

    def end(self, summary: JSON) -> None:
        """All is written already."""


def _cells(row: Row) -> JSON:
    """Lists and objects, such as histograms, as JSON in one cell."""
    return {key: json.dumps(value) if isinstance(value, dict | list) else value for key, value in row.items()}
