"""Keeps the jobs that were built to check their configs until they are run.

Building a job takes time, as its networks are traced; so each is built only once.
"""

import sys
from typing import TYPE_CHECKING, Any

from compress.errors import InputError
from compress.io.files import JSON, hash_of

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

if TYPE_CHECKING:
    from compress.run.job import Job

# Memory for the kept jobs besides the first; later ones are built again. A job is 0.06 MB on digits, where it holds
# little but settings, and 0.4 GB on ImageNet, where it holds the list of files. Measured as growth of the process, as
# the memory of a job belongs to several libraries.
MAX_BYTES = 2**29


def problems_of(config: JSON) -> list[str]:
    """Every mistake of a composed config, including those in files and devices."""
    return BuiltJobs().check(config)


class BuiltJobs:
    """Jobs by config: `check` builds and keeps a job, `take` hands it over. A copy in another process is empty."""

    def __init__(self) -> None:
        self._jobs: dict[str, Job] = {}
        self._first_bytes: int | None = None  # of the process after it built the first job

    def check(self, config: JSON) -> list[str]:
        """Every mistake of a config; if there is none, its job is kept."""
        from compress.config.build import build

        try:
            job = build(config)
        except InputError as error:
            return list(error.problems)
        self._first_bytes = _peak_bytes() if self._first_bytes is None else self._first_bytes
        if _peak_bytes() - self._first_bytes <= MAX_BYTES:
            self._jobs[hash_of(config)] = job
        return []

    def take(self, config: JSON) -> "Job":
        """The job of a config, built if it is not kept. It is removed here, as a run loads its data into it.

        Raises:
            InputError: every problem of a config that was not checked before.
        """
        from compress.config.build import build

        return self._jobs.pop(hash_of(config), None) or build(config)

    def __reduce__(self) -> Any:  # pickled as empty: jobs are not sent to other processes
        return BuiltJobs, ()


def _peak_bytes() -> int:
    """The peak memory of this process (maximum resident set size); 0 on Windows, which does not provide it."""
    if resource is None:
        return 0
    unit = 1 if sys.platform == "darwin" else 1024  # macOS counts bytes, Linux KiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
