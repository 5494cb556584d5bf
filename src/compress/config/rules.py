"""Checks a composed config: its values against the signatures of the callables that it names, and settings that
exclude or require each other."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any, get_args, get_type_hints

from compress.io.files import JSON
from compress.schema.check import check_node, check_settings, check_value, shown
from compress.schema.settings import (
    BUDGETS,
    HELD_OUT,
    STAGE_ORDER,
    Budget,
    BudgetKind,
    Figure,
    RunSettings,
    TeacherSettings,
    budget_of,
)

# Keys of config nodes that `build` or the resolvers read; the callable of the node does not take them.
PIPELINE_KEYS = ("checkpoint", "default_budget", "run_stages", "compat", "rules", "quick", "by_name", "by_images")
GIVEN_BY_DATASET = {"in_channels", "num_classes", "image_size"}
TEACHER_KEYS = tuple(field.name for field in fields(TeacherSettings))  # of any kind of teacher
GROUPS = ("dataset", "model", "method", "teacher", "distill", "reward", "search", "scorer", "criterion", "tracker")
# Groups that only some methods use, with examples of such methods for the error message.
METHODS_WITH_GROUP = {
    "reward": "amc, camc",
    "search": "sample, metaprune",
    "scorer": "sample, sensitivity",
    "criterion": "filter_magnitude, sample, amc",
}


def choose_budget(
    config: Mapping[str, Any], takes: Sequence[BudgetKind] = BUDGETS
) -> tuple[Budget | None, list[str]]:
    """The budget of a run by a method that `takes` some kinds, None if there is none or it is invalid; and error
    messages about the choice.

    Root keys replace the default of the method. An invalid value of a root key is reported by `check_root`.
    """
    asked: dict[str, float] = {key: config[key] for key in BUDGETS if config.get(key) is not None}
    method = config.get("method") or {}
    is_default = not asked
    if is_default:
        problems = _check_default_budget(method.get("default_budget"))
        if problems:
            return None, problems if "method" in config else []
        asked = dict(method["default_budget"])
    if any(check_value(key, value, float) for key, value in asked.items()):
        return None, []
    return budget_of(asked, takes, is_default), []


def _check_default_budget(default: Any) -> list[str]:
    """Error messages about the budget that a method's YAML brings; it is needed only where none is asked for."""
    if default is None:
        return [f"the method has no default_budget, so a run needs one of {', '.join(BUDGETS)}"]
    given = default.items() if isinstance(default, Mapping) else ()
    if len(given) != 1 or any(key not in BUDGETS or value is None for key, value in given):
        choices = ", ".join(BUDGETS)
        return [f"method.default_budget={shown(default)}: must be one of {choices}, such as {{preserve_ratio: 0.5}}"]
    key, value = next(iter(given))
    return check_value(f"method.default_budget.{key}", value, get_type_hints(RunSettings, include_extras=True)[key])


def check_stages(config: Mapping[str, Any]) -> list[str]:
    stages, force = config.get("stages"), config.get("force")
    if (
        not isinstance(stages, list)
        or not isinstance(force, list)
        or any(stage not in STAGE_ORDER for stage in stages)
    ):
        return []  # reported by the check of types
    problems = []
    if not stages or stages != [stage for stage in STAGE_ORDER if stage in stages]:
        order = ", ".join(STAGE_ORDER)
        problems.append(f"stages=[{','.join(stages)}]: must be some of {order}, in this order, each once")
    for stage in force:
        if stage in STAGE_ORDER and stage not in stages:
            problems.append(f"force=[{','.join(map(str, force))}]: {stage} is not among the stages of this run")
    return problems


def check_objective(config: Mapping[str, Any]) -> list[str]:
    """Report objectives that the run does not measure: all but held-out top-1 need the stage eval."""
    stages, asked = config.get("stages"), config.get("objective")
    if not isinstance(stages, list) or "eval" in stages:
        return []
    wanted = [asked] if isinstance(asked, str) else asked if isinstance(asked, list) else []
    missing = [name for name in wanted if name in get_args(Figure) and name != HELD_OUT]
    return [
        f"objective={name}: eval is not among the stages of this run; only {HELD_OUT} needs none" for name in missing
    ]


def check_root(config: JSON) -> list[str]:
    """Problems of the settings that belong to no group. These checks import none of the callables that a config
    names, and so no torch."""
    root = {key: value for key, value in config.items() if key not in GROUPS}
    problems = check_node("", root, RunSettings) + check_stages(config) + check_objective(config)
    if config.get("outputs") == "":
        problems.append("outputs=: must name a folder")
    return problems


def check(config: JSON) -> list[str]:
    """Every problem of a composed and resolved config that can be found without files and devices."""
    problems = check_root(config)
    _, budget_problems = choose_budget(config)
    problems += budget_problems
    for group in GROUPS:
        node = config.get(group)
        if isinstance(node, Mapping):
            problems += check_group(group, node)
        elif node is not None or group in ("dataset", "model", "method"):
            problems.append(f"{group}={shown(node)}: must be one of the group's choices")
    for group, examples in METHODS_WITH_GROUP.items():
        taken = (config.get("method") or {}).get(group)
        if config.get(group) and not isinstance(taken, Mapping):
            name = (config.get(group) or {}).get("name")
            problems.append(f"{group}={name}: this method has no {group}; such as {examples} have one")
    if bool(config.get("teacher")) != bool(config.get("distill")):
        has, lacks = (
            ("teacher", "distill=kd")
            if config.get("teacher")
            else ("distill", "teacher=zoo, teacher=run or teacher=self")
        )
        problems.append(f"{has} is set without {lacks}; a teacher needs a loss and a loss a teacher")
    return _told_once(problems)


def _told_once(problems: Sequence[str]) -> list[str]:
    """Each problem once: a method takes in the groups of `METHODS_WITH_GROUP`, whose problems are told by their own
    keys."""
    groups = tuple(METHODS_WITH_GROUP)
    taken_in = {f"method.{line}" for line in problems if line.startswith(tuple(f"{g}." for g in groups))}
    no_choice = re.compile(rf"method\.(({'|'.join(groups)})=\S+): must be a group of settings")
    return [
        no_choice.sub(r"method.\1: must be chosen as a group, \2=<one of its choices>", line)
        for line in dict.fromkeys(problems)
        if line not in taken_in
    ]


def check_compat(method: Mapping[str, Any]) -> list[str]:
    """Report a `compat` that is not a column of the method's table `rules`; a method without a table has none."""
    choices = [name for name, column in (method.get("rules") or {}).items() if column is not None]
    if not choices or method.get("compat") in choices:
        return []
    return [f"method.compat={method.get('compat')}: must be one of {', '.join(choices)}"]


def check_network(path: str, node: Mapping[str, Any]) -> list[str]:
    """Problems of the settings of a network, which stand at `path`; "" where no config has them."""
    settings = {key: value for key, value in node.items() if key != "checkpoint"}
    key = f"{path}.checkpoint" if path else "checkpoint"
    return check_value(key, node.get("checkpoint"), str | None) + check_node(path, settings, given=GIVEN_BY_DATASET)


def check_group(group: str, node: Mapping[str, Any]) -> list[str]:
    """Problems of the config node of a group, by the signature of its callable."""
    if group == "teacher":
        return _check_teachers(node)
    inner = {key: value for key, value in node.items() if key not in PIPELINE_KEYS}
    if "_target_" not in node:
        return [f"{group}._target_: must be given, the dotted path of a function or class"]
    if group == "model":
        return check_network("model", node)
    return check_compat(node) + check_node(group, inner)


def teachers_in(node: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """The config nodes of teachers by where they stand: one at `teacher`, or several by name below it."""
    inner = {key: value for key, value in node.items() if key != "name"}
    several = inner and all(isinstance(value, Mapping) and "_target_" in value for value in inner.values())
    if "model" in inner or not several:  # a kind of the user's that lacks its `_target_`
        return {"teacher": node}
    return {f"teacher.{name}": value for name, value in inner.items()}


def _check_teachers(node: Mapping[str, Any]) -> list[str]:
    return [line for path, each in teachers_in(node).items() for line in _check_teacher(path, each)]


def _check_teacher(path: str, node: Mapping[str, Any]) -> list[str]:
    """Problems of one teacher: of what any kind may be given, of its network if it has one, of its own settings."""
    if "_target_" not in node:
        return [f"{path}._target_: must be given, the dotted path of a function or class"]
    if not re.fullmatch(r"teacher(\.\w+)?", path):
        return [f"{path}: a name of a teacher has letters, digits and _ only"]
    common = {key: value for key, value in node.items() if key in TEACHER_KEYS}
    problems = check_settings(path, common, TeacherSettings)
    if isinstance(node.get("model"), Mapping):
        problems += check_network(f"{path}.model", node["model"])
    own = {key: value for key, value in node.items() if key not in (*TEACHER_KEYS, *PIPELINE_KEYS, "model")}
    return problems + check_node(path, own, given={"spec"})  # `build` passes the network
