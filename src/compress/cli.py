"""The command. Torch is loaded only once a run starts: `compress --help` must be quick."""

import errno
import logging
import os
import sys
import warnings
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.experimental.callback import Callback
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from compress.compose import config_hash, diagnose, plain, register_resolvers, sweep_problems
from compress.files import JSON, read_json
from compress.paths import CONF, SUMMARY
from compress.settings import InputError

log = logging.getLogger(__name__)

BAD_INPUT, INTERRUPTED = 2, 130
DISK_ERRORS = (errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EDQUOT)

register_resolvers()


def problems_of(config: JSON) -> list[str]:
    """Every mistake of a composed config, in its files and devices too."""
    from compress.build import build

    try:
        build(config)
    except InputError as error:
        return list(error.problems)
    return []


class CheckBeforeStart(Callback):
    """Looks at a run, or at every job of a sweep, before anything is created or computed.

    Hydra turns a callback's exceptions into warnings; only SystemExit stops it.
    """

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        mine = plain(config)
        _refuse(problems_of(mine) + _foreign_run(Path(config.hydra.run.dir), mine))

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        _refuse(sweep_problems(config, problems_of))


def _refuse(problems: list[str]) -> None:
    if problems:
        for problem in problems:
            print(f"compress: {problem}", file=sys.stderr)
        raise SystemExit(BAD_INPUT)


def _foreign_run(folder: Path, config: JSON) -> list[str]:
    """Refuse to write over a run of another config."""
    if not (folder / SUMMARY).is_file():
        return []
    before = read_json(folder / SUMMARY)
    if before["config_hash"] == config_hash(config):
        return []
    old, new = _flat(before["config"]), _flat(config)
    differ = [f"{key}: {old.get(key)} -> {new.get(key)}" for key in {**old, **new} if old.get(key) != new.get(key)]
    return [f"hydra.run.dir={folder}: holds a run of another config ({'; '.join(differ[:4])}); choose another folder"]


def _flat(config: JSON, prefix: str = "") -> JSON:
    flat: JSON = {}
    for key, value in config.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat


def task(config: DictConfig) -> None:
    """One run, once Hydra has composed it and made its folder."""
    import torch

    from compress.build import build
    from compress.pipeline import finished_summary, run, show

    mine = plain(config)
    folder = Path(HydraConfig.get().runtime.output_dir)
    digest = config_hash(mine)
    done = finished_summary(folder, digest)
    if done is not None and not mine["force"]:
        log.info("%s is a finished run of this config: nothing to do\n%s", folder, show(done, folder))
        return
    cache = Path(mine["outputs"]) / "cache"
    if mine["threads"] is not None:
        torch.set_num_threads(mine["threads"])
    try:
        summary = run(build(mine), mine, digest, folder, cache, tensorboard=mine["tensorboard"], plots=mine["plots"])
    except InputError as error:
        for problem in error.problems:
            log.error("compress: %s", problem)
        _failed.append(str(folder))
        return
    log.info("%s", show(summary, folder))


_failed: list[str] = []  # folders of runs that ended with bad input, for the exit code


def main() -> None:
    """Exit code 0, 2 for bad input (one line per mistake), 1 with a traceback for a bug of ours."""
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # Hydra then raises instead of printing its own message
    # Threads that wait by spinning for long take the cores from each other when two jobs share a machine; those that
    # never spin are slow alone. So many turns cost a lone job nothing and two jobs a tenth of what the default does.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("GOMP_SPINCOUNT", "2000")
    for announced in ("The version_base parameter is deprecated", r"hydra.utils.instantiate\(\) resolved"):
        warnings.filterwarnings("ignore", announced)  # Hydra 1.4 speaks of 1.5, which we do not take
    try:
        hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")(task)()
    except (HydraException, OmegaConfBaseException) as error:
        _refuse(diagnose(sys.argv[1:], problems_of) or [str(error).strip().splitlines()[0]])
    except KeyboardInterrupt:
        print(
            "compress: interrupted; the same command continues from the last epoch or episode",
            file=sys.stderr,
        )
        raise SystemExit(INTERRUPTED) from None
    except BrokenPipeError:  # compress --help | head
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        if error.errno not in DISK_ERRORS:
            raise
        _refuse(
            [f"cannot write {error.filename or 'its files'}: {error.strerror}; nothing that was finished is lost"]
        )
    if _failed:
        raise SystemExit(BAD_INPUT)


if __name__ == "__main__":
    main()
