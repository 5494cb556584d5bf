"""Configuration differences: the settings that tell runs apart, and short names for them.

A setting is listed where runs disagree in it. Four things keep the list short:

1. Where runs made different choices (another method), the choice says it. Settings inside a group, here `method.l1`,
   count only among runs that made the same choice:

   >>> slimming, amc = {"method": "slimming", "method.l1": 0.1}, {"method": "amc", "method.round_to": 8}
   >>> differing([slimming, amc])
   ['method']
   >>> differing([slimming, {**slimming, "method.l1": 0.2}, amc])
   ['method', 'method.l1']

2. Some recipes take their values from another one. A setting that always equals one of the same name further up is a
   copy and does not count again:

   >>> runs = [{"pretrain.lr": lr, "method.training.lr": lr} for lr in (0.1, 0.2)]
   >>> differing(runs)
   ['pretrain.lr']
   >>> differing([*runs, {"pretrain.lr": 0.1, "method.training.lr": 0.2}])
   ['pretrain.lr', 'method.training.lr']

3. A dataset brings its recipe, and `quick` shortens it. What is inside a group counts only among runs of the same:

   >>> runs = [{"dataset": name, "pretrain.lr": lr} for name, lr in (("digits", 0.1), ("cifar10", 0.2))]
   >>> differing(runs)
   ['dataset']
   >>> differing([*runs, {"dataset": "digits", "pretrain.lr": 0.3}])
   ['dataset', 'pretrain.lr']

4. Runs of an older version lack a setting that was added since. They count as runs that have it off:

   >>> differing([{"seed": 0}, {"seed": 0, "finetune.clip_norm": None}])
   []
   >>> differing([{"seed": 0}, {"seed": 0, "finetune.clip_norm": 1.0}])
   ['finetune.clip_norm']
"""

from collections import Counter
from collections.abc import Collection, Iterable, Sequence

from compress.report.group_by import group_by
from compress.report.read.settings import Settings
from compress.schema.settings import BUDGETS

SETS_OTHERS = ("dataset", "quick")  # choices that set values inside of groups
OFF = (None, False, 0, "off")  # what a setting is where it does nothing


def differing(runs: Sequence[Settings]) -> list[str]:
    """The settings in which runs differ, without the budgets: choices first, the seed last."""
    keys = keys_of(runs)
    found = [key for key in keys if key not in BUDGETS and _differs(key, runs)]
    found = [key for key in found if not any(_copies(key, other, runs) for other in found)]
    choices = {group for key in keys for group in enclosing_groups(key)}
    return sorted(found, key=lambda key: (key == "seed", key not in choices))


def keys_of(runs: Iterable[Settings]) -> list[str]:
    """Every key that some run has, in the order in which they come."""
    shapes = dict.fromkeys(tuple(run) for run in runs)  # few, however many runs
    return list(dict.fromkeys(key for shape in shapes for key in shape))


def enclosing_groups(key: str) -> list[str]:
    """The groups that a setting may lie in: "a.b.c" -> "a", "a.b"."""
    parts = key.split(".")
    return [".".join(parts[:count]) for count in range(1, len(parts))]


def choices_around(key: str, settings: Settings) -> tuple[str, ...]:
    """What a run chose for the groups that a setting may lie in, and for what sets values in all of them: a setting
    compares only where these are the same."""
    groups = enclosing_groups(key)
    return tuple(str(settings.get(group)) for group in ([*groups, *SETS_OTHERS] if groups else []))


def _differs(key: str, runs: Sequence[Settings]) -> bool:
    """Whether runs of the same choices disagree in a setting."""
    values = [run.get(key) for run in runs]
    if values.count(values[0]) == len(values):
        return False  # the usual case, and quick
    return any(_disagree(key, group) for group in group_by(runs, lambda run: choices_around(key, run)).values())


def _disagree(key: str, runs: Sequence[Settings]) -> bool:
    values = [run[key] for run in runs if key in run]
    some_lack_it = len(values) < len(runs)
    return bool(values) and (any(value != values[0] for value in values) or (some_lack_it and values[0] not in OFF))


def _copies(key: str, other: str, runs: Sequence[Settings]) -> bool:
    """Whether `key` only repeats `other`, which has the same last part and lies less deep."""
    deeper = key.count(".") > other.count(".") and key.rpartition(".")[2] == other.rpartition(".")[2]
    return deeper and all(run[key] == run.get(other) for run in runs if key in run)


def short_keys(keys: Iterable[str], known: Iterable[str], taken: Collection[str] = ()) -> dict[str, str]:
    """The shortest ending of each key that no other known key has and that is not `taken`, else the key itself.

    A key that is itself `taken` becomes "config.<key>".

    >>> short_keys(["method.l1", "finetune.lr"], known=["method.l1", "finetune.lr", "pretrain.lr"])
    {'method.l1': 'l1', 'finetune.lr': 'finetune.lr'}
    """
    having = Counter(ending for key in set(known) for ending in endings(key))
    return {
        key: next(
            (ending for ending in endings(key) if having[ending] == 1 and ending not in taken),
            f"config.{key}" if key in taken else key,
        )
        for key in keys
    }


def endings(key: str) -> list[str]:
    """Shortest first: "a.b.c" -> "c", "b.c", "a.b.c"."""
    parts = key.split(".")
    return [".".join(parts[start:]) for start in range(len(parts) - 1, -1, -1)]
