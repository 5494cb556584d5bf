"""Composed configs as plain data, and the exceptions of composing."""

import re
from typing import Any

import yaml
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from compress.errors import first_line
from compress.io.files import JSON

# What composing a wrong command line can raise. ValueError: a group set to `null`.
COMPOSE_ERRORS = (HydraException, OmegaConfBaseException, ValueError, yaml.YAMLError)


def compose_message(error: Exception) -> str:
    """The message of such an exception in one line: its first line, but all lines of a YAML error, as the later ones
    say where the mistake is."""
    if isinstance(error, yaml.YAMLError):
        return " ".join(str(error).split())
    line = first_line(error)
    absent = re.fullmatch(r"Could not override '(.+)'\.", line)
    return f"{absent[1]}: is no setting of the choices made here" if absent else line


def plain(config: DictConfig) -> JSON:
    """The config of a run as plain dicts, interpolations resolved, without the node `hydra`."""
    without_hydra = OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])
    content: Any = OmegaConf.to_container(without_hydra, resolve=True)
    return content  # type: ignore[no-any-return]


def raw(config: DictConfig) -> JSON:
    """A config as plain dicts as it is written: interpolations are not resolved, the node `hydra` is included."""
    content: Any = OmegaConf.to_container(config, resolve=False)
    return content  # type: ignore[no-any-return]
