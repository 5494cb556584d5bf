"""Locks on files. The operating system frees one when its holder dies, however it dies; between machines they hold
where the shared file system knows flock (NFS 4, Lustre with `-o flock`, BeeGFS, GPFS)."""

import functools
import logging
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import BaseFileLock, FileLock, Timeout

from compress.errors import InputError
from compress.io.files import put_aside

try:
    import fcntl
except ImportError:  # Windows, whose locks end with their holder
    fcntl = None  # type: ignore[assignment]

log = logging.getLogger(__name__)

POLL_SECONDS = 0.2


@contextmanager
def locked(path: Path, busy: str | None) -> Iterator[bool]:
    """Hold the lock: True. When another process has it, say `busy` and wait; without `busy` don't: False."""
    _need_locks(path.parent)
    if path.is_symlink() or path.is_dir():
        put_aside(path, "it is no lock")
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


@functools.cache
def _need_locks(folder: Path) -> None:
    """
    Raises:
        InputError: the file system of this folder has no locks that end with their holder; others are left behind by
            a kill, and are not used.
    """
    if fcntl is None:
        return
    with tempfile.TemporaryFile(dir=folder) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise InputError(
                f"{folder}: its file system has no locks ({error.strerror}), which runs need to share stages; give "
                "outputs=<folder> and hydra.run.dir=<folder> on another"
            ) from None


def _taken(lock: BaseFileLock) -> bool:
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return False
    return True
