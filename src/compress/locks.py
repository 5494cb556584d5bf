"""Locks on files. The operating system frees one when its holder dies, however it dies; between machines they hold
where the shared file system knows flock (NFS 4, Lustre with `-o flock`, BeeGFS, GPFS)."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import BaseFileLock, FileLock, Timeout

log = logging.getLogger(__name__)

POLL_SECONDS = 0.2


@contextmanager
def locked(path: Path, busy: str | None) -> Iterator[bool]:
    """Hold the lock: True. When another process has it, say `busy` and wait; without `busy` don't: False."""
    lock = FileLock(path)
    if not _taken(lock):
        if busy is None:
            yield False
            return
        log.info("%s", busy)
        lock.acquire(poll_interval=POLL_SECONDS)
    try:
        yield True
    finally:
        lock.release()


def _taken(lock: BaseFileLock) -> bool:
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return False
    return True
