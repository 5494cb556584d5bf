"""File locks (flock). The operating system releases one when its process ends, even if it is killed. They work across
machines where the shared file system supports flock (NFS 4, Lustre with `-o flock`, BeeGFS, GPFS)."""

import functools
import logging
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import BaseFileLock, FileLock, Timeout

from compress.errors import InputError
from compress.io.files import quarantine

try:
    import fcntl
except ImportError:  # Windows, which releases locks when a process ends
    fcntl = None  # type: ignore[assignment]

log = logging.getLogger(__name__)

POLL_SECONDS = 0.2


class NoLocksError(InputError):
    """The file system of a folder does not support flock."""


@contextmanager
def locked(path: Path, busy: str | None) -> Iterator[bool]:
    """Hold a lock during the block; yields True. While another process has it: log `busy` and wait, or, if `busy` is
    None, yield False at once.

    Raises:
        NoLocksError: the file system does not support flock.
    """
    _require_flock(path.parent)
    if path.is_symlink() or path.is_dir():
        quarantine(path, "it is no lock")
    lock = FileLock(path)
    if not _try_acquire(lock):
        if busy is None:
            yield False
            return
        log.info("%s", busy)
        lock.acquire(poll_interval=POLL_SECONDS)
    try:
        yield True
    finally:
        lock.release()


def is_held(path: Path) -> bool:
    """Whether another process has this lock now. Makes no lock that is not there; False where it cannot be tried."""
    try:
        if not path.is_file() or path.is_symlink():
            return False
        with locked(path, None) as was_free:
            return not was_free
    except (OSError, NoLocksError):
        return False


@functools.cache
def _require_flock(folder: Path) -> None:
    """
    Raises:
        NoLocksError: the file system of this folder does not support flock. Lock files without it are not used: a
        killed process would leave them behind.
    """
    if fcntl is None:
        return
    with tempfile.TemporaryFile(dir=folder) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise NoLocksError(
                f"{folder}: its file system has no locks ({error.strerror}), which runs need to share stages"
            ) from None


def _try_acquire(lock: BaseFileLock) -> bool:
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return False
    return True
