"""Hydra's side of the command: names of folders, the jobs of a sweep, and what is wrong with a command line."""

import difflib
import hashlib
import itertools
import logging
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import omegaconf
import yaml
from hydra import compose, initialize_config_dir
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra._internal.utils import get_args_parser
from hydra.core.config_loader import ConfigLoader
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, Glob, Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from compress.config.rules import check_root
from compress.errors import first_line, nearest
from compress.io.files import JSON, hash_of, read_json
from compress.io.paths import AGENT, CONF, LOCK, METRICS, MODEL, ONNX, PLAN, SPLIT, SUMMARY
from compress.run.sweep_jobs import SweepJob
from compress.schema.settings import BUDGETS, OUTSIDE_RESULTS, Recipe

log = logging.getLogger(__name__)

# What composing a wrong command line can raise; Hydra gives ValueError for a group set to nothing.
COMPOSING = (HydraException, OmegaConfBaseException, ValueError, yaml.YAMLError)
KEPT_IN_PLACE = (".hydra", LOCK, "compress.log")
# What may stand in a run's folder before it has a summary.
OF_A_RUN = (*KEPT_IN_PLACE, METRICS, PLAN, MODEL, AGENT, ONNX, SPLIT, "tb", "plots", "controls", "damaged")
# Launchers that come with an extra of ours, or as a package of their own.
EXTRAS = {
    "joblib": "joblib comes with pip install 'compress-lab[joblib]'",
    "submitit_local": "submitit_local comes with pip install 'compress-lab[slurm]'",
    "submitit_slurm": "submitit_slurm comes with pip install 'compress-lab[slurm]'",
    "ray": "ray comes with pip install hydra-ray-launcher",
}
ONLY_WHEN_RUN = ("${now", "${hydra.job.id", "${hydra.runtime")  # of a job; launchers set these as they like
# Overrides that stand first in the name of a sweep's folder.
TELLING = ("method", *BUDGETS, "seed", "model", "dataset", "teacher", "distill", "reward", "control", "experiment")


def told(error: Exception) -> str:
    """What an error of composing says, in one line; a YAML error says where in the next lines."""
    return " ".join(str(error).split()) if isinstance(error, yaml.YAMLError) else first_line(error)


def plain(config: DictConfig) -> JSON:
    """The config of a run as plain dicts, interpolations resolved, without Hydra's own node."""
    mine = OmegaConf.create({key: config._get_node(key) for key in config if key != "hydra"})
    content: Any = OmegaConf.to_container(mine, resolve=True)
    return content  # type: ignore[no-any-return]


def config_hash(config: JSON) -> str:
    """Of all that can change a result, as it is asked for: how many devices a launcher adds is in the keys of stages.

    With one device it is what it was before there could be several.
    """
    outside = {*OUTSIDE_RESULTS, "devices"} if config.get("devices") == 1 else OUTSIDE_RESULTS
    return hash_of({key: value for key, value in config.items() if key not in outside})


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
    return slug(",".join(asked[key] for key in _telling_first(asked.keys() - set(excluded))))


def _telling_first(keys: Iterable[str]) -> list[str]:
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


def register_recipes() -> None:
    """`recipe@training: pretrain` among the defaults of a method: a recipe of its own that follows that of pretrain,
    setting by setting, but for what the method's YAML or the command line says."""
    store = ConfigStore.instance()
    for stage in ("pretrain", "finetune"):
        settings = {field.name: f"${{{stage}.{field.name}}}" for field in fields(Recipe)}
        node = {"_target_": f"{Recipe.__module__}.{Recipe.__qualname__}", **settings}
        store.store(stage, node, group="method/recipe", provider="compress")


def foreign_run(folder: Path, config: JSON, devices: int | None = None, key: str = "hydra.run.dir") -> list[str]:
    """Refuse to write over a run of another config, or over a finished one of another number of devices, if known.

    `key` is where another folder can be asked for.
    """
    if not os.path.lexists(folder / SUMMARY):
        others = sorted(name for name in _entries(folder) if name not in OF_A_RUN and name[0] != ".")
        what = f"holds other things than a run ({', '.join(others[:3])}{', ...' if len(others) > 3 else ''})"
        return [f"{folder}: {what}; choose another {key}"] if others else []
    try:
        before = read_json(folder / SUMMARY)
        same, old = before["config_hash"] == config_hash(config), _flat(before["config"])
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return []  # damaged: `put_run_aside` makes room before anything is written
    new = _flat(config)
    differ = [f"{key}: {old.get(key)} -> {new.get(key)}" for key in {**old, **new} if old.get(key) != new.get(key)]
    what = f"of another config ({'; '.join(differ[:4])})"
    if same and devices is not None and before.get("status") == "done" and before.get("devices", 1) != devices:
        same, what = False, f"that was trained on {before.get('devices', 1)} devices, not on {devices}"
    return [] if same else [f"{folder}: holds a run {what}; choose another {key}"]


def _entries(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:
        return []


def put_run_aside(folder: Path) -> None:
    """Make room where a run's summary is damaged: all that the run left goes into a folder of its own."""
    try:
        summary = (
            read_json(folder / SUMMARY) if os.path.lexists(folder / SUMMARY) else {"config": {}, "config_hash": ""}
        )
        is_whole = isinstance(summary["config"], dict) and isinstance(summary["config_hash"], str)
    except (OSError, ValueError, TypeError, KeyError):
        is_whole = False
    if is_whole:
        return
    aside = next(path for n in itertools.count() if not os.path.lexists(path := folder / f"damaged{n or ''}"))
    aside.mkdir()
    for name in _entries(folder):
        if name not in (*KEPT_IN_PLACE, aside.name) and not name.startswith("damaged"):
            (folder / name).rename(aside / name)
    log.warning("%s: its %s is damaged; what it held is put aside as %s", folder, SUMMARY, aside.name)


def _flat(config: JSON, prefix: str = "") -> JSON:
    flat: JSON = {}
    for key, value in config.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat


# -- sweeps ----------------------------------------------------------------------------------------------------


def sweep_jobs(overrides: Sequence[str], loader: ConfigLoader | None = None) -> list[list[str]]:
    """The command lines of a sweep's jobs: ["a=1,2"] -> [["a=1"], ["a=2"]]; globs need the loader of configs."""
    parsed = OverridesParser.create(config_loader=loader).parse_overrides(list(overrides))
    batches = BasicSweeper.split_arguments(parsed, max_batch_size=None)
    return [list(job) for batch in batches for job in batch]


def look_at_sweep(config: DictConfig, check: Callable[[JSON], list[str]]) -> tuple[list[SweepJob], list[str]]:
    """The jobs of a sweep, and what is wrong with them, each line behind the job it belongs to."""
    loader: ConfigLoader = GlobalHydra.instance().config_loader()
    groups = _groups(loader)
    jobs = sweep_jobs(config.hydra.overrides.task, loader)
    if not jobs:
        return [], [f"{' '.join(config.hydra.overrides.task)}: this sweep has no job"]
    if unknown := [word for word in ONLY_WHEN_RUN if word in raw(config.hydra.sweep)["subdir"]]:
        return [], [_unknown_folder(config, f"{unknown[0]}...}} is another in every launch")]
    sweep_dir = str(config.hydra.sweep.dir)  # read once: one that is made of the time is then the same for all jobs
    found: list[SweepJob] = []
    lines = []
    for number, (job, changed) in enumerate(zip(jobs, _changed(jobs), strict=True)):
        problems: list[str] = []
        parsed = OverridesParser.create().parse_overrides(job)
        for override in parsed:
            if _is_choice(override, groups):
                _known_choice(override, groups, problems)
        if not problems:
            try:
                composed = loader.load_sweep_config(config, job)
                with open_dict(composed):
                    composed.hydra.job.num = composed.hydra.job.id = number  # some name folders by them
                mine = plain(composed)
                try:
                    folder = Path(sweep_dir) / composed.hydra.sweep.subdir
                except OmegaConfBaseException as error:
                    return [], [_unknown_folder(composed, told(error))]
                problems += check(mine) + foreign_run(folder, mine, key="hydra.sweep.dir")
                found.append(SweepJob(folder, changed, config_hash(mine)))
            except COMPOSING as error:
                problems.append(told(error))
        lines += [f"{' '.join(job)} -> {problem}" for problem in problems]
    bad = {line.split(" -> ")[0] for line in lines}
    count = Counter(job.folder for job in found)
    shared = [f"hydra.sweep.subdir: {n} jobs would share the folder {path}" for path, n in count.items() if n > 1]
    head = [f"{len(bad)} of {len(jobs)} jobs are wrong; nothing was started"] if bad else []
    return found, [*head, *lines, *shared]


def _changed(jobs: Sequence[Sequence[str]]) -> list[dict[str, str]]:
    """The overrides in which each job differs from others."""
    written = [dict(text.partition("=")[::2] for text in job) for job in jobs]
    differing = [key for key in written[0] if len({job.get(key) for job in written}) > 1]
    differing = differing or _telling_first(written[0])[:1]
    return [{key: asked.get(key, "") for key in differing} for asked in written]


def _unknown_folder(config: DictConfig, why: str) -> str:
    return (
        f"hydra.sweep.subdir={raw(config.hydra.sweep)['subdir']}: {why}; the folder of a job must be known before it "
        "runs, so that the same command finds it again: leave it out, or name it by ${hydra.job.num} or a setting"
    )


# -- a command line that does not compose ----------------------------------------------------------------------


def diagnose(argv: list[str], check: Callable[[JSON], list[str]]) -> list[str]:
    """Every mistake of a command line that Hydra refused, found by composing what is right of it."""
    args = get_args_parser().parse_args(argv)
    name = args.config_name or "config"
    search = [f"hydra.searchpath=[file://{os.path.abspath(args.config_dir)}]"] if args.config_dir else []
    problems: list[str] = []
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        groups = _groups(loader, args.config_dir)
        choices, values = [], []
        for override in _readable(args.overrides, bool(args.multirun), problems):
            if override.key_or_group.startswith("hydra/"):
                groups[override.key_or_group] = loader.get_group_options(override.key_or_group)
            if not _is_choice(override, groups):
                values.append(override)
            elif _known_choice(override, groups, problems):
                choices.append(override)
        try:
            base = compose(name, [*search, *_first_job(choices)])
        except COMPOSING as error:
            return problems or [told(error)]
        known = [*_keys(raw(base)), *groups]
        right = [*choices]
        for override in values:
            if _known_key(override, base, known, problems):
                try:  # one at a time: Hydra names only the first that it does not like
                    compose(name, [*search, *_first_job([*choices, override])])
                    right.append(override)
                except COMPOSING as error:
                    problems.append(f"{override.input_line}: {told(error)}")
        if problems:  # torch is not waited for: what it takes to know more than these
            check = check_root
        try:
            for job in sweep_jobs([str(override.input_line) for override in right]) or [[]]:
                problems += check(plain(compose(name, [*search, *job])))
        except COMPOSING as error:
            problems.append(told(error))
    return list(dict.fromkeys(problems))


def _groups(loader: ConfigLoader, folder: str | None = None) -> dict[str, list[str]]:
    """The config groups and their choices, those in a folder of the user's too."""
    groups = {group: loader.get_group_options(group) for group in loader.list_groups("") if group != "hydra"}
    mine = [folder] if folder else []
    if os.environ.get("COMPRESS_CONF", "").startswith("file://"):
        mine.append(os.environ["COMPRESS_CONF"].removeprefix("file://"))
    for path in (path for one in mine for path in sorted(Path(one).glob("*/*.yaml"))):
        groups[path.parent.name] = sorted({*groups.get(path.parent.name, []), path.stem})
    return groups


def _is_choice(override: Override, groups: Mapping[str, list[str]]) -> bool:
    return override.key_or_group in groups or override.package is not None


def raw(config: DictConfig) -> JSON:
    content: Any = OmegaConf.to_container(config, resolve=False)
    return content  # type: ignore[no-any-return]


def _readable(texts: Sequence[str], multirun: bool, problems: list[str]) -> Iterator[Override]:
    for text in texts:
        try:
            override = OverridesParser.create().parse_override(text)
            if not override.key_or_group:
                raise HydraException
        except HydraException:
            problems.append(f"{text}: cannot be read; write key=value, and quote special characters")
            continue
        if override.is_sweep_override() and not multirun:
            problems.append(f"{text}: several values are a sweep; give -m, or quote them if they are one value")
        else:
            yield override


def _options(override: Override) -> list[str]:
    """The choices that a group override names, more than one in a sweep."""
    value = override.value()
    if isinstance(value, Glob):
        return []  # whatever matches is there
    options = value.list if isinstance(value, ChoiceSweep) else [value]
    return ["null" if option is None else str(option) for option in options]


def _known_choice(override: Override, groups: Mapping[str, list[str]], problems: list[str]) -> bool:
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
        extra = f"; {EXTRAS[option]}" if group == "hydra/launcher" and option in EXTRAS else ""
        problems.append(f"{name}={option}: unknown choice; {hint}choices: {', '.join(there)}{extra}")
    return not wrong


def _known_key(override: Override, base: DictConfig, known: list[str], problems: list[str]) -> bool:
    key = override.key_or_group
    if override.is_add() or override.is_delete() or override.is_force_add() or key.startswith("hydra."):
        return True
    parent, _, last = key.rpartition(".")
    node: Any = None
    try:
        node = OmegaConf.select(base, parent) if parent else base
        there = key in known or (OmegaConf.is_dict(node) and last in list(node))
    except OmegaConfBaseException:
        there = False
    if not there and OmegaConf.is_dict(node) and OmegaConf.is_missing(node, "_target_"):
        problems.append(f"unknown key {key}; a setting of a function of your own is added: +{override.input_line}")
    elif not there:
        short = {name.rpartition(".")[2]: name for name in known}
        near = difflib.get_close_matches(key, known, 1, 0.6) or [
            short[name] for name in difflib.get_close_matches(key, short, 1, 0.6)
        ]
        hint = f"did you mean {near[0]}?" if near else nearest(key, [name for name in known if "." not in name])
        problems.append(f"unknown key {key}; {hint}")
    return there


def _first_job(overrides: Sequence[Override]) -> list[str]:
    jobs = sweep_jobs([str(override.input_line) for override in overrides])
    return jobs[0] if jobs else []


def _keys(node: Any, prefix: str = "") -> Iterator[str]:
    for key, value in node.items():
        if not str(key).startswith("_"):
            yield f"{prefix}{key}"
            if isinstance(value, dict):
                yield from _keys(value, f"{prefix}{key}.")
