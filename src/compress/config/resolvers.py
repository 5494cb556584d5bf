"""The OmegaConf resolvers that conf/ uses, for names of job folders and for values that depend on other settings."""

import hashlib
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields
from typing import Any

import omegaconf
from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, OmegaConf

from compress.config.compose import plain
from compress.config.image_folder import by_images, image_side
from compress.run.folder import config_hash
from compress.schema.settings import BUDGETS, Recipe

# Overrides that come first in the name of a job's folder.
FIRST_IN_NAME = (
    "method", *BUDGETS, "seed", "model", "dataset", "teacher", "distill", "reward", "search", "scorer",
    "criterion", "control", "experiment",
)  # fmt: skip


def slug(text: str, limit: int = 100) -> str:
    """A valid folder name for any text: without slashes and quotes, and at most `limit` bytes long. A name that
    differs from the text ends in a hash of it, so that different texts have different names."""
    name = re.sub(r"[^\w.,=+-]+", "-", text.replace("'", "").replace('"', "")).strip("-.,") or "default"
    if len(name.encode()) > limit or name != text:
        name = name.encode()[: limit - 7].decode(errors="ignore").rstrip("-.,")
        name += "_" + hashlib.sha256(text.encode()).hexdigest()[:6]
    return name


def job_name(*, _root_: DictConfig) -> str:
    """The name of a job, made from its overrides; the most important ones first, as a long name is cut."""
    excluded = set(_root_.hydra.job.config.override_dirname.exclude_keys)  # and what stands below them: tracker.uri
    asked = {text.partition("=")[0]: text for text in _root_.hydra.overrides.task}
    kept = {key for key in asked if key.lstrip("+~").partition(".")[0] not in excluded}
    return slug(",".join(asked[key] for key in sort_for_name(kept)))


def sort_for_name(keys: Iterable[str]) -> list[str]:
    """Keys in the order in which they are named: those of `FIRST_IN_NAME`, then the others by alphabet."""
    order = {key: at for at, key in enumerate(FIRST_IN_NAME)}
    return sorted(keys, key=lambda key: (order.get(key, len(order)), key))


def rule(name: str, otherwise: Any = None, *, _root_: DictConfig) -> Any:
    """The value of the setting `name` in the method's table `rules`, whose columns are the values of `compat`;
    `otherwise` if it is not there. With `quick=true` the method's table `quick` comes first.

    For an unknown `compat` the first column is used, so that the config composes; `compress.config.rules` then
    reports the mistake.
    """
    method = _root_.get("method") or {}
    quick = (method.get("quick") or {}) if _root_.get("quick") else {}
    if name in quick:
        return quick[name]
    columns = method.get("rules") or {}
    column: Mapping[str, Any] = columns.get(str(method.get("compat"))) or next(iter(columns.values()), {})
    return column.get(name, otherwise)


def distill_name(*, _root_: DictConfig) -> str:
    """What a distillation is called in tables: the names of its terms, of one choice or of a list of them."""
    return "+".join((_root_.get("distill") or {}).get("terms") or {})


def pick(table: Mapping[str, Any], *words: Any) -> Any:
    """Look words up in a table whose keys are prefixes: pick({"res": 1, "other": 0}, "resnet20") is 1.

    The first word that begins with a key decides, by the longest such key; without any, the key `other`.
    """
    for word in map(str, words):
        keys = [str(key) for key in table if word.startswith(str(key))]
        if keys:
            return table[max(keys, key=len)]
    return table["other"]


def of_folder(key: str, *, _root_: DictConfig) -> Any:
    """The value of `dataset.by_images.<key>` for the folder `dataset.root`."""
    table = OmegaConf.to_container(OmegaConf.select(_root_, f"dataset.by_images.{key}"))
    assert isinstance(table, dict)
    return by_images(_folder(_root_), {str(bound): value for bound, value in table.items()})


def side_of_folder(most: int, *, _root_: DictConfig) -> int:
    """The side of a crop for the images of the folder `dataset.root`, at most `most` pixels."""
    return image_side(_folder(_root_), most)


def _folder(config: DictConfig) -> str | None:
    """`dataset.root`; None while it is not given."""
    dataset = config.get("dataset")
    return None if dataset is None or OmegaConf.is_missing(dataset, "root") else str(dataset.get("root"))


def register_recipes() -> None:
    """Add the config groups behind `recipe@training: pretrain` in the defaults list of a method. The method gets a
    recipe `training`, whose settings are those of `pretrain` unless the YAML or the command line sets them."""
    store = ConfigStore.instance()
    for stage in ("pretrain", "finetune"):
        settings = {field.name: f"${{{stage}.{field.name}}}" for field in fields(Recipe)}
        node = {"_target_": f"{Recipe.__module__}.{Recipe.__qualname__}", **settings}
        store.store(stage, node, group="method/recipe", provider="compress")


def register_resolvers() -> None:
    """Register the recipes and the resolvers: `${job_name:}` and `${confhash:}` for names of job folders,
    `${rule:...}` for values that depend on `compat`, `${pick:...}` for values that depend on the network or
    dataset, `${by_images:...}` and `${image_side:...}` for those that depend on a folder of images,
    `${distill_name:}`."""
    register_recipes()
    # OmegaConf 2.4 renames `register_new_resolver` to `register_resolver`; 2.3 has an older, different function of
    # that name.
    old = omegaconf.__version__.startswith("2.3")
    register: Callable[..., None] = OmegaConf.register_new_resolver if old else OmegaConf.register_resolver

    def short_config_hash(*, _root_: DictConfig) -> str:
        return config_hash(plain(_root_))[:6]

    register("job_name", job_name, replace=True)
    register("confhash", short_config_hash, replace=True)
    register("distill_name", distill_name, replace=True)
    register("rule", rule, replace=True)
    register("pick", pick, replace=True)
    register("by_images", of_folder, replace=True)
    register("image_side", side_of_folder, replace=True)
