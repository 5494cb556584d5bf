"""The settings of a run, flat, as tables compare them.

"finetune.lr" -> 0.05. A group of the config stands under its own key with the name of the choice that was made,
"method" -> "slimming", and what is inside below it, "method.l1" -> 0.0001.
"""

from collections.abc import Mapping
from typing import Any

from compress.io.files import JSON
from compress.schema.settings import ADDED_LATER, OUTSIDE_RESULTS, RunSettings, of_results

Settings = Mapping[str, Any]

# What a setting inside a group cannot be called for short, also where the one at the root is left out: `stages`.
AT_ROOT = frozenset(RunSettings.__annotations__)

# Left out: where images lie, what is measured beside a run, and settings that only give other settings their values.
NOT_COMPARED = ("control", "control_draws", "dataset.root", "dataset.download", "method.run_stages")
SOURCES_OF_SETTINGS = ("method.default_budget.", "method.rules.", "method.quick.", "method.by_name.")


def settings_of(config: JSON) -> JSON:
    """The settings of a composed config that can change a result.

    >>> done = settings_of({"threads": 4, "method": {"name": "slimming", "_target_": "my.Slimming", "l1": 0.1}})
    >>> {key: value for key, value in done.items() if key.partition(".")[0] not in ADDED_LATER}
    {'method': 'slimming', 'method._target_': 'my.Slimming', 'method.l1': 0.1}
    """
    method = config.get("method") if isinstance(config.get("method"), dict) else {}
    kept = {
        key: of_results(value)
        for key, value in {**ADDED_LATER, **config}.items()
        if key not in OUTSIDE_RESULTS and not (isinstance(value, dict) and (method or {}).get(key) == value)
    }  # a group that the method repeats inside (its reward) is one of the method's settings
    if kept.get("stages") == (method or {}).get("run_stages"):
        kept.pop("stages", None)
    return {
        key: value
        for key, value in _flat_with_choices(kept).items()
        if key not in NOT_COMPARED and not key.startswith(SOURCES_OF_SETTINGS)
    }


def _flat_with_choices(node: JSON, prefix: str = "") -> JSON:
    """Dotted keys, choices under the key of their group: {"m": {"name": "amc", "x": 1}} -> {"m": "amc", "m.x": 1}."""
    found: JSON = {}
    for key, value in node.items():
        path = f"{prefix}{key}"
        if not isinstance(value, dict):
            found[path] = value
            continue
        inside = dict(value)
        target = str(inside.get("_target_", ""))
        unnamed = "" if target.startswith("compress.") else target.rpartition(".")[2]  # of ours, a part of another
        if choice := inside.pop("name", unnamed):
            found[path] = choice
        found |= _flat_with_choices(inside, f"{path}.")
    return found
