"""From overrides, as on the command line, to the environment of their search (`compress.environment`)."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from compress.config.build import build
from compress.config.composed import composed
from compress.errors import InputError, settings_under
from compress.io.files import JSON
from compress.io.paths import CACHE
from compress.parallel.helper_processes import Crew
from compress.run.distributed import help_out
from compress.run.job import Job
from compress.run.pipeline import prepared
from compress.run.store import Store
from compress.schema.bounds import Positive
from compress.schema.check import check_value
from compress.search.gym import Rule, WidthEnv
from compress.search.searched import Searched


def environment(overrides: Sequence[str], rule: Rule, budgets: Sequence[float] | None, reach: float) -> WidthEnv:
    """As `compress.environment`, which documents it."""
    problems = check_value("rule", rule, Rule) + check_value("reach", reach, Positive)
    if budgets is not None and not list(budgets):
        problems.append("budgets=[]: must have at least one value")
    if problems:
        raise InputError(*problems)
    config = composed(overrides)
    jobs = _jobs(config, budgets)
    job, method = jobs[0], jobs[0].method
    if not isinstance(method, Searched):
        raise InputError(
            f"method={config['method']['name']}: does not search widths; use sample, amc, camc, metaprune or supernet"
        )
    if config["threads"] is not None:
        torch.set_num_threads(config["threads"])
    with Crew(job.devices, job.device, config["threads"], help_out, build, config) as crew:
        state = prepared(job, Store(Path(config["outputs"]) / CACHE), crew)
    problem = state.problem()
    with settings_under(job.keys.method):
        within = {one.budget.value: method.within(replace(problem, budget=one.budget)) for one in jobs}
        return WidthEnv(problem, within, method.scorer_of(problem, state.learned()), rule, reach)


def _jobs(config: JSON, budgets: Sequence[float] | None) -> list[Job]:
    """A job for each budget, all else alike; the values are of the kind that the config has."""
    job = build(config)
    if budgets is None:
        return [job]
    return [build({**config, job.budget.kind: value}) for value in budgets]
