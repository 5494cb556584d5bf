"""Composes and checks the jobs of a sweep before the first of them starts.

Hydra's basic sweeper runs every combination of the values on the command line (a grid), so all jobs are known
beforehand. Other sweepers (optuna) choose their jobs while the sweep runs. Then only the limits of their search space
are checked, and a job is known once it has begun.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.config_loader import ConfigLoader
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override
from omegaconf import DictConfig, OmegaConf, open_dict, read_write
from omegaconf.errors import OmegaConfBaseException

from compress.config.choices import check_choice, choices_by_group, is_group_override
from compress.config.compose import COMPOSE_ERRORS, compose_message, plain, raw
from compress.config.hydra_private import GRID_SWEEPER, grid
from compress.config.resolvers import sort_for_name
from compress.io.files import JSON
from compress.run.folder import config_hash, foreign_run
from compress.run.sweep_jobs import SweepJob, distinguishing_overrides

# Interpolations whose values are not known before a job runs.
SET_BY_LAUNCH = ("${now", "${hydra.job.id", "${hydra.runtime")
Check = Callable[[JSON], list[str]]


@dataclass(frozen=True)
class Sweep:
    """A sweep as it is known before it starts."""

    folder: Path
    is_grid: bool
    jobs: tuple[SweepJob, ...] = ()  # all jobs of a grid; empty if a sweeper chooses them


def is_grid(hydra: Any) -> bool:
    """Whether Hydra's basic sweeper is used; the argument is the node `hydra` of a config."""
    return str(OmegaConf.select(hydra, "sweeper._target_")) == GRID_SWEEPER


def grid_jobs(overrides: Sequence[str], loader: ConfigLoader | None = None) -> list[list[str]]:
    """The command lines of the jobs of a grid: ["a=1,2"] -> [["a=1"], ["a=2"]]. Globs need the config loader."""
    return grid(OverridesParser.create(config_loader=loader).parse_overrides(list(overrides)))


def boundary_jobs(overrides: Sequence[str], loader: ConfigLoader | None = None) -> list[list[str]]:
    """Command lines to check in place of those that a sweeper may choose: as few as contain both ends of every
    interval and range, and every listed value.

    ["a=interval(1,2)", "b=3,4,5"] -> [["a=1.0", "b=3"], ["a=2.0", "b=4"], ["a=2.0", "b=5"]]
    """
    parsed = OverridesParser.create(config_loader=loader).parse_overrides(list(overrides))
    values = {override.get_key_element(): _boundary_values(override) for override in parsed}
    if not all(values.values()):
        return []
    number = max(map(len, values.values()), default=1)
    return [[f"{key}={ends[min(at, len(ends) - 1)]}" for key, ends in values.items()] for at in range(number)]


def _boundary_values(override: Override) -> list[str]:
    """The values of an override that `boundary_jobs` includes."""
    if not override.is_sweep_override():
        return [override.get_value_element_as_str()]
    value = override.value()
    if isinstance(value, IntervalSweep):
        return [str(value.start), str(value.end)]
    listed = list(override.sweep_string_iterator())
    return [listed[0], listed[-1]] if override.is_range_sweep() and listed else listed


def drop_overridden_params(config: DictConfig) -> None:
    """Remove from `hydra.sweeper.params`, the sweep of an experiment file, what the command line sets: Hydra would
    combine the two, and run every job as often as the file has values."""
    params = OmegaConf.select(config, "hydra.sweeper.params") or {}
    parsed = OverridesParser.create().parse_overrides(list(config.hydra.overrides.task))
    given = {override.key_or_group for override in parsed}
    with read_write(config), open_dict(config):
        for key in [str(key) for key in params if str(key).lstrip("+") in given]:
            del params[key]


def check_sweep(config: DictConfig, check: Check) -> tuple[Sweep, list[str]]:
    """The sweep of a command line, and error messages that name the job they belong to. `check` checks a config."""
    loader: ConfigLoader = GlobalHydra.instance().config_loader()
    settings = OmegaConf.select(config, "hydra.sweeper.params") or {}
    overrides = [*(f"{key}={value}" for key, value in settings.items()), *config.hydra.overrides.task]
    # The folder is resolved only once: if the time is part of its name, it is then the same for all jobs.
    sweep = Sweep(Path(str(config.hydra.sweep.dir)), is_grid(config.hydra))
    lines = grid_jobs(overrides, loader) if sweep.is_grid else boundary_jobs(overrides, loader)
    if not lines:
        return sweep, [f"{' '.join(overrides)}: this sweep has no job"]
    if unknown := [word for word in SET_BY_LAUNCH if word in raw(config.hydra.sweep)["subdir"]]:
        return sweep, [_unknown_folder(config, f"{unknown[0]}...}} is another in every launch")]
    jobs, problems = _check_jobs(config, loader, lines, sweep.folder, check)
    if not sweep.is_grid:
        return sweep, problems
    count = Counter(job.folder for job in jobs)
    shared = [f"hydra.sweep.subdir: {n} jobs would share the folder {path}" for path, n in count.items() if n > 1]
    return Sweep(sweep.folder, True, tuple(jobs)), [*problems, *shared]


def _check_jobs(
    config: DictConfig, loader: ConfigLoader, lines: list[list[str]], sweep_dir: Path, check: Check
) -> tuple[list[SweepJob], list[str]]:
    jobs: list[SweepJob] = []
    messages: list[str] = []
    bad = 0
    groups = choices_by_group(loader)
    for number, (line, changed) in enumerate(zip(lines, distinguishing_overrides(lines, sort_for_name), strict=True)):
        problems = _choice_problems(line, groups)
        if not problems:
            try:
                composed = _compose_job(config, loader, line, number)
                settings = plain(composed)
                try:
                    folder = sweep_dir / composed.hydra.sweep.subdir
                except OmegaConfBaseException as error:
                    return [], [_unknown_folder(composed, compose_message(error))]
                problems += check(settings) + foreign_run(folder, settings, "hydra.sweep.dir")
                jobs.append(SweepJob(folder, changed, config_hash(settings)))
            except COMPOSE_ERRORS as error:
                problems.append(compose_message(error))
        messages += [f"{' '.join(line)} -> {problem}" for problem in problems]
        bad += bool(problems)
    return jobs, [f"{bad} of {len(lines)} jobs are wrong; nothing was started", *messages] if bad else []


def _choice_problems(line: list[str], groups: dict[str, list[str]]) -> list[str]:
    """Messages for unknown choices of groups in the command line of a job."""
    problems: list[str] = []
    for override in OverridesParser.create().parse_overrides(line):
        if is_group_override(override, groups):
            check_choice(override, groups, problems)
    return problems


def _compose_job(config: DictConfig, loader: ConfigLoader, line: list[str], number: int) -> DictConfig:
    composed = loader.load_sweep_config(config, line)
    with open_dict(composed):
        composed.hydra.job.num, composed.hydra.job.id = number, str(number)  # a name of a folder may use them
    return composed


def _unknown_folder(config: DictConfig, why: str) -> str:
    return (
        f"hydra.sweep.subdir={raw(config.hydra.sweep)['subdir']}: {why}; the folder of a job must be known before it "
        "runs, so that the same command finds it again: leave it out, or name it by ${hydra.job.num} or a setting"
    )
