"""The jobs that the check before a start has built, for the runs that follow: building one traces its networks."""

from typing import TYPE_CHECKING, Any

from compress.errors import InputError
from compress.io.files import JSON, hash_of

if TYPE_CHECKING:
    from compress.run.job import Job

MOST = 1000  # that are kept: a built job is settings, data that was not read yet and no network


def problems_of(config: JSON) -> list[str]:
    """Every mistake of a composed config, in its files and devices too."""
    return BuiltJobs(0).check(config)


class BuiltJobs:
    """Built once, taken once; in another process there are none, and it builds its own."""

    def __init__(self, most: int = MOST) -> None:
        self._most = most
        self._jobs: dict[str, Job] = {}

    def check(self, config: JSON) -> list[str]:
        """Every mistake of a config; without any its job is kept."""
        from compress.config.build import build

        try:
            job = build(config)
        except InputError as error:
            return list(error.problems)
        if len(self._jobs) < self._most:
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
