"""What a run logs, on a terminal: errors apart, lines above a progress bar (named in conf/config.yaml)."""

import logging
from typing import Any


class BelowError(logging.Filter):
    """For the console's standard output: errors go to standard error, and some lines to the run's log alone."""

    def filter(self, record: logging.LogRecord) -> bool:
        return record.levelno < logging.ERROR and not getattr(record, "file_only", False)


class Console(logging.StreamHandler[Any]):
    """Standard output, with lines above a progress bar if there is one."""

    def emit(self, record: logging.LogRecord) -> None:
        from tqdm import tqdm

        try:
            tqdm.write(self.format(record), file=self.stream)
            self.flush()
        except Exception:
            self.handleError(record)
