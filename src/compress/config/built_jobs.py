"""The jobs that the check before a start has built, for the runs that follow: building one traces its networks."""

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

# Kept beside the first. One is 0.06 MB on digits, where settings are all that it has; 0.4 GB on ImageNet, whose files
# it has listed. Measured as the growth of the process, since what a job has lies in libraries of many kinds.
MOST_BYTES = 2**29


def problems_of(config: JSON) -> list[str]:
    """Every mistake of a composed config, in its files and devices too."""
    return BuiltJobs().check(config)


class BuiltJobs:
    """Built once, taken once; in another process there are none, and it builds its own."""

    def __init__(self) -> None:
        self._jobs: dict[str, Job] = {}
        self._at_first: int | None = None  # bytes of the process, once it has built one

    def check(self, config: JSON) -> list[str]:
        """Every mistake of a config; without any its job is kept."""
        from compress.config.build import build

        try:
            job = build(config)
        except InputError as error:
            return list(error.problems)
        self._at_first = _peak_bytes() if self._at_first is None else self._at_first
        if _peak_bytes() - self._at_first <= MOST_BYTES:
            self._jobs[hash_of(config)] = job
        return []

    def take(self, config: JSON) -> "Job":
        """The job of a config, which is not kept any longer: a run reads data into it.

        Raises:
            InputError: every problem of a config that was not checked.
        """
        from compress.config.build import build

        return self._jobs.pop(hash_of(config), None) or build(config)

    def __reduce__(self) -> Any:
        return BuiltJobs, ()


def _peak_bytes() -> int:
    """The most that this process has held; 0 where the system does not say."""
    if resource is None:
        return 0
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
