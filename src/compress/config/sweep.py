"""The jobs of a sweep, composed and checked before the first of them starts.

Hydra's own sweeper runs every combination of what is written, so that all jobs are known. Another one (optuna)
chooses as it goes; then the ends of what it may choose from are checked, and jobs are known as they begin.
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
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from compress.config.choices import groups_of, is_choice, known_choice
from compress.config.compose import COMPOSING, plain, raw, told
from compress.config.hydra_private import GRID_SWEEPER, grid
from compress.config.resolvers import telling_first
from compress.io.files import JSON
from compress.run.folder import config_hash, foreign_run
from compress.run.sweep_jobs import SweepJob, differing

ONLY_WHEN_RUN = ("${now", "${hydra.job.id", "${hydra.runtime")  # of a job; launchers set these as they like
Check = Callable[[JSON], list[str]]


@dataclass(frozen=True)
class Sweep:
    """What is known of a sweep before it starts."""

    folder: Path
    is_grid: bool
    jobs: tuple[SweepJob, ...] = ()  # all of a grid; none if a sweeper chooses them


def is_grid(hydra: Any) -> bool:
    """Whether the jobs are every combination of what is written, and so known beforehand."""
    return str(OmegaConf.select(hydra, "sweeper._target_")) == GRID_SWEEPER


def sweep_jobs(overrides: Sequence[str], loader: ConfigLoader | None = None) -> list[list[str]]:
    """The command lines of a sweep's jobs: ["a=1,2"] -> [["a=1"], ["a=2"]]; globs need the loader of configs."""
    return grid(OverridesParser.create(config_loader=loader).parse_overrides(list(overrides)))


def end_jobs(overrides: Sequence[str], loader: ConfigLoader | None = None) -> list[list[str]]:
    """The fewest command lines with both ends of all intervals and ranges, and with all choices.

    ["a=interval(1,2)", "b=3,4,5"] -> [["a=1.0", "b=3"], ["a=2.0", "b=4"], ["a=2.0", "b=5"]]
    """
    parsed = OverridesParser.create(config_loader=loader).parse_overrides(list(overrides))
    values = {override.get_key_element(): _ends(override) for override in parsed}
    if not all(values.values()):
        return []
    number = max(map(len, values.values()), default=1)
    return [[f"{key}={ends[min(at, len(ends) - 1)]}" for key, ends in values.items()] for at in range(number)]


def _ends(override: Override) -> list[str]:
    if not override.is_sweep_override():
        return [override.get_value_element_as_str()]
    value = override.value()
    if isinstance(value, IntervalSweep):
        return [str(value.start), str(value.end)]
    listed = list(override.sweep_string_iterator())
    return [listed[0], listed[-1]] if override.is_range_sweep() and listed else listed


def look_at_sweep(config: DictConfig, check: Check) -> tuple[Sweep, list[str]]:
    """A sweep, and what is wrong with its jobs, each line behind the job it belongs to."""
    loader: ConfigLoader = GlobalHydra.instance().config_loader()
    settings = OmegaConf.select(config, "hydra.sweeper.params") or {}
    overrides = [*(f"{key}={value}" for key, value in settings.items()), *config.hydra.overrides.task]
    # the folder is read once: one that is made of the time is then the same for all jobs
    sweep = Sweep(Path(str(config.hydra.sweep.dir)), is_grid(config.hydra))
    lines = sweep_jobs(overrides, loader) if sweep.is_grid else end_jobs(overrides, loader)
    if not lines:
        return sweep, [f"{' '.join(overrides)}: this sweep has no job"]
    if unknown := [word for word in ONLY_WHEN_RUN if word in raw(config.hydra.sweep)["subdir"]]:
        return sweep, [_unknown_folder(config, f"{unknown[0]}...}} is another in every launch")]
    jobs, problems = _look_at_jobs(config, loader, lines, sweep.folder, check)
    if not sweep.is_grid:
        return sweep, problems
    count = Counter(job.folder for job in jobs)
    shared = [f"hydra.sweep.subdir: {n} jobs would share the folder {path}" for path, n in count.items() if n > 1]
    return Sweep(sweep.folder, True, tuple(jobs)), [*problems, *shared]


def _look_at_jobs(
    config: DictConfig, loader: ConfigLoader, lines: list[list[str]], sweep_dir: Path, check: Check
) -> tuple[list[SweepJob], list[str]]:
    jobs: list[SweepJob] = []
    told_of: list[str] = []
    bad = 0
    groups = groups_of(loader)
    for number, (line, changed) in enumerate(zip(lines, differing(lines, telling_first), strict=True)):
        problems = _of_choices(line, groups)
        if not problems:
            try:
                composed = _compose_job(config, loader, line, number)
                mine = plain(composed)
                try:
                    folder = sweep_dir / composed.hydra.sweep.subdir
                except OmegaConfBaseException as error:
                    return [], [_unknown_folder(composed, told(error))]
                problems += check(mine) + foreign_run(folder, mine, key="hydra.sweep.dir")
                jobs.append(SweepJob(folder, changed, config_hash(mine)))
            except COMPOSING as error:
                problems.append(told(error))
        told_of += [f"{' '.join(line)} -> {problem}" for problem in problems]
        bad += bool(problems)
    return jobs, [f"{bad} of {len(lines)} jobs are wrong; nothing was started", *told_of] if bad else []


def _of_choices(line: list[str], groups: dict[str, list[str]]) -> list[str]:
    problems: list[str] = []
    for override in OverridesParser.create().parse_overrides(line):
        if is_choice(override, groups):
            known_choice(override, groups, problems)
    return problems


def _compose_job(config: DictConfig, loader: ConfigLoader, line: list[str], number: int) -> DictConfig:
    composed = loader.load_sweep_config(config, line)
    with open_dict(composed):
        composed.hydra.job.num, composed.hydra.job.id = number, str(number)  # some name folders by them
    return composed


def _unknown_folder(config: DictConfig, why: str) -> str:
    return (
        f"hydra.sweep.subdir={raw(config.hydra.sweep)['subdir']}: {why}; the folder of a job must be known before it "
        "runs, so that the same command finds it again: leave it out, or name it by ${hydra.job.num} or a setting"
    )
