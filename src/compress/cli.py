"""The command. Torch is loaded only once a run starts: `compress --help` must be quick."""

import errno
import logging
import os
import re
import signal
import sys
import warnings
from pathlib import Path
from typing import Any

import hydra
from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.experimental.callback import Callback
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from compress.compose import (
    COMPOSING,
    config_hash,
    diagnose,
    plain,
    register_resolvers,
    sweep_folders,
    sweep_problems,
    told,
)
from compress.files import JSON, read_json
from compress.paths import CONF, SUMMARY
from compress.settings import InputError

log = logging.getLogger(__name__)

BAD_INPUT, INTERRUPTED, TERMINATED = 2, 130, 143
DISK_ERRORS = (errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EDQUOT)
NOTHING = {"teacher=null", "distill=null", "experiment=null"}  # what they are anyway; Hydra has no word for it

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
        try:
            mine, folder = plain(config), Path(config.hydra.run.dir)
        except OmegaConfBaseException as error:
            _refuse(diagnose(sys.argv[1:], problems_of) or [told(error)])
        else:
            _refuse(problems_of(mine) + foreign_run(folder, mine) or unwritable(folder, Path(mine["outputs"])))

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        _refuse(sweep_problems(config, problems_of) or unwritable(Path(config.outputs)))

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """One table of all jobs, from what they left in their folders."""
        from compress.report.table import sweep_table

        folders = sweep_folders(config)
        summaries = [read_json(path / SUMMARY) if (path / SUMMARY).is_file() else {} for path, _ in folders]
        print(f"\n{sweep_table(summaries, [changed for _, changed in folders])}", flush=True)


def _refuse(problems: list[str]) -> None:
    if problems:
        for problem in problems:
            print(f"compress: {problem}", file=sys.stderr)
        raise SystemExit(BAD_INPUT)


def foreign_run(folder: Path, config: JSON) -> list[str]:
    """Refuse to write over a run of another config."""
    if not (folder / SUMMARY).is_file():
        return []
    try:
        before = read_json(folder / SUMMARY)
        same, old = before["config_hash"] == config_hash(config), _flat(before["config"])
    except (ValueError, TypeError, KeyError):
        return [f"hydra.run.dir={folder}: holds a damaged {SUMMARY}; choose another folder or remove it"]
    new = _flat(config)
    differ = [f"{key}: {old.get(key)} -> {new.get(key)}" for key in {**old, **new} if old.get(key) != new.get(key)]
    what = "; ".join(differ[:4])
    return [] if same else [f"hydra.run.dir={folder}: holds a run of another config ({what}); choose another folder"]


def _flat(config: JSON, prefix: str = "") -> JSON:
    flat: JSON = {}
    for key, value in config.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat


def unwritable(*folders: Path) -> list[str]:
    """Make the folders that a run needs, or say why that cannot be."""
    for folder in folders:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            return [f"outputs: cannot make the folder {folder} ({error.strerror}); give outputs=<folder>"]
    return []


class BelowError(logging.Filter):
    """For the console's standard output: errors go to standard error, and some lines to the run's log alone."""

    def filter(self, record: logging.LogRecord) -> bool:
        return record.levelno < logging.ERROR and not getattr(record, "file_only", False)


class Console(logging.StreamHandler[Any]):
    """Standard output, with lines above a progress bar if there is one."""

    def emit(self, record: logging.LogRecord) -> None:
        from tqdm import tqdm

        try:
            tqdm.write(self.format(record), file=self.stream)
            self.flush()
        except Exception:
            self.handleError(record)


def task(config: DictConfig) -> None:
    """One run, once Hydra has composed it and made its folder."""
    import torch

    from compress.build import build
    from compress.pipeline import finished_summary, run, show

    logging.raiseExceptions = False  # a closed pipe is no reason for a page of traceback per line
    mine = plain(config)
    folder = Path(HydraConfig.get().runtime.output_dir)
    digest = config_hash(mine)
    if mine["threads"] is not None:
        torch.set_num_threads(mine["threads"])
    try:
        _tell(foreign_run(folder, mine))
        job = build(mine)
        done = finished_summary(folder, job, digest)
        if done is not None and not mine["force"]:
            log.info("%s is a finished run of this config: nothing to do\n%s", folder, show(done, folder))
            return
        cache = Path(mine["outputs"]) / "cache"
        summary = run(job, mine, digest, folder, cache, tensorboard=mine["tensorboard"], plots=mine["plots"])
        log.info("%s", show(summary, folder))
    except InputError as error:
        for problem in error.problems:
            log.error("compress: %s", problem)
        _failed.append(str(folder))
    except OSError as error:
        if error.errno not in DISK_ERRORS:
            raise
        log.error("compress: %s", _disk(error))
        _failed.append(str(folder))


_failed: list[str] = []  # folders of runs that ended with bad input, for the exit code


def _tell(problems: list[str]) -> None:
    if problems:
        raise InputError(*problems)


def _disk(error: OSError) -> str:
    return f"cannot write {error.filename or 'its files'} ({error.strerror}); what was finished is kept"


def _arguments(argv: list[str]) -> list[str]:
    """The command line as Hydra wants it: `key=~/folder` opened up, groups that are set to nothing left out."""
    return [
        re.sub(r"^([\w.@]+=)(~[\w.-]*/)", lambda m: m[1] + os.path.expanduser(m[2]), a)
        for a in argv
        if a not in NOTHING
    ]


def _config_folders(argv: list[str]) -> list[str]:
    """Hydra passes over folders of configs that are not there."""
    if not os.environ.get("COMPRESS_CONF", "x"):
        del os.environ["COMPRESS_CONF"]
    folder = get_args_parser().parse_known_args(argv)[0].config_dir
    missing = [f"--config-dir {folder}: no such folder"] if folder and not Path(folder).is_dir() else []
    mine = os.environ.get("COMPRESS_CONF", "")
    is_folder = mine and ("://" not in mine or mine.startswith("file://"))
    if is_folder and not Path(mine.removeprefix("file://")).is_dir():
        missing.append(f"COMPRESS_CONF={mine}: no such folder")
    return missing


def _terminate(signum: int, frame: Any) -> None:
    raise SystemExit(TERMINATED)


def main() -> None:
    """Exit code 0, 2 for bad input (one line per mistake), 1 with a traceback for a bug of ours."""
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # Hydra then raises instead of printing its own message
    # Threads that wait by spinning for long take the cores from each other when two jobs share a machine; those that
    # never spin are slow alone. So many turns cost a lone job nothing.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("GOMP_SPINCOUNT", "2000")
    for announced in ("The version_base parameter is deprecated", r"hydra.utils.instantiate\(\) resolved"):
        warnings.filterwarnings("ignore", announced)  # Hydra 1.4 speaks of 1.5, which we do not take
    signal.signal(signal.SIGTERM, _terminate)  # the run's summary then says that it was interrupted
    sys.argv[1:] = _arguments(sys.argv[1:])
    _refuse(_config_folders(sys.argv[1:]))
    try:
        hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")(task)()
    except COMPOSING as error:
        if not isinstance(error, HydraException | OmegaConfBaseException) and not _of_composing(error):
            raise
        _refuse(diagnose(sys.argv[1:], problems_of) or [told(error)])
    except KeyboardInterrupt:
        print("compress: interrupted; the same command continues from the last epoch or episode", file=sys.stderr)
        raise SystemExit(INTERRUPTED) from None
    except BrokenPipeError:  # compress --help | head
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        if error.errno not in DISK_ERRORS:
            raise
        _refuse([_disk(error)])
    if _failed:
        raise SystemExit(BAD_INPUT)


def _of_composing(error: BaseException) -> bool:
    """Whether Hydra raised it while it composed, rather than our own code while it ran."""
    trace, files = error.__traceback__, []
    while trace is not None:
        files.append(Path(trace.tb_frame.f_code.co_filename))
        trace = trace.tb_next
    return not any(path.is_relative_to(Path(__file__).parent) and path.name != Path(__file__).name for path in files)


if __name__ == "__main__":
    main()
