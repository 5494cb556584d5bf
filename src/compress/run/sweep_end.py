"""The end of a sweep: jobs left to other processes and jobs that died are completed; one table shows all."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from compress.errors import BAD_INPUT
from compress.run.sweep_jobs import SweepJob, closing, exit_code, forget_failure, left_undone, mark_died


def finish(jobs: Sequence[SweepJob], launch: str, run_again: Callable[[], None]) -> None:
    """Wait for jobs that other processes are running, and `run_again` those that they did not finish.

    Where several jobs died together because a launcher lost its processes, each is retried once, alone: only one of
    them may have been the cause.
    """
    unfinished_before: list[SweepJob] = []
    died_together: list[SweepJob] = []
    while True:
        died = mark_lost(jobs, launch)
        died_together += died if len(died) > 1 else []
        unfinished = left_undone(jobs)
        if died_together and unfinished in ([], unfinished_before):
            forget_failure(died_together.pop(0))
            unfinished = left_undone(jobs)
        elif unfinished in ([], unfinished_before):
            return
        unfinished_before = unfinished
        run_again()


def mark_lost(jobs: Sequence[SweepJob], launch: str) -> list[SweepJob]:
    return mark_died(jobs, launch, "its process died (a crash, or no memory left)")


def print_summary(jobs: Sequence[SweepJob], failed: Mapping[Path, str], bugs: Mapping[Path, str]) -> int:
    """Print the table of a sweep; returns the exit code."""
    print(f"\n{closing(jobs, {**failed, **bugs})}", flush=True)
    others = [job for job in jobs if job.folder.absolute() not in failed]
    return 1 if bugs else exit_code(others) or (BAD_INPUT if failed else 0)
