"""What is wrong with a command line that Hydra refused, told for each override by composing what is right of it.

No torch here, unless all overrides are right by themselves.
"""

import difflib
import os
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from compress.config.choices import groups_of, is_choice, known_choice
from compress.config.compose import COMPOSING, plain, raw, told
from compress.config.hydra_private import options
from compress.config.rules import check_root
from compress.config.sweep import end_jobs, is_grid, sweep_jobs
from compress.errors import nearest
from compress.io.files import JSON
from compress.io.paths import CONF

VERBS = ("compare", "help")  # words that are no setting; `compress.__main__` takes them


def diagnose(argv: list[str], check: Callable[[JSON], list[str]]) -> list[str]:
    """Every mistake of a command line that Hydra refused, found by composing what is right of it."""
    args = options(argv)
    name = args.config_name or "config"
    search = [f"hydra.searchpath=[file://{os.path.abspath(args.config_dir)}]"] if args.config_dir else []
    problems: list[str] = []
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        groups = groups_of(GlobalHydra.instance().config_loader(), args.config_dir)
        readable = list(_readable(args.overrides, bool(args.multirun), groups, problems))
        choices, values = _sorted_out(readable, groups, problems)
        try:
            base = compose(name, [*search, *_first_job(choices)], return_hydra_config=True)
        except COMPOSING as error:
            return problems or [told(error)]
        right = [*choices]
        known = [*_keys({key: node for key, node in raw(base).items() if key != "hydra"}), *groups]
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
            if right == choices and not bool(args.multirun):
                return _unlike(problems, check(plain(base)))
            for job in _jobs(right, is_grid(base.hydra)) or [[]]:
                problems += check(plain(compose(name, [*search, *job])))
        except COMPOSING as error:
            problems.append(told(error))
    return _unlike(problems)


def _unlike(*told_of: list[str]) -> list[str]:
    """All of them, each once."""
    return list(dict.fromkeys(line for lines in told_of for line in lines))


def _sorted_out(
    overrides: list[Override], groups: dict[str, list[str]], problems: list[str]
) -> tuple[list[Override], list[Override]]:
    """The choices of groups that there are, and the settings; those of a group of Hydra's that is not there are left
    out, since its unknown choice is told."""
    loader = GlobalHydra.instance().config_loader()
    choices, values, without = [], [], []
    for override in overrides:
        group = override.key_or_group
        if group.startswith("hydra/"):
            groups[group] = loader.get_group_options(group)
        if not is_choice(override, groups):
            values.append(override)
        elif known_choice(override, groups, problems):
            choices.append(override)
        else:
            without.append(group.replace("/", ".") + ".")
    hydras = tuple(start for start in without if start.startswith("hydra."))
    return choices, [override for override in values if not override.key_or_group.startswith(hydras)]


def _readable(
    texts: Sequence[str], multirun: bool, groups: dict[str, list[str]], problems: list[str]
) -> Iterator[Override]:
    for text in texts:
        try:
            override = OverridesParser.create().parse_override(text)
            if not override.key_or_group:
                raise HydraException
        except HydraException:
            problems.append(_unreadable(text, groups))
            continue
        if override.is_sweep_override() and not multirun:
            problems.append(f"{text}: several values are a sweep; give -m, or quote them if they are one value")
        else:
            yield override


def _unreadable(text: str, groups: dict[str, list[str]]) -> str:
    """A bare word is taken for a command, or for the value of a setting that was left out."""
    if not re.fullmatch(r"[A-Za-z][\w-]*", text):
        return f"{text}: cannot be read; write key=value, and quote special characters"
    meant = [f"{group}={text}" for group, there in groups.items() if text in there]
    meant += [f"compress {verb}" for verb in difflib.get_close_matches(text, VERBS, 1, 0.6)]
    hint = f"did you mean {meant[0]}" if meant else "compress method=camc runs, compress compare makes tables of runs"
    return f"{text}: no such command; {hint}; compress help tells the rest"


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
    jobs = _jobs(overrides, not any(override.key_or_group == "hydra/sweeper" for override in overrides))
    return jobs[0] if jobs else []


def _jobs(overrides: Sequence[Override], of_grid: bool) -> list[list[str]]:
    texts = [str(override.input_line) for override in overrides]
    return sweep_jobs(texts) if of_grid else end_jobs(texts)


def _keys(node: Any, prefix: str = "") -> Iterator[str]:
    for key, value in node.items():
        if not str(key).startswith("_"):
            yield f"{prefix}{key}"
            if isinstance(value, dict):
                yield from _keys(value, f"{prefix}{key}.")
