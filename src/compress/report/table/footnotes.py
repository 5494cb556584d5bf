"""Footnotes: what a reader must know before comparing a row with the others.

Some are about one run: it missed its budget, it stopped early. The others compare runs: what most of them did is
usual; a run that did something else gets a footnote that says what, and how many did the usual. Three runs, of which
one was fine-tuned at another learning rate and measured on another machine:

>>> from pathlib import Path
>>> def run(lr, machine, **settings):
...     return Run(folder=Path("run"), settings={"dataset": "digits", "model": "resnet20", **settings},
...         stages={"finetune": {"recipe": {"lr": lr, "epochs": 10}, "epochs": 10}},
...         results={"finetuned": {"top1": 90.0, "latency_device": machine}})
>>> runs = [run(0.1, "A100"), run(0.1, "A100"), run(0.2, "CPU")]
>>> footnotes_of(runs)[2]
['finetune.lr 0.2, not 0.1 as in 2 of 3', 'latency on CPU, not A100 as in 2 of 3']

Recipes compare only among runs of the same network and images: of another network, this run is alone and usual.

>>> footnotes_of([*runs[:2], run(0.2, "A100", model="vgg16")])
[[], [], []]

In a table with a row per group (`--by method`), a footnote says how many of the group have it; to these come the
settings that differ within the group, which makes its standard deviation more than that of the seeds:

>>> runs = [run(0.1, "A100", seed=0), run(0.1, "A100", seed=1, **{"method.l1": 0.1})]
>>> footnotes_of_group(runs, [["missed its budget"], []], by=["method"])
['1 of 2: missed its budget', 'runs differ in method.l1 (0.1, null)']
"""

from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from compress.io.files import JSON
from compress.report.group_by import group_by
from compress.report.read.runs import Run
from compress.report.table import as_text
from compress.report.table.differences import differing, keys_of
from compress.report.table.latency import are_one, interval

MAX_NAMED = 3  # differences of a recipe that are spelled out
NOT_THERE = object()  # in place of a fact that a run does not have
GROUPS_OF_RECIPE = ("distill", "teacher", "pretrain", "finetune")
OF_STEP_SCHEDULE = ("step_epochs", "step_factor")  # settings without effect under another schedule


def footnotes_of(runs: Sequence[Run], by: Sequence[str] = ()) -> list[list[str]]:
    """The footnotes of every run, in the order of `runs`; none about what a row says by its settings `by`."""
    settings = keys_of([run.settings for run in runs])
    inside = {group: [key for key in settings if key.startswith(f"{group}.")] for group in GROUPS_OF_RECIPE}
    recipes = _unusual(runs, lambda run: _untold(_recipe(run, inside), run, by), ("dataset", "model"))
    measurements = _unusual(runs, _measurement, ("dataset",))
    latencies: list[list[str]] = [[] for _ in runs] if by else _as_fast(runs)
    return [
        [*_of_itself(run), *_summarised(recipe), *measurement, *as_fast]
        for run, recipe, measurement, as_fast in zip(runs, recipes, measurements, latencies, strict=True)
    ]


def _as_fast(runs: Sequence[Run]) -> list[list[str]]:
    """Of how many other runs the latency is not told apart, where it is not; only of those with a cut network."""
    spreads = [interval(run.results[run.final]) if run.final != "dense" else None for run in runs]
    begins, ends = (sorted(spread[side] for spread in spreads if spread is not None) for side in (0, 1))
    found = []
    for spread in spreads:
        # those that begin before this one ends, without those that end before it begins, and without itself
        alike = 0 if spread is None else bisect_right(begins, spread[1]) - bisect_left(ends, spread[0]) - 1
        found.append([f"latency not told apart from that of {alike} of the {len(runs) - 1} others"] if alike else [])
    return found


def _untold(facts: JSON, run: Run, by: Sequence[str]) -> JSON:
    """Facts that differ from the settings `by`, or are about others: a run from scratch, for instance, did not train
    by the recipe of `finetune` in its config."""
    told = {key for key in by if key in facts and facts[key] == run.settings.get(key)}
    return {key: value for key, value in facts.items() if key not in told} if told else facts


def _of_itself(run: Run) -> list[str]:
    """What is said of a run whatever the others did."""
    found = []
    has_macs_of_method = run.control == "uniform" and run.budget_kind == "percent"  # and so another percent
    if run.budget.get("met") is False and not has_macs_of_method:
        found.append("missed its budget by more than 1 % and one rounding step")
    elif run.budget.get("binds"):
        found.append(f"{run.budget['binds']} binds before the budget asked is spent")
    chosen = {name: row["weights"] for name, row in run.results.items() if row.get("weights", "last") != "last"}
    found += [
        f"{name}: top-1 of the {as_text.setting(which)} epoch, not of the last" for name, which in chosen.items()
    ]
    if run.final != "dense" and are_one(run.results[run.final], run.results.get("dense", {})):
        found.append("latency not told apart from the dense network's")
    for name, stage in run.stages.items():
        done = stage.get("epochs")
        asked = (stage.get("recipe") or {}).get("epochs", run.settings.get(f"{name}.epochs"))
        if isinstance(done, int) and isinstance(asked, int) and done < asked:
            found.append(f"{name} stopped after {done} of {asked} epochs")
    return found


def _recipe(run: Run, inside: Mapping[str, Sequence[str]]) -> JSON:
    """How a run trained: what must be the same for its top-1 to be compared. `inside`: keys of settings by
    their group."""
    done = run.stages.get("finetune", {})
    recipe: JSON = {
        "distill": run.settings.get("distill"),
        **_some(inside["distill"], run),
        **_some(inside["teacher"], run),
        "devices": run.devices,
        "finetune.init": done.get("init", run.settings.get("finetune.init")),
    }
    source = run.stages.get("pretrain", {}).get("source", "trained")
    recipe |= _some(inside["pretrain"], run) if source == "trained" else {"the dense network is": source}
    if run.stages and "finetune" not in run.stages:
        return {**recipe, "finetune": "none"}
    used = {f"finetune.{key}": value for key, value in (done.get("recipe") or {}).items()}
    recipe |= (
        {"finetune": "done"} | (used or _some(inside["finetune"], run)) | {"finetune.init": recipe["finetune.init"]}
    )
    if "finetune.epochs" not in recipe:
        recipe["finetune.epochs"] = run.results[run.final].get("epochs")
    return _with_effect(recipe)


def _some(keys: Sequence[str], run: Run) -> JSON:
    return {key: run.settings[key] for key in keys if key in run.settings}


def _with_effect(recipe: JSON) -> JSON:
    """The settings of a recipe without those that do nothing under its schedule."""
    for stage in ("pretrain", "finetune"):
        if recipe.get(f"{stage}.schedule") != "step":
            for key in OF_STEP_SCHEDULE:
                recipe.pop(f"{stage}.{key}", None)
    recipe.pop("finetune.scratch_budget", None)
    return recipe


def _measurement(run: Run) -> JSON:
    """What a run was measured on."""
    row = run.results[run.final]
    return {
        "latency on": row.get("latency_device"),
        "latency threads": row.get("latency_threads"),
        "latency batch": row.get("latency_batch"),
        "latency in": row.get("latency_runtime"),
        "images": run.fingerprint,
    }


def _unusual(runs: Sequence[Run], facts_of: Callable[[Run], JSON], same: Sequence[str]) -> list[list[str]]:
    """For every run, in which facts it is unlike most runs that have the same value of the settings `same`."""
    found: list[list[str]] = [[] for _ in runs]
    groups = group_by(range(len(runs)), lambda at: tuple(str(runs[at].settings.get(key)) for key in same))
    for members in groups.values():
        facts = [facts_of(runs[at]) for at in members]
        for key in keys_of(facts):
            for at, deviation in _deviations(key, [each.get(key, NOT_THERE) for each in facts]):
                found[members[at]].append(deviation)
    return found


def _deviations(key: str, values: Sequence[Any]) -> Iterator[tuple[int, str]]:
    """Of one fact the values that are not the most common one (of several the first), by their places; none of those
    that are unknown."""
    if values.count(values[0]) == len(values):
        return  # the usual case, and quick
    texts = [as_text.setting(value) if _is_known(key, value) else None for value in values]
    counts = Counter(text for text in texts if text is not None)
    if not counts:
        return
    (most, count), *_ = counts.most_common(1)
    total = counts.total()
    as_in = f"{count} of {total}" if total > 2 else "the other"
    for at, text in enumerate(texts):
        if text is not None and text != most:
            yield at, f"{key} {text}, not {most} as in {as_in}"


def _is_known(key: str, value: Any) -> bool:
    # distill is null where there is no distillation
    return value is not NOT_THERE and (value is not None or key == "distill")


def _summarised(deviations: Sequence[str]) -> list[str]:
    """One footnote of all deviations of a recipe."""
    if any(deviation.startswith("finetune none") for deviation in deviations):
        return ["not fine-tuned"]
    more = f"; and {len(deviations) - MAX_NAMED} more" if len(deviations) > MAX_NAMED else ""
    return ["; ".join(deviations[:MAX_NAMED]) + more] if deviations else []


def footnotes_of_group(runs: Sequence[Run], footnotes: Sequence[Sequence[str]], by: Sequence[str]) -> list[str]:
    """Of runs that make one row: their footnotes, and in what they differ besides the seed and `by`."""
    counts = Counter(footnote for each in footnotes for footnote in dict.fromkeys(each))
    found = [text if count == len(runs) else f"{count} of {len(runs)}: {text}" for text, count in counts.items()]
    for key in differing([run.settings for run in runs]):
        if key != "seed" and key not in by:
            values = sorted({as_text.setting(run.settings.get(key)) for run in runs})
            found.append(f"runs differ in {key} ({', '.join(values)})")
    if len({str(run.asked) for run in runs}) > 1:
        found.append(f"runs differ in the budget asked ({_budgets(runs)})")
    different = {str(sorted(run.settings.items(), key=str)) + str(run.control) for run in runs}
    if len(different) < len(runs):
        found.append(f"{len(runs)} runs, but {len(different)} different settings: the spread is not that of seeds")
    return found


def _budgets(runs: Sequence[Run]) -> str:
    asked = [f"{kind} {as_text.setting(value)}" for run in runs for kind, value in run.asked.items()]
    return ", ".join(dict.fromkeys(asked))
