"""The resolvers that conf/ is written with: names of sweep folders, and values that other settings decide."""

import hashlib
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields
from typing import Any

import omegaconf
from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, OmegaConf

from compress.config.compose import plain
from compress.run.folder import config_hash
from compress.schema.settings import BUDGETS, Recipe

# Overrides that stand first in the name of a sweep's folder.
TELLING = (
    "method",
    *BUDGETS,
    "seed",
    "model",
    "dataset",
    "teacher",
    "distill",
    "reward",
    "search",
    "scorer",
    "control",
    "experiment",
)


def slug(text: str, limit: int = 100) -> str:
    """A folder name that no override can break: slashes, quotes and length are dealt with."""
    name = re.sub(r"[^\w.,=+-]+", "-", text.replace("'", "").replace('"', "")).strip("-.,") or "default"
    if len(name.encode()) > limit or name != text:
        name = name.encode()[: limit - 7].decode(errors="ignore").rstrip("-.,")
        name += "_" + hashlib.sha256(text.encode()).hexdigest()[:6]
    return name


def job_name(*, _root_: DictConfig) -> str:
    """What a job is called by: its overrides, those that say most first, since a long name is cut short."""
    excluded = _root_.hydra.job.config.override_dirname.exclude_keys
    asked = {text.partition("=")[0]: text for text in _root_.hydra.overrides.task}
    return slug(",".join(asked[key] for key in telling_first(asked.keys() - set(excluded))))


def telling_first(keys: Iterable[str]) -> list[str]:
    order = {key: at for at, key in enumerate(TELLING)}
    return sorted(keys, key=lambda key: (order.get(key, len(order)), key))


def rule(name: str, otherwise: Any = None, *, _root_: DictConfig) -> Any:
    """What the method's `compat` says of `name`, from its table of `rules`; with `quick=true` from `quick` first.

    A `compat` that is not in the table takes the first column: `compress.config.rules` then tells of it.
    """
    method = _root_.get("method") or {}
    quick = (method.get("quick") or {}) if _root_.get("quick") else {}
    if name in quick:
        return quick[name]
    columns = method.get("rules") or {}
    column: Mapping[str, Any] = columns.get(str(method.get("compat"))) or next(iter(columns.values()), {})
    return column.get(name, otherwise)


def pick(table: Mapping[str, Any], *words: Any) -> Any:
    """The value of the first word that begins with a key of `table` (the longest such key), else that of `other`."""
    for word in map(str, words):
        keys = [str(key) for key in table if word.startswith(str(key))]
        if keys:
            return table[max(keys, key=len)]
    return table["other"]


def register_recipes() -> None:
    """`recipe@training: pretrain` among the defaults of a method: a recipe of its own that follows that of pretrain,
    setting by setting, but for what the method's YAML or the command line says."""
    store = ConfigStore.instance()
    for stage in ("pretrain", "finetune"):
        settings = {field.name: f"${{{stage}.{field.name}}}" for field in fields(Recipe)}
        node = {"_target_": f"{Recipe.__module__}.{Recipe.__qualname__}", **settings}
        store.store(stage, node, group="method/recipe", provider="compress")


def register_resolvers() -> None:
    """`${job_name:}` and `${confhash:}` for the names of sweep folders, `${rule:...}` for what `compat` decides,
    `${pick:...}` for what depends on the kind of network or dataset; and recipes that follow others."""
    register_recipes()
    # omegaconf 2.4 renames the function; in 2.3 the new name is another, older one
    old = omegaconf.__version__.startswith("2.3")
    register: Callable[..., None] = OmegaConf.register_new_resolver if old else OmegaConf.register_resolver

    def of_root(*, _root_: DictConfig) -> str:
        return config_hash(plain(_root_))[:6]

    register("job_name", job_name, replace=True)
    register("confhash", of_root, replace=True)
    register("rule", rule, replace=True)
    register("pick", pick, replace=True)
