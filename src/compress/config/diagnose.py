"""Finds every mistake of a command line that Hydra rejected, where Hydra reports only the first.

Each override is parsed and checked alone, then composed with the correct group choices. Torch is loaded only if no
override is wrong by itself.
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

from compress.config.choices import check_choice, choices_by_group, is_group_override
from compress.config.compose import COMPOSE_ERRORS, compose_message, plain, raw
from compress.config.hydra_private import options
from compress.config.rules import check_root
from compress.config.sweep import boundary_jobs, grid_jobs, is_grid
from compress.errors import nearest
from compress.io.files import JSON
from compress.io.paths import CONF

SUBCOMMANDS = ("compare", "plan", "ls", "clean", "help")  # handled by `compress.__main__`
# What people type for something that is called otherwise here, and how it is written.
OTHERWISE = {
    "list": "compress ls lists runs and the cache, compress help the choices of every group",
    "show": "compress ls lists runs and the cache, compress compare makes tables of runs",
    "train": "compress stages=[pretrain] only trains; compress method=camc trains, prunes and fine-tunes",
    "prune": "compress method=camc trains, prunes and fine-tunes; what is there already is reused",
    "finetune": "compress method=camc trains, prunes and fine-tunes; what is there already is reused",
    "search": "compress method=camc searches; compress method=sample search=evolution does it otherwise",
    "run": "compress method=camc runs; compress plan method=camc tells what that would do",
    "eval": "a run ends with it; compress compare makes tables of what runs measured",
    "sweep": "compress -m method=slimming percent=0.3,0.5 is one",
    "init": "nothing is to be made first; compress method=camc runs",
}


def diagnose(argv: list[str], check: Callable[[JSON], list[str]]) -> list[str]:
    """The error messages of a command line, each once. `check` returns those of a config that composes."""
    args = options(argv)
    name = args.config_name or "config"
    search = [f"hydra.searchpath=[file://{os.path.abspath(args.config_dir)}]"] if args.config_dir else []
    problems: list[str] = []
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        groups = choices_by_group(GlobalHydra.instance().config_loader(), args.config_dir)
        parsed = list(_parsed(args.overrides, bool(args.multirun), groups, problems))
        choices, values = _split(parsed, groups, problems)
        try:
            base = compose(name, [*search, *_first_job(choices)], return_hydra_config=True)
        except COMPOSE_ERRORS as error:
            return problems or [compose_message(error)]
        correct = [*choices]
        known = sorted({*_keys({key: node for key, node in raw(base).items() if key != "hydra"}), *groups})
        for override in values:
            if _check_key(override, base, known, problems):
                try:  # one at a time: Hydra reports only the first wrong override
                    compose(name, [*search, *_first_job([*choices, override])])
                    correct.append(override)
                except COMPOSE_ERRORS as error:
                    problems.append(f"{override.input_line}: {compose_message(error)}")
        if problems:  # the full check needs torch; these are not to wait for it
            check = check_root
        try:
            if correct == choices and not bool(args.multirun):
                return _unique(problems, check(plain(base)))
            for job in _jobs(correct, is_grid(base.hydra)) or [[]]:
                problems += check(plain(compose(name, [*search, *job])))
        except COMPOSE_ERRORS as error:
            problems.append(compose_message(error))
    return _unique(problems)


def _unique(*problems: list[str]) -> list[str]:
    return list(dict.fromkeys(line for lines in problems for line in lines))


def _split(
    overrides: list[Override], groups: dict[str, list[str]], problems: list[str]
) -> tuple[list[Override], list[Override]]:
    """Overrides that select an existing choice of a group, and overrides that set a value.

    For an unknown choice a message is added to `problems`. If it belongs to a group of Hydra's (hydra/launcher=x),
    the values set in that group are left out: whether they are right depends on the choice.
    """
    loader = GlobalHydra.instance().config_loader()
    choices, values, unknown = [], [], []
    for override in overrides:
        group = override.key_or_group
        if group.startswith("hydra/"):
            groups[group] = loader.get_group_options(group)
        if not is_group_override(override, groups):
            values.append(override)
        elif check_choice(override, groups, problems):
            choices.append(override)
        else:
            unknown.append(group.replace("/", ".") + ".")
    left_out = tuple(prefix for prefix in unknown if prefix.startswith("hydra."))
    return choices, [override for override in values if not override.key_or_group.startswith(left_out)]


def _parsed(
    texts: Sequence[str], multirun: bool, groups: dict[str, list[str]], problems: list[str]
) -> Iterator[Override]:
    """The overrides that can be parsed; for others a message is added to `problems`."""
    for text in texts:
        try:
            override = OverridesParser.create().parse_override(text)
            if not override.key_or_group:
                raise HydraException
        except HydraException:
            problems.append(_parse_problem(text, groups))
            continue
        if override.is_sweep_override() and not multirun:
            problems.append(f"{text}: several values are a sweep; give -m, or quote them if they are one value")
        else:
            yield override


def _parse_problem(text: str, groups: dict[str, list[str]]) -> str:
    """The message for an override that cannot be parsed. A single word may be a misspelt command, or the name of a
    choice without its group."""
    if not re.fullmatch(r"[A-Za-z][\w-]*", text):
        return f"{text}: cannot be read; write key=value, and quote special characters"
    if text in OTHERWISE:
        return f"{text}: no such command; {OTHERWISE[text]}"
    meant = [f"{group}={text}" for group, choices in groups.items() if text in choices]
    meant += [f"compress {verb}" for verb in difflib.get_close_matches(text, SUBCOMMANDS, 1, 0.6)]
    hint = f"did you mean {meant[0]}" if meant else "compress method=camc runs, compress compare makes tables of runs"
    return f"{text}: no such command; {hint}; compress help tells the rest"


def _check_key(override: Override, base: DictConfig, known: list[str], problems: list[str]) -> bool:
    """Whether the key that an override sets exists; if not, a message is added to `problems`."""
    key = override.key_or_group
    if override.is_add() or override.is_delete() or override.is_force_add() or key.startswith("hydra."):
        return True
    parent, _, last = key.rpartition(".")
    node: Any = None
    try:
        node = OmegaConf.select(base, parent) if parent else base
        exists = key in known or (OmegaConf.is_dict(node) and last in list(node))
    except OmegaConfBaseException:
        exists = False
    if not exists and OmegaConf.is_dict(node) and OmegaConf.is_missing(node, "_target_"):
        problems.append(f"unknown key {key}; a setting of a function of your own is added: +{override.input_line}")
    elif not exists:
        short = {name.rpartition(".")[2]: name for name in known}
        near = difflib.get_close_matches(key, known, 1, 0.6) or [
            short[name] for name in difflib.get_close_matches(key, short, 1, 0.6)
        ]
        hint = f"did you mean {near[0]}?" if near else nearest(key, [name for name in known if "." not in name])
        problems.append(f"unknown key {key}; {hint}")
    return exists


def _first_job(overrides: Sequence[Override]) -> list[str]:
    jobs = _jobs(overrides, not any(override.key_or_group == "hydra/sweeper" for override in overrides))
    return jobs[0] if jobs else []


def _jobs(overrides: Sequence[Override], of_grid: bool) -> list[list[str]]:
    texts = [str(override.input_line) for override in overrides]
    return grid_jobs(texts) if of_grid else boundary_jobs(texts)


def _keys(node: Any, prefix: str = "") -> Iterator[str]:
    for key, value in node.items():
        if not str(key).startswith("_"):
            yield f"{prefix}{key}"
            if isinstance(value, dict):
                yield from _keys(value, f"{prefix}{key}.")
