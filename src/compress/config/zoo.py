"""The networks of the zoo by name, for use from Python: as `model=<name>` composes them, without a run."""

from typing import Any

from compress.config.choices import shipped_choices, shipped_node
from compress.config.rules import check_network
from compress.errors import InputError, nearest
from compress.models.spec import ModelSpec


def zoo_names() -> list[str]:
    return shipped_choices("model")


def zoo_spec(name: str, shape: tuple[int, int, int], classes: int, **settings: Any) -> ModelSpec:
    """The network of conf/model/<name>.yaml for images of `shape` (C, H, W); `settings` replace values of the file.

    Raises:
        InputError: no such network, or unknown or invalid settings.
    """
    if name not in zoo_names():
        raise InputError(f"{name}: not a network of the zoo; {nearest(name, zoo_names())}")
    node = shipped_node("model", name)
    problems = check_network("", node | settings)
    if problems:
        raise InputError(*problems)
    node |= settings
    args = {key: value for key, value in node.items() if key not in ("name", "_target_", "checkpoint")}
    return ModelSpec(node["_target_"], args, shape, classes, node["checkpoint"])
