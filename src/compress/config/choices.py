"""The config groups, their choices, and what is wrong with a choice."""

import difflib
import os
from collections.abc import Mapping
from pathlib import Path

from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.types import ChoiceSweep, Glob, Override

# Launchers and sweepers that come with an extra of ours, or as a package of their own.
EXTRAS = {
    "joblib": "joblib comes with pip install 'compress-lab[joblib]'",
    "submitit_local": "submitit_local comes with pip install 'compress-lab[slurm]'",
    "submitit_slurm": "submitit_slurm comes with pip install 'compress-lab[slurm]'",
    "ray": "ray comes with pip install hydra-ray-launcher",
    "optuna": "optuna comes with pip install 'compress-lab[optuna]'",
}


def groups_of(loader: ConfigLoader, folder: str | None = None) -> dict[str, list[str]]:
    """The config groups and their choices, those in a folder of the user's too."""
    groups = {group: loader.get_group_options(group) for group in loader.list_groups("") if group != "hydra"}
    mine = [folder] if folder else []
    if os.environ.get("COMPRESS_CONF", "").startswith("file://"):
        mine.append(os.environ["COMPRESS_CONF"].removeprefix("file://"))
    for path in (path for one in mine for path in sorted(Path(one).glob("*/*.yaml"))):
        groups[path.parent.name] = sorted({*groups.get(path.parent.name, []), path.stem})
    return groups


def is_choice(override: Override, groups: Mapping[str, list[str]]) -> bool:
    return override.key_or_group in groups or override.package is not None


def known_choice(override: Override, groups: Mapping[str, list[str]], problems: list[str]) -> bool:
    group = override.key_or_group
    there = groups.get(group, [])
    if override.is_delete():
        problems.append(f"{override.input_line}: a run needs its groups; choices of {group}: {', '.join(there)}")
        return False
    name = f"{group}@{override.package}" if override.package else group
    wrong = [option for option in _options(override) if option not in there]
    for option in wrong:
        near = difflib.get_close_matches(option, there, 1, 0.6)
        hint = f"did you mean {near[0]}? " if near else ""
        extra = f"; {EXTRAS[option]}" if group.startswith("hydra/") and option in EXTRAS else ""
        problems.append(f"{name}={option}: unknown choice; {hint}choices: {', '.join(there)}{extra}")
    return not wrong


def _options(override: Override) -> list[str]:
    """The choices that a group override names, more than one in a sweep."""
    value = override.value()
    if isinstance(value, Glob):
        return []  # whatever matches is there
    options = value.list if isinstance(value, ChoiceSweep) else [value]
    return ["null" if option is None else str(option) for option in options]
