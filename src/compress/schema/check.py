"""Checks settings against the signature of the callable that takes them, and collects every mistake.

The schema is the signature (`compress.schema.bounds`): the keyword parameters of a function or dataclass define the
settings, their types and bounds. Configs and the headers of files are checked in the same way.
"""

import importlib
import inspect
import math
import sys
import types
import typing
from collections.abc import Iterable, Mapping
from dataclasses import is_dataclass
from typing import Any

from compress.errors import first_line, nearest
from compress.io.files import printable
from compress.schema.bounds import Bound

NOT_SETTINGS = {"_target_", "_partial_", "name"}  # keys of a config node that its callable does not take
ANY_KEY = "**"  # among parameters: the callable takes further keywords


def find_target(path: str) -> Any:
    """The function or class of a dotted path.

    Raises:
        ImportError, AttributeError: not a dotted path, or there is no such module or attribute.
    """
    module, _, name = path.rpartition(".")
    if not all(part.isidentifier() for part in path.split(".")) or not module:
        raise ImportError("no dotted path of a function or class")
    return getattr(importlib.import_module(module), name)


def parameters_of(target: Any) -> dict[str, Any]:
    """Keyword parameters of a function or class with their annotations, Any without one.

    `**settings: Unpack[SomeTypedDict]` contributes the keys of the TypedDict, any other `**settings` contributes
    `ANY_KEY`.
    """
    hints = typing.get_type_hints(
        target.__init__ if inspect.isclass(target) and not is_dataclass(target) else target,
        include_extras=True,
    )
    found: dict[str, Any] = {}
    for name, parameter in inspect.signature(target).parameters.items():
        annotation = hints.get(name, Any)
        if parameter.kind is parameter.VAR_KEYWORD:
            if typing.get_origin(annotation) is typing.Unpack:
                found |= typing.get_type_hints(typing.get_args(annotation)[0], include_extras=True)
            else:
                found[ANY_KEY] = Any
        elif parameter.kind in (parameter.KEYWORD_ONLY, parameter.POSITIONAL_OR_KEYWORD):
            found[name] = annotation
    return found


def shown(value: Any, most: int = 120) -> str:
    """A value in an error message: printable, on one line, cut after `most` characters."""
    try:
        text = printable(str(value))
    except (ValueError, RecursionError):  # an int of thousands of digits
        return f"a {type(value).__name__} too large to show"
    return text if len(text) <= most else f"{text[:most]}..."


def check_value(path: str, value: Any, annotation: Any) -> list[str]:
    """Problems of one value, [] if it is valid: each a line that names the key `path`, the value and the rule."""
    origin, args = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        problems = check_value(path, value, args[0])
        bounds = [rule for rule in args[1:] if isinstance(rule, Bound)]
        return problems or [
            f"{path}={shown(value)}: {rule.rule(value)}{_meant_percent(path, value, rule)}"
            for rule in bounds
            if not rule.allows(value)
        ]
    if value == "???":
        return [f"{path}: must be given"]
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in args:
            return []
        tries = [check_value(path, value, option) for option in args if option is not type(None)]
        return [] if any(not problems for problems in tries) else tries[0]
    if origin is typing.Literal:
        if value in args and not (isinstance(value, bool) and True not in args and False not in args):
            return []
        return [f"{path}={shown(value)}: must be one of {', '.join(map(str, args))}"]
    if origin is list:
        if not isinstance(value, list):
            return [f"{path}={shown(value)}: must be a list, such as [a,b]"]
        return [line for i, item in enumerate(value) for line in check_value(f"{path}[{i}]", item, args[0])]
    if origin in (dict, Mapping):
        if not isinstance(value, Mapping):
            return [f"{path}={shown(value)}: must be a mapping of names to settings"]
        return [line for name, item in value.items() for line in check_value(f"{path}.{name}", item, args[1])]
    if annotation in (bool, int, float, str):
        return _check_plain(path, value, annotation)
    if isinstance(value, Mapping):
        return check_node(path, value, annotation if is_dataclass(annotation) else None)
    return [] if annotation is Any else [f"{path}={shown(value)}: must be a group of settings"]


def _meant_percent(path: str, value: float, rule: Bound) -> str:
    """A hint for a percentage where a share is wanted."""
    is_share = (rule.gt == 0 or rule.ge == 0) and (rule.lt == 1 or rule.le == 1)
    if is_share and 2 <= value <= 100 and rule.allows(value / 100):
        return f"; {value:g} % is {path}={value / 100:g}"
    return ""


def _check_plain(path: str, value: Any, wanted: type) -> list[str]:
    words = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}
    if wanted is float and isinstance(value, int) and not isinstance(value, bool) and abs(value) < sys.float_info.max:
        return []
    fits = type(value) is wanted and not (isinstance(value, float) and not math.isfinite(value))
    return [] if fits else [f"{path}={shown(value)}: must be {words[wanted]}"]


def check_node(path: str, node: Mapping[str, Any], target: Any = None, given: Iterable[str] = ()) -> list[str]:
    """Problems of one config node, checked against the callable that it names (`_target_`) or the dataclass `target`.

    Parameters in `given` are passed by the program, not by the config.
    """
    if "_target_" in node:
        if not isinstance(node["_target_"], str):
            return [f"{path}._target_={shown(node['_target_'])}: must be the dotted path of a function or class"]
        if node["_target_"] == "???":
            return [f"{path}._target_: must be given, the dotted path of your function or class"]
        try:
            target = find_target(node["_target_"])
        except Exception as error:  # importing a user's module can raise anything
            return [f"{path}._target_={shown(node['_target_'])}: cannot be imported ({shown(first_line(error))})"]
    if target is None:
        return []
    settings = {key: value for key, value in node.items() if key not in NOT_SETTINGS}
    return check_settings(path, settings, target, given, is_whole=not node.get("_partial_"))


def check_settings(
    path: str, settings: Mapping[str, Any], target: Any, given: Iterable[str] = (), is_whole: bool = True
) -> list[str]:
    """Problems of keyword arguments for a callable, without those in `given`. `is_whole`: none are added later, so
    that all without a default must be there."""
    takes = {name: rule for name, rule in parameters_of(target).items() if name not in given}
    takes_any_key = takes.pop(ANY_KEY, None) is not None
    prefix = f"{path}." if path else ""
    problems = []
    for key, value in settings.items():
        if key not in takes and not takes_any_key:
            problems.append(f"unknown key {prefix}{shown(key)}; {nearest(key, takes)}")
        elif key in takes:
            problems += check_value(f"{prefix}{key}", value, takes[key])
    if is_whole:
        signature = inspect.signature(target).parameters
        optional = {name for name, p in signature.items() if p.default is not inspect.Parameter.empty}
        problems += [
            f"{prefix}{name}: must be given" for name in takes if name not in settings and name not in optional
        ]
    return problems
