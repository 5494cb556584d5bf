"""The jobs of a sweep; their status is read from their folders, as a launcher may run them in other processes."""

import json
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from compress.errors import BAD_INPUT
from compress.io.files import JSON, printable, read_json, write_json
from compress.io.locks import locked
from compress.io.paths import LOCK, SUMMARY


@dataclass(frozen=True)
class SweepJob:
    """A job of a sweep: its run folder, the overrides in which it differs from other jobs, the hash of its config."""

    folder: Path
    changed: dict[str, str]
    config_hash: str

    def __str__(self) -> str:
        return " ".join(f"{key}={value}" for key, value in self.changed.items()) or str(self.folder)

    def summary(self) -> JSON:
        """summary.json of its last run, if that had the same config; else {}."""
        try:
            summary: JSON = read_json(self.folder / SUMMARY)
            return summary if summary["config_hash"] == self.config_hash else {}
        except (OSError, ValueError, TypeError, KeyError):
            return {}

    def is_done(self) -> bool:
        return self.summary().get("status") == "done"

    def has_failed(self, launch: str) -> bool:
        """Whether it has failed in this launch (this start of the command)."""
        summary = self.summary()
        return summary.get("status") == "failed" and summary.get("launch") == launch

    def to_json(self) -> JSON:
        return {"folder": str(self.folder), "changed": self.changed, "config_hash": self.config_hash}

    @staticmethod
    def from_json(content: JSON) -> "SweepJob":
        return SweepJob(Path(content["folder"]), content["changed"], content["config_hash"])


def distinguishing_overrides(
    jobs: Sequence[Sequence[str]], first: Callable[[Iterable[str]], list[str]]
) -> list[dict[str, str]]:
    """The overrides in which each job differs from others; if in none, the one that `first` sorts first."""
    written = [dict(text.partition("=")[::2] for text in job) for job in jobs]
    keys = [key for key in written[0] if len({job.get(key) for job in written}) > 1]
    keys = keys or first(written[0])[:1]
    return [{key: asked.get(key, "") for key in keys} for asked in written]


def _begun_file(folder: Path, launch: str) -> Path:
    return folder / f".begun-{launch}"


def note_begun(folder: Path, launch: str, job: SweepJob) -> None:
    """Record a job that a sweeper (optuna) chose while the sweep runs: the command does not know it otherwise.

    One JSON line per job, appended in a single write, so that lines of several processes do not mix.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with _begun_file(folder, launch).open("a") as file:
        file.write(json.dumps(job.to_json()) + "\n")


def begun_jobs(folder: Path, launch: str) -> list[SweepJob]:
    """The recorded jobs of a launch, each once, with the overrides in which they differ."""
    try:
        lines = _begun_file(folder, launch).read_text().splitlines()
    except OSError:
        return []
    jobs = list({job.folder: job for job in map(SweepJob.from_json, map(json.loads, lines))}.values())
    changes = distinguishing_overrides(
        [[f"{key}={value}" for key, value in job.changed.items()] for job in jobs], list
    )
    return [replace(job, changed=changed) for job, changed in zip(jobs, changes, strict=True)]


def forget_begun(folder: Path, launch: str) -> None:
    _begun_file(folder, launch).unlink(missing_ok=True)


def new_launch() -> str:
    """A random identifier for one start of the command."""
    return uuid.uuid4().hex


def mark_died(jobs: Sequence[SweepJob], launch: str, why: str) -> list[SweepJob]:
    """Mark the jobs as failed that this launch began and whose processes are dead (their run lock is free); returns
    them."""
    died = []
    for job in jobs:
        summary = job.summary()
        if summary.get("status") != "running" or summary.get("launch") != launch:
            continue
        with locked(job.folder / LOCK, None) as is_gone:
            if is_gone:
                write_json(job.folder / SUMMARY, {**summary, "status": "failed", "error": why, "bad_input": False})
                died.append(job)
    return died


def forget_failure(job: SweepJob) -> None:
    """Allow the same launch to retry a failed job."""
    write_json(job.folder / SUMMARY, {**job.summary(), "status": "interrupted"})


def left_undone(jobs: Sequence[SweepJob]) -> list[SweepJob]:
    """Wait for jobs whose run lock another process holds; returns the jobs that are then neither done nor failed.

    The holder of such a job's lock has died, or held it for a moment only.
    """
    for job in jobs:
        if not job.is_done() and job.folder.is_dir():
            with locked(job.folder / LOCK, busy=f"{job}: another process is at it; waiting"):
                pass
    return [job for job in jobs if job.summary().get("status") not in ("done", "failed")]


def closing(jobs: Sequence[SweepJob], ended: Mapping[Path, str]) -> str:
    """One table of all finished jobs; below it the unfinished ones, with reasons.

    `ended`, by absolute run folder, gives the reasons of jobs that could not begin or not write a summary.
    """
    from compress.report.compare import sweep_table  # slow to import; not needed for `compress --help`

    done = [job for job in jobs if job.is_done() and job.folder.absolute() not in ended]
    lines = [sweep_table([job.folder for job in done])]
    saved = sum(job.summary().get("saved_seconds", 0.0) for job in jobs)
    if saved:
        lines.append(f"stages shared among the jobs, or there before, saved {saved:.1f} s of computing")
    missing = [job for job in jobs if job not in done]
    if missing:
        lines.append(f"{len(missing)} of {len(jobs)} jobs are not done; the same command tries them again:")
        lines += [f"  {job}: {_why(job, ended)} ({job.folder})" for job in missing]
    return "\n".join(lines)


def _why(job: SweepJob, ended: Mapping[Path, str]) -> str:
    summary = job.summary()
    status = summary.get("status", "left nothing")
    if status in ("left nothing", "done") and job.folder.absolute() in ended:
        return f"not begun: {ended[job.folder.absolute()]}"
    lines = [printable(line) for line in str(summary.get("error", "")).splitlines() if line.strip()]
    return f"{status}: {lines[0]}" if lines else status


def exit_code(jobs: Sequence[SweepJob]) -> int:
    """0 if all jobs are done, 2 if all others failed by bad input, else 1."""
    undone = [job.summary() for job in jobs if not job.is_done()]
    return 0 if not undone else BAD_INPUT if all(summary.get("bad_input") for summary in undone) else 1
