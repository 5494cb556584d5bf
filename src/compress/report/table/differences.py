"""Which settings tell runs apart, and what to call them in a table.

Settings are flat: "finetune.lr" -> 0.05. A group of the config stands under its own key with the name of its choice,
"method" -> "slimming"; what is inside ("method.l1") matters only among runs of the same choice.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

from compress.io.files import JSON
from compress.schema.settings import BUDGETS, OUTSIDE_RESULTS

Settings = Mapping[str, Any]

# Where images lie, what stands beside a run, and tables that other settings are taken from.
NOT_COMPARED = ("control", "control_draws", "dataset.root", "dataset.download", "method.run_stages")
SINCE = {"devices": 1}  # what runs did before there was such a key
OFF = (None, False, 0, "off")
TABLES = ("method.default_budget.", "method.rules.", "method.quick.", "method.by_name.")


def settings_of(config: JSON) -> JSON:
    """The settings of a composed config that can change a result."""
    method = config.get("method") if isinstance(config.get("method"), dict) else {}
    kept = {
        key: value
        for key, value in {**SINCE, **config}.items()
        if key not in OUTSIDE_RESULTS and not (isinstance(value, dict) and (method or {}).get(key) == value)
    }  # a group that the method brings and reads (its reward) is one of the method's settings
    if kept.get("stages") == (method or {}).get("run_stages"):
        kept.pop("stages", None)
    settings = _flat(kept)
    return {key: value for key, value in settings.items() if key not in NOT_COMPARED and not key.startswith(TABLES)}


def _flat(node: JSON, prefix: str = "") -> JSON:
    """Dotted keys, choices under the key of their group: {"m": {"name": "amc", "x": 1}} -> {"m": "amc", "m.x": 1}."""
    found: JSON = {}
    for key, value in node.items():
        path = f"{prefix}{key}"
        if not isinstance(value, dict):
            found[path] = value
            continue
        inside = dict(value)
        target = str(inside.get("_target_", "")).rpartition(".")[2]
        if choice := inside.pop("name", target):
            found[path] = choice
        found |= _flat(inside, f"{path}.")
    return found


def prefixes(key: str) -> Iterator[str]:
    """The groups that a setting may lie in: "a.b.c" -> "a", "a.b"."""
    parts = key.split(".")
    return (".".join(parts[:n]) for n in range(1, len(parts)))


def differing(runs: Sequence[Settings]) -> list[str]:
    """Keys of the settings that differ, budgets left out: groups first, the seed last.

    A setting inside a group counts only where runs of the same choice differ in it; one that always moves together
    with a setting of the same name further up (a recipe that is copied from another) does not count again.
    """
    keys = list(dict.fromkeys(key for run in runs for key in run))
    known = set(keys)
    found = [key for key in keys if key not in BUDGETS and _differs(key, runs, known)]
    found = [key for key in found if not any(_copies(key, other, runs) for other in found)]
    choices = {group for key in keys for group in prefixes(key)}
    return sorted(found, key=lambda key: (key == "seed", key not in choices))


def _differs(key: str, runs: Sequence[Settings], known: Collection[str]) -> bool:
    value = runs[0].get(key)
    if all(run.get(key) == value for run in runs):
        return False
    groups = [group for group in prefixes(key) if group in known]
    mates: dict[tuple[str, ...], list[Settings]] = {}
    for run in runs:
        mates.setdefault(tuple(str(run.get(group)) for group in groups), []).append(run)
    return any(_disagree(key, each) for each in mates.values())


def _disagree(key: str, runs: Sequence[Settings]) -> bool:
    """A run from before there was such a setting did what those do that have it off."""
    values = [run[key] for run in runs if key in run]
    lacking = len(values) < len(runs)
    return bool(values) and (any(value != values[0] for value in values) or (lacking and values[0] not in OFF))


def _copies(key: str, other: str, runs: Sequence[Settings]) -> bool:
    """Whether `key` says nothing that `other`, of the same name and less deep, does not say."""
    deeper = key.count(".") > other.count(".") and key.rpartition(".")[2] == other.rpartition(".")[2]
    return deeper and all(run[key] == run.get(other) for run in runs if key in run)


def short_names(keys: Iterable[str], known: Iterable[str], taken: Collection[str] = ()) -> dict[str, str]:
    """The shortest ending of each key that no other known key has: "method.l1" -> "l1", "finetune.lr" as it is.

    One that is `taken` even so stands as "config.n".
    """
    endings = Counter(ending for key in set(known) for ending in _endings(key))
    return {
        key: next(
            (e for e in _endings(key) if endings[e] == 1 and e not in taken),
            f"config.{key}" if key in taken else key,
        )
        for key in keys
    }  # fmt: skip


def _endings(key: str) -> list[str]:
    """Shortest first: "a.b.c" -> "c", "b.c", "a.b.c"."""
    parts = key.split(".")
    return [".".join(parts[start:]) for start in range(len(parts) - 1, -1, -1)]


def one_line(text: str) -> str:
    return " ".join(text.splitlines())


def setting_text(value: Any) -> str:
    """A setting as it is written on the command line."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return f"[{','.join(setting_text(item) for item in value)}]"
    return f"{value:g}" if isinstance(value, float) else str(value)
