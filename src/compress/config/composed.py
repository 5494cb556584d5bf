"""From a command line to a composed config without Hydra's command: for what looks at a run and does not start it."""

import os
from collections.abc import Sequence

from hydra import compose, initialize_config_dir

from compress.config.built_jobs import problems_of
from compress.config.command_line import hydra_arguments, missing_folders, mistakes
from compress.config.compose import COMPOSE_ERRORS, compose_message, plain
from compress.config.diagnose import diagnose
from compress.config.resolvers import register_resolvers
from compress.errors import InputError
from compress.io.files import JSON
from compress.io.paths import CONF


def composed(overrides: Sequence[str], config_dir: str | None = None) -> JSON:
    """The config of settings, as after `compress`; `config_dir` is that of the option of this name.

    Raises:
        InputError: every mistake of it.
    """
    settings = hydra_arguments(overrides)
    options = [
        f"{word}: is an option of the command; give settings only, key=value" for word in settings if word[:1] == "-"
    ]
    argv = [*(["--config-dir", config_dir] if config_dir else []), *settings]
    if problems := options or mistakes(argv) or missing_folders(argv):
        raise InputError(*problems)
    register_resolvers()
    search = [f"hydra.searchpath=[file://{os.path.abspath(config_dir)}]"] if config_dir else []
    try:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            return plain(compose("config", [*search, *settings]))
    except COMPOSE_ERRORS as error:
        raise InputError(*(diagnose(argv, problems_of) or [compose_message(error)])) from None
