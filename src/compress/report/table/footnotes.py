"""What a reader must know before comparing a row with the others: said in words, one mark per reason.

What most rows of the same dataset and network do is the norm; the mark says what is otherwise, and how many do so.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from compress.io.files import JSON
from compress.report.read.runs import Run
from compress.report.table.differences import differing, setting_text

MOST_NAMED = 3
OF_STEPS = ("step_epochs", "step_factor")  # without a meaning under another schedule


def marks_of(runs: Sequence[Run]) -> list[list[str]]:
    """The marks of every run, in the order of `runs`."""
    deviations = _deviations(runs, _recipe, ("dataset", "model"))
    others = _deviations(runs, _measured, ("dataset",))
    return [
        [*_own(run), *([_several(recipe)] if recipe else []), *other]
        for run, recipe, other in zip(runs, deviations, others, strict=True)
    ]


def _own(run: Run) -> list[str]:
    """What a run says of itself."""
    found = []
    by_macs = run.control == "uniform" and run.budget_kind == "percent"  # it is to have the method's MACs
    if run.budget.get("met") is False and not by_macs:
        found.append("missed its budget by more than 1 % and one rounding step")
    chosen = {name: row["weights"] for name, row in run.results.items() if row.get("weights", "last") != "last"}
    found += [f"{name}: top-1 of the {setting_text(which)} epoch, not of the last" for name, which in chosen.items()]
    for name, stage in run.stages.items():
        done = stage.get("epochs")
        asked = (stage.get("recipe") or {}).get("epochs", run.settings.get(f"{name}.epochs"))
        if isinstance(done, int) and isinstance(asked, int) and done < asked:
            found.append(f"{name} stopped after {done} of {asked} epochs")
    return found


def _recipe(run: Run) -> JSON:
    """How a run trained: what must be alike for its top-1 to be compared."""
    done = run.stages.get("finetune", {})
    recipe: JSON = {
        "distill": run.settings.get("distill"),
        **_under("distill", run),
        **_under("teacher", run),
        "devices": run.devices,
        "finetune.init": done.get("init", run.settings.get("finetune.init")),
    }
    source = run.stages.get("pretrain", {}).get("source", "trained")
    recipe |= _under("pretrain", run) if source == "trained" else {"the dense network is": source}
    if run.stages and "finetune" not in run.stages:
        return {**recipe, "finetune": "none"}
    used = {f"finetune.{key}": value for key, value in (done.get("recipe") or {}).items()}
    recipe |= {"finetune": "done"} | (used or _under("finetune", run)) | {"finetune.init": recipe["finetune.init"]}
    if "finetune.epochs" not in recipe:
        recipe["finetune.epochs"] = run.results[run.final].get("epochs")
    return _meaningful(recipe)


def _under(stage: str, run: Run) -> JSON:
    return {key: value for key, value in run.settings.items() if key.startswith(f"{stage}.")}


def _meaningful(recipe: JSON) -> JSON:
    unused = {
        f"{stage}.{key}"
        for stage in ("pretrain", "finetune")
        for key in OF_STEPS
        if recipe.get(f"{stage}.schedule") != "step"
    }
    return {key: value for key, value in recipe.items() if key not in unused and key != "finetune.scratch_budget"}


def _measured(run: Run) -> JSON:
    """Where a run was measured."""
    row = run.results[run.final]
    return {
        "latency on": row.get("latency_device"),
        "latency threads": row.get("latency_threads"),
        "images": run.fingerprint,
    }


def _deviations(runs: Sequence[Run], facts: Callable[[Run], JSON], alike: Sequence[str]) -> list[list[str]]:
    """Per run what differs from most of those that share the `alike` settings."""
    mates: dict[tuple[str, ...], list[JSON]] = {}
    of = [(tuple(str(run.settings.get(key)) for key in alike), facts(run)) for run in runs]
    for group, mine in of:
        mates.setdefault(group, []).append(mine)
    norms = {group: _norm(all_of) for group, all_of in mates.items()}
    return [
        [
            f"{key} {setting_text(value)}, not {norm} as in {f'{count} of {total}' if total > 2 else 'the other'}"
            for key, value in mine.items()
            if value is not None or key == "distill"
            for norm, count, total in [norms[group][key]]
            if setting_text(value) != norm
        ]
        for group, mine in of
    ]


def _norm(rows: Sequence[Mapping[str, Any]]) -> dict[str, tuple[str, int, int]]:
    """Of every fact the most common value (the first of equals), how many have it, and how many have any."""
    norms = {}
    for key in dict.fromkeys(key for row in rows for key in row):
        values = Counter(
            setting_text(row[key]) for row in rows if key in row and (row[key] is not None or key == "distill")
        )
        if values:
            (value, count), *_ = values.most_common(1)
            norms[key] = value, count, values.total()
    return norms


def _several(deviations: Sequence[str]) -> str:
    if any(deviation.startswith("finetune none") for deviation in deviations):
        return "not fine-tuned"
    more = f"; and {len(deviations) - MOST_NAMED} more" if len(deviations) > MOST_NAMED else ""
    return "; ".join(deviations[:MOST_NAMED]) + more


def group_marks(runs: Sequence[Run], marks: Sequence[Sequence[str]], by: Sequence[str]) -> list[str]:
    """Of runs that make one row: their marks with how many have each, and what differs besides the seed."""
    held = Counter(mark for mine in marks for mark in dict.fromkeys(mine))
    found = [mark if count == len(runs) else f"{count} of {len(runs)}: {mark}" for mark, count in held.items()]
    found += [
        f"runs differ in {key} ({', '.join(values)})"
        for key in differing([run.settings for run in runs])
        if key != "seed" and key not in by
        for values in [sorted({setting_text(run.settings.get(key)) for run in runs})]
    ]
    budgets = dict.fromkeys(str(run.budget.get("asked")) for run in runs)
    if len(budgets) > 1:
        found.append(f"runs differ in the budget asked ({_budgets(runs)})")
    same = Counter(str(sorted(run.settings.items(), key=str)) + str(run.control) for run in runs)
    if twice := sum(same.values()) - len(same):
        found.append(f"{twice + len(same)} runs, but {len(same)} different settings: the spread is not that of seeds")
    return found


def _budgets(runs: Sequence[Run]) -> str:
    asked = [f"{key} {setting_text(value)}" for run in runs for key, value in (run.budget.get("asked") or {}).items()]
    return ", ".join(dict.fromkeys(asked))
