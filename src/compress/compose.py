"""Hydra's side of the command: names of folders, the jobs of a sweep, and what is wrong with a command line."""

import difflib
import hashlib
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import omegaconf
from hydra import compose, initialize_config_dir
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra._internal.utils import get_args_parser
from hydra.core.config_loader import ConfigLoader
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, Sweep
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from compress.config import nearest
from compress.files import JSON, hash_of
from compress.paths import CONF

# Root keys that change where or how a run happens, not what comes out of it.
OUTSIDE_RESULTS = ("hydra", "device", "threads", "outputs", "force", "tensorboard", "plots")


def plain(config: DictConfig) -> JSON:
    """The config of a run as plain dicts, interpolations resolved, without Hydra's own node."""
    mine = OmegaConf.create({key: config._get_node(key) for key in config if key != "hydra"})
    content: Any = OmegaConf.to_container(mine, resolve=True)
    return content  # type: ignore[no-any-return]


def config_hash(config: JSON) -> str:
    """Of all that can change a result."""
    return hash_of({key: value for key, value in config.items() if key not in OUTSIDE_RESULTS})


def slug(text: str, limit: int = 100) -> str:
    """A folder name that no override can break: slashes, quotes and length are dealt with."""
    name = re.sub(r"[^\w.,=+-]+", "-", text.replace("'", "").replace('"', "")).strip("-.,") or "default"
    if len(name.encode()) > limit or name != text:
        name = name.encode()[: limit - 7].decode(errors="ignore").rstrip("-.,")
        name += "_" + hashlib.sha256(text.encode()).hexdigest()[:6]
    return name


def register_resolvers() -> None:
    """`${slug:...}` and `${confhash:}` for the names of sweep folders."""
    # omegaconf 2.4 renames the function; in 2.3 the new name is another, older one
    old = omegaconf.__version__.startswith("2.3")
    register: Callable[..., None] = OmegaConf.register_new_resolver if old else OmegaConf.register_resolver

    def of_root(*, _root_: DictConfig) -> str:
        return config_hash(plain(_root_))[:6]

    register("slug", lambda text: slug(str(text)), replace=True)
    register("confhash", of_root, replace=True)


# -- sweeps ----------------------------------------------------------------------------------------------------


def sweep_jobs(overrides: Sequence[str]) -> list[list[str]]:
    """The command lines of a sweep's jobs: ["a=1,2"] -> [["a=1"], ["a=2"]]."""
    parsed = OverridesParser.create().parse_overrides(list(overrides))
    batches = BasicSweeper.split_arguments(parsed, max_batch_size=None)
    return [list(job) for batch in batches for job in batch]


def sweep_problems(config: DictConfig, check: Callable[[JSON], list[str]]) -> list[str]:
    """What is wrong with the jobs of a sweep, each line behind the job it belongs to."""
    loader: ConfigLoader = GlobalHydra.instance().config_loader()
    jobs = sweep_jobs(config.hydra.overrides.task)
    lines = []
    for job in jobs:
        for problem in check(plain(loader.load_sweep_config(config, job))):
            lines.append(f"{' '.join(job)} -> {problem}")
    bad = {line.split(" -> ")[0] for line in lines}
    return [f"{len(bad)} of {len(jobs)} jobs are wrong; nothing was started", *lines] if lines else []


# -- a command line that does not compose ----------------------------------------------------------------------


def diagnose(argv: list[str], check: Callable[[JSON], list[str]]) -> list[str]:
    """Every mistake of a command line that Hydra refused, found by composing what is right of it."""
    args = get_args_parser().parse_args(argv)
    if args.config_dir and not os.path.isdir(args.config_dir):
        return [f"--config-dir {args.config_dir}: no such folder"]
    search = [f"hydra.searchpath=[file://{os.path.abspath(args.config_dir)}]"] if args.config_dir else []
    folders = [Path(args.config_dir)] if args.config_dir else []
    if os.environ.get("COMPRESS_CONF", "").startswith("file://"):
        folders.append(Path(os.environ["COMPRESS_CONF"].removeprefix("file://")))
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        problems: list[str] = []
        overrides = list(_readable(args.overrides, problems))
        groups = {group: loader.get_group_options(group) for group in loader.list_groups("") if group != "hydra"}
        for path in (path for folder in folders for path in sorted(folder.glob("*/*.yaml"))):
            groups[path.parent.name] = [*groups.get(path.parent.name, []), path.stem]
        choices, values = [], []
        for override in overrides:
            name = override.key_or_group
            if name in groups or override.package is not None:
                if _known_choice(override, groups, problems):
                    choices.append(override)
            else:
                values.append(override)
        try:
            base = compose(args.config_name or "config", [*search, *_first_jobs(choices)])
        except (HydraException, OmegaConfBaseException) as error:
            return problems or [_first_line(error)]
        known = [*_keys(plain_or_raw(base)), *groups]
        values = [override for override in values if _known_key(override, base, known, problems)]
        try:
            for job in sweep_jobs([str(o.input_line) for o in (*choices, *values)]) or [[]]:
                problems += check(plain(compose(args.config_name or "config", [*search, *job])))
        except (HydraException, OmegaConfBaseException) as error:
            problems.append(_first_line(error))
    return list(dict.fromkeys(problems))


def plain_or_raw(config: DictConfig) -> JSON:
    content: Any = OmegaConf.to_container(config, resolve=False)
    return content  # type: ignore[no-any-return]


def _readable(texts: Sequence[str], problems: list[str]) -> Iterator[Override]:
    for text in texts:
        try:
            yield OverridesParser.create().parse_override(text)
        except HydraException:
            problems.append(f"{text}: cannot be read; write key=value, and quote special characters")


def _options(override: Override) -> list[str]:
    """The choices that a group override names, more than one in a sweep."""
    value = override.value()
    return (
        [str(option) for option in value.list]
        if isinstance(value, Sweep) and hasattr(value, "list")
        else [str(value)]
    )


def _known_choice(override: Override, groups: Mapping[str, list[str]], problems: list[str]) -> bool:
    group = override.key_or_group
    there = groups.get(group, [])
    wrong = [option for option in _options(override) if option not in (*there, "None", "null")]
    for option in wrong:
        near = difflib.get_close_matches(option, there, 1, 0.6)
        hint = f"did you mean {near[0]}? " if near else ""
        problems.append(f"{group}={option}: unknown choice; {hint}choices: {', '.join(there)}")
    return not wrong


def _known_key(override: Override, base: DictConfig, known: list[str], problems: list[str]) -> bool:
    key = override.key_or_group
    if override.is_add() or override.is_delete() or override.is_force_add() or key.startswith("hydra."):
        return True
    try:
        there = OmegaConf.select(base, key, default=None, throw_on_missing=False) is not None or key in known
    except OmegaConfBaseException:
        there = False
    if not there:
        short = {name.rpartition(".")[2]: name for name in known}
        near = difflib.get_close_matches(key, known, 1, 0.6) or [
            short[name] for name in difflib.get_close_matches(key, short, 1, 0.6)
        ]
        hint = f"did you mean {near[0]}?" if near else nearest(key, [name for name in known if "." not in name])
        problems.append(f"unknown key {key}; {hint}")
    return there


def _first_jobs(overrides: Sequence[Override]) -> list[str]:
    jobs = sweep_jobs([str(override.input_line) for override in overrides])
    return jobs[0] if jobs else []


def _keys(node: Any, prefix: str = "") -> Iterator[str]:
    for key, value in node.items():
        if not str(key).startswith("_"):
            yield f"{prefix}{key}"
            if isinstance(value, dict):
                yield from _keys(value, f"{prefix}{key}.")


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]
