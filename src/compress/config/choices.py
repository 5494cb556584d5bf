"""The config groups, their choices, and error messages for unknown choices."""

import difflib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.types import ChoiceSweep, Glob, Override
from omegaconf import OmegaConf

from compress.io.paths import CONF

# How to install the launchers and sweepers that are not part of Hydra.
INSTALL_HINTS = {
    "joblib": "joblib comes with pip install 'compress-lab[joblib]'",
    "submitit_local": "submitit_local comes with pip install 'compress-lab[slurm]'",
    "submitit_slurm": "submitit_slurm comes with pip install 'compress-lab[slurm]'",
    "ray": "ray comes with pip install hydra-ray-launcher",
    "optuna": "optuna comes with pip install 'compress-lab[optuna]'",
}
# The group whose choices may stand in folders: experiment=notes/amc. In other groups such files are parts of choices.
FOLDERS_IN = "experiment"


def shipped_choices(group: str) -> list[str]:
    """The names of a group's choices that ship with the package, without a loader of Hydra."""
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


def shipped_node(group: str, name: str) -> Any:
    """The settings in the file of a choice that ships with the package, as they are written."""
    return OmegaConf.to_container(OmegaConf.load(CONF / group / f"{name}.yaml"))


def choices_by_group(loader: ConfigLoader, folder: str | None = None) -> dict[str, list[str]]:
    """The names of all choices of every config group, including those in the user's config folders: `folder` and
    COMPRESS_CONF."""
    groups = {group: _choices_of(loader, group) for group in loader.list_groups("") if group != "hydra"}
    user_folders = [Path(folder)] if folder else []
    if os.environ.get("COMPRESS_CONF", "").startswith("file://"):
        user_folders.append(Path(os.environ["COMPRESS_CONF"].removeprefix("file://")))
    for user_folder in user_folders:
        for path in sorted({*user_folder.glob("*/*.yaml"), *user_folder.glob(f"{FOLDERS_IN}/*/**/*.yaml")}):
            group, *name = path.relative_to(user_folder).with_suffix("").parts
            groups[group] = sorted({*groups.get(group, []), "/".join(name)})
    return groups


def _choices_of(loader: ConfigLoader, group: str) -> list[str]:
    """The names of a group's choices, those in folders of its folder included where it is `FOLDERS_IN`."""
    names = loader.get_group_options(group)
    if group.partition("/")[0] == FOLDERS_IN:
        for folder in loader.list_groups(group):
            names = [*names, *(f"{folder}/{name}" for name in _choices_of(loader, f"{group}/{folder}"))]
    return names


def is_group_override(override: Override, groups: Mapping[str, list[str]]) -> bool:
    """Whether an override selects a choice of a group (`model=resnet20`) instead of setting a value (`seed=1`)."""
    return override.key_or_group in groups or override.package is not None


def check_choice(override: Override, groups: Mapping[str, list[str]], problems: list[str]) -> bool:
    """Whether the choices that an override selects exist; if not, messages are added to `problems`."""
    group = override.key_or_group
    known = groups.get(group, [])
    if override.is_delete():
        problems.append(f"{override.input_line}: a run needs its groups; choices of {group}: {', '.join(known)}")
        return False
    name = f"{group}@{override.package}" if override.package else group
    unknown = [option for option in _options(override) if option not in known]
    for option in unknown:
        near = difflib.get_close_matches(option, known, 1, 0.6)
        hint = f"did you mean {near[0]}? " if near else ""
        extra = f"; {INSTALL_HINTS[option]}" if group.startswith("hydra/") and option in INSTALL_HINTS else ""
        problems.append(f"{name}={option}: unknown choice; {hint}choices: {', '.join(known)}{extra}")
    return not unknown


def _options(override: Override) -> list[str]:
    """The choices that a group override selects; several in a sweep, or in a list that adds them up."""
    value = override.value()
    if isinstance(value, Glob):
        return []  # a pattern matches existing choices only
    options = value.list if isinstance(value, ChoiceSweep) else [value]
    names = [name for option in options for name in (option if isinstance(option, list) else [option])]
    return ["null" if name is None else str(name) for name in names]
