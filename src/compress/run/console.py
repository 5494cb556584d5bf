"""Logging handlers for the terminal (configured in conf/config.yaml): errors to stderr, the rest to stdout above a
progress bar."""

import logging
from typing import Any


class BelowError(logging.Filter):
    """Filter for stdout: drops errors, which another handler writes to stderr, and records with `file_only`."""

    def filter(self, record: logging.LogRecord) -> bool:
        return record.levelno < logging.ERROR and not getattr(record, "file_only", False)


class Console(logging.StreamHandler[Any]):
    """Handler for stdout that writes above tqdm's progress bar, if there is one."""

    def emit(self, record: logging.LogRecord) -> None:
        from tqdm import tqdm

        try:
            tqdm.write(self.format(record), file=self.stream)
            self.flush()
        except Exception:
            self.handleError(record)
