"""A composed config as plain data, and what composing a wrong one can raise."""

from typing import Any

import yaml
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from compress.errors import first_line
from compress.io.files import JSON

# What composing a wrong command line can raise; Hydra gives ValueError for a group set to nothing.
COMPOSING = (HydraException, OmegaConfBaseException, ValueError, yaml.YAMLError)


def told(error: Exception) -> str:
    """What an error of composing says, in one line; a YAML error says where in the next lines."""
    return " ".join(str(error).split()) if isinstance(error, yaml.YAMLError) else first_line(error)


def plain(config: DictConfig) -> JSON:
    """The config of a run as plain dicts, interpolations resolved, without Hydra's own node."""
    mine = OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])
    content: Any = OmegaConf.to_container(mine, resolve=True)
    return content  # type: ignore[no-any-return]


def raw(config: DictConfig) -> JSON:
    """The same as it is written, before any interpolation is resolved."""
    content: Any = OmegaConf.to_container(config, resolve=False)
    return content  # type: ignore[no-any-return]
