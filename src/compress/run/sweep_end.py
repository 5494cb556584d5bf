"""The end of a sweep: jobs that were left to others or died are done, and one table tells of all."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from compress.errors import BAD_INPUT
from compress.run.sweep_jobs import SweepJob, closing, exit_code, forget_failure, left_undone, mark_died


def finish(jobs: Sequence[SweepJob], launch: str, again: Callable[[], None]) -> None:
    """Wait for jobs that other processes took, and do `again` what they left undone.

    Of several jobs that died when a launcher lost its processes, each is tried once more, alone: only one of them
    need have been the cause.
    """
    before: list[SweepJob] = []
    together: list[SweepJob] = []
    while True:
        died = mark_lost(jobs, launch)
        together += died if len(died) > 1 else []
        left = left_undone(jobs)
        if together and left in ([], before):
            forget_failure(together.pop(0))
            left = left_undone(jobs)
        elif left in ([], before):
            return
        before = left
        again()


def mark_lost(jobs: Sequence[SweepJob], launch: str) -> list[SweepJob]:
    return mark_died(jobs, launch, "its process died (a crash, or no memory left)")


def told_end(jobs: Sequence[SweepJob], failed: Mapping[Path, str], bugs: Mapping[Path, str]) -> int:
    """Print the table of a sweep; the exit code."""
    print(f"\n{closing(jobs, {**failed, **bugs})}", flush=True)
    others = [job for job in jobs if job.folder.absolute() not in failed]
    return 1 if bugs else exit_code(others) or (BAD_INPUT if failed else 0)
