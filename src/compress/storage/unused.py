"""Which stages of the cache nothing refers to.

A stage is kept if a run folder names it, if a kept stage was computed from it, or if a run that has not ended well
could go on from it: then the same command would find it. What is put aside as damaged, and what is left of a removal,
is referred to by nothing.
"""

from collections.abc import Iterable, Sequence

from compress.storage.cache import Entry
from compress.storage.runs import RunFolder


def unused(entries: Sequence[Entry], runs: Sequence[RunFolder]) -> list[Entry]:
    """The entries that no run and no kept entry needs."""
    kept = needed(entries, runs)
    return [entry for entry in entries if entry.path not in kept]


def needed(entries: Sequence[Entry], runs: Sequence[RunFolder]) -> set[object]:
    """The paths of the entries that are kept."""
    stages = [entry for entry in entries if entry.kind in ("whole", "partial", "old")]
    named = {name for run in runs for name in run.stages.values()}
    going_on = [run for run in runs if run.goes_on]
    kept = [
        entry
        for entry in stages
        if f"{entry.stage}-{entry.key}" in named
        or any(may_go_on_from(entry, run) for run in going_on)
        or (_of_a_file(entry) and any(run.has_teacher for run in runs))
    ]
    return {entry.path for entry in _with_origins(kept, stages)}


def may_go_on_from(entry: Entry, run: RunFolder) -> bool:
    """Whether a run could find this stage next: it has the stages that this one was computed from and, where that are
    none, has not finished a stage of this name."""
    own = {name.rpartition("-")[2] for name in run.stages.values()}
    if entry.parents:
        return entry.parents <= own
    return entry.stage not in run.stages or (run.has_teacher and entry.stage in ("pretrain", "logits"))


def _of_a_file(entry: Entry) -> bool:
    """Whether these are the logits of a teacher that is no stage; which runs met it, no name tells."""
    return entry.stage == "logits" and not entry.teachers


def _with_origins(kept: Iterable[Entry], stages: Sequence[Entry]) -> list[Entry]:
    """The kept stages, those that they were computed from, and the logits of teachers among them."""
    found = {entry.path: entry for entry in kept}
    waiting = list(found.values())
    while waiting:
        entry = waiting.pop()
        name = f"{entry.stage}-{entry.key}"
        for other in stages:
            if other.path not in found and (other.key in entry.parents or name in other.teachers):
                found[other.path] = other
                waiting.append(other)
    return list(found.values())
