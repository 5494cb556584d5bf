"""Mistakes that show in the text of a command line. They are reported before Hydra reads it: Hydra answers them with
a long traceback or not at all.
"""

import os
import re
from collections.abc import Sequence
from pathlib import Path

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import OverrideType
from hydra.errors import HydraException

from compress.config.choices import shipped_choices
from compress.config.hydra_private import option_names, options
from compress.io.files import printable

NO_CHOICE = {
    "teacher=null",
    "distill=null",
    "criterion=null",
    "experiment=null",
}  # the default of these groups; Hydra rejects null
MAX_DIGITS = 400  # of a number; beyond 309 a float overflows
LIST_OF_LOSSES = re.compile(r"\[\s*(\w[\w-]*(?:\s*,\s*\w[\w-]*)*)\s*\]")
GROUP_AS_VALUE = re.compile(
    r"^(dataset|model|method|teacher|distill|reward|search|scorer|criterion|tracker|experiment)=\s*([\[{].*)$",
    re.DOTALL,
)


def hydra_arguments(argv: Sequence[str]) -> list[str]:
    """The command line in the form that Hydra accepts: `~` in `key=~/folder` is expanded, `NO_CHOICE` is left out.
    `method.criterion=taylor` is `criterion=taylor`, the choice of a group that methods take in; other words may be
    those of a method with a setting of that name."""
    names = "|".join(["null", *shipped_choices("criterion")])
    chosen = [re.sub(rf"^method\.(criterion=(?:{names})(?:,(?:{names}))*)$", r"\1", a) for a in argv]
    return [
        re.sub(r"^([\w.@]+=)(~[\w.-]*/)", lambda m: m[1] + os.path.expanduser(m[2]), a)
        for a in chosen
        if a not in NO_CHOICE
    ]


def with_late_values(argv: Sequence[str]) -> list[str]:
    """The command line of a sweep, in which a value inside of a swept group is swept too: of one value.

    Hydra composes a sweep once without the swept groups, and refuses `distill.terms.dist.weight=1` there if `distill`
    is swept; what is swept itself it sets in the jobs alone, where a choice without such a key is refused.
    """
    given = options(argv)
    if not given.multirun:
        return list(argv)
    try:
        overrides = OverridesParser.create().parse_overrides(given.overrides)
    except HydraException:
        return list(argv)  # Hydra refuses it too
    groups = [o for o in overrides if o.is_sweep_override() and "." not in o.key_or_group]
    swept = tuple(f"{group.package or group.key_or_group}." for group in groups)
    late = {
        str(o.input_line): f"{o.key_or_group}=choice({value})"
        for o in overrides
        if o.type is OverrideType.CHANGE and o.package is None and not o.is_sweep_override()
        if o.key_or_group.startswith(swept) and (value := o.get_value_element_as_str())
    }
    return [late.get(text, text) for text in argv]


def missing_folders(argv: Sequence[str]) -> list[str]:
    """Error messages for config folders that do not exist; Hydra ignores them silently."""
    if not os.environ.get("COMPRESS_CONF", "x"):
        del os.environ["COMPRESS_CONF"]  # an empty variable counts as unset
    folder = options(argv).config_dir
    missing = [f"--config-dir {folder}: no such folder"] if folder and not Path(folder).is_dir() else []
    named = os.environ.get("COMPRESS_CONF", "")
    is_folder = named and ("://" not in named or named.startswith("file://"))
    if is_folder and not Path(named.removeprefix("file://")).is_dir():
        missing.append(f"COMPRESS_CONF={named}: no such folder")
    return missing


def mistakes(argv: Sequence[str]) -> list[str]:
    """Error messages for options, numbers and values that are wrong in every config, one line each."""
    try:
        given = options(argv)
    except ValueError:
        return _option_mistakes(argv)
    found = []
    if given.package and not given.cfg:
        found.append(f"--package={given.package}: goes with --cfg, which prints a part of the config")
    for text in given.overrides:
        key, _, value = printable(text).partition("=")
        if re.search(rf"\d{{{MAX_DIGITS},}}", value):
            found.append(f"{key}: a number of more than {MAX_DIGITS} digits is meant by nobody")
        elif re.search(r"[eE][+-]?\d{5,}", value) and re.fullmatch(r"[-+.\deE]+", value):
            found.append(f"{key}={value}: no number is that large or small")
        elif re.search(r"range\([^)]*,[^)]*,\s*[-+]?0*\.?0*\s*\)", value):
            found.append(f"{key}={value}: the step of a range must not be 0")
        elif key == "hydra.verbose" and not re.fullmatch(
            r"true|false|\[?[\w.]*[a-z_][\w.,]*\]?", value, re.IGNORECASE
        ):
            found.append(f"{key}={value}: must be true, false, or names of loggers")
        elif key == "hydra.job.name" and ("/" in value or not value):
            found.append(f"{key}={value}: names the log's file; must be a name without /")
        elif key == "hydra.job.chdir" and value.lower() not in ("true", "false", "null"):
            found.append(f"{key}={value}: must be true, false or null")
        elif key == "hydra.sweeper.max_batch_size" and not re.fullmatch(r"null|0*[1-9]\d*", value):
            found.append(f"{key}={value}: must be a whole number above 0, or null")
        elif re.match(r"\s*interval\(", value) and not any(o.startswith("hydra/sweeper=") for o in given.overrides):
            found.append(f"{key}={value}: an interval names no values to try; write range(...), choice(...) or a,b,c")
        elif key == "distill" and "[" in value:
            found += _mistakes_in_lists(text, value)
        elif match := GROUP_AS_VALUE.match(text):
            shown = printable(match[2])[:60]
            found.append(
                f"{match[1]}={shown}: must be the name of a choice; its settings are {match[1]}.<key>=<value>"
            )
    return found


def _mistakes_in_lists(text: str, value: str) -> list[str]:
    """Error messages for `distill=[kd,dist]`, the sum of two choices; in a sweep there may be several lists."""
    shown = printable(text)[:60]
    if re.search(r"[\[\]{}]", LIST_OF_LOSSES.sub("", value)):
        return [f"{shown}: must be the name of a choice, or a list of names whose terms add up: distill=[kd,dist]"]
    for names in (re.split(r"\s*,\s*", match[1].strip()) for match in LIST_OF_LOSSES.finditer(value)):
        if twice := [name for name in names if names.count(name) > 1]:
            return [f"{shown}: {twice[0]} is there twice; to count it more give distill.terms.{twice[0]}.weight"]
    return []


def _unknown_option(option: str, argv: Sequence[str]) -> str:
    """The message for an option that there is not; where it is a setting, as that is written."""
    name, _, value = option.lstrip("-").partition("=")
    after = argv[argv.index(option) + 1 :]
    value = value or next((word for word in after[:1] if "=" not in word and word[:1] != "-"), "")
    is_key = re.fullmatch(r"[a-z_][\w.-]*", name) is not None and option.startswith("--") and value
    setting = f"{name.replace('-', '_')}={value}" if is_key else "key=value, such as method=camc (compress --help)"
    return f"{printable(option)[:60]}: no such option; settings are written {printable(setting)[:100]}"


def _option_mistakes(argv: Sequence[str]) -> list[str]:
    """Error messages for options that argparse rejects, in the terms of this command."""
    known = option_names()
    unknown = [word for word in argv if word.startswith("-") and word.partition("=")[0] not in known]
    if unknown:
        return [_unknown_option(unknown[0], argv)]
    first = next((at for at, word in enumerate(argv) if "=" in word and not word.startswith("-")), len(argv))
    late = [word for word in argv[first:] if word in known]
    if late:
        rest = [word for word in argv if word not in late]
        return [f"{late[0]}: options stand before settings: compress {printable(' '.join([*late, *rest]))[:100]}"]
    try:
        options(argv)
    except ValueError as error:
        return [f"{printable(str(error))}; compress --help lists the options"]
    return []
