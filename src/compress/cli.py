"""The command. Torch is loaded only once a run starts: `compress --help` must be quick."""

import errno
import json
import logging
import os
import re
import signal
import sys
import traceback
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import hydra
from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from compress.config.command_line import mistakes, options
from compress.config.compose import (
    COMPOSING,
    config_hash,
    diagnose,
    foreign_run,
    look_at_sweep,
    plain,
    put_run_aside,
    raw,
    register_resolvers,
    told,
)
from compress.errors import BAD_INPUT, INTERRUPTED, TERMINATED, InputError, is_users
from compress.io.files import JSON
from compress.io.locks import locked
from compress.io.paths import CONF, LOCK
from compress.parallel.rank import place
from compress.run.supervisor import Tell, can_supervise, supervised
from compress.run.sweep_jobs import SweepJob, closing, exit_code, forget_failure, left_undone, mark_died, new_launch
from compress.schema.check import shown

log = logging.getLogger(__name__)

LAUNCH = "COMPRESS_LAUNCH"  # names one start of the command, for the processes of its jobs: what is forced is so once
LONGEST = 1000  # characters of a line that tells a mistake
NOTHING = {"teacher=null", "distill=null", "experiment=null"}  # what they are anyway; Hydra has no word for it

register_resolvers()


def problems_of(config: JSON) -> list[str]:
    """Every mistake of a composed config, in its files and devices too."""
    from compress.config.build import build

    try:
        build(config)
    except InputError as error:
        return list(error.problems)
    return []


class CheckBeforeStart(Callback):
    """Looks at a run, or at every job of a sweep, before anything is created or computed."""

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        with _no_warning():
            try:
                mine, folder = plain(config), Path(config.hydra.run.dir)
            except OmegaConfBaseException as error:
                _refuse(diagnose(sys.argv[1:], problems_of) or [told(error)])
            else:
                _refuse(several_folders(config))
                _refuse(
                    problems_of(mine) + foreign_run(folder, mine)
                    or unwritable({"outputs": Path(mine["outputs"]), "hydra.run.dir": folder})
                )

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        with _no_warning():
            jobs, problems = look_at_sweep(config, problems_of)
            folders = {"outputs": Path(config.outputs), "hydra.sweep.dir": Path(config.hydra.sweep.dir)}
            _refuse(problems or unwritable(folders))
            _sweep[:] = jobs
            for tell in _tells:
                tell(json.dumps([job.to_json() for job in jobs]).encode())
            if "${now" in _written(config.hydra.sweep):
                sys.argv.append(f"hydra.sweep.dir='{config.hydra.sweep.dir}'")  # the same if it is launched again


@contextmanager
def _no_warning() -> Iterator[None]:
    """Hydra turns a callback's exceptions into warnings and goes on; only SystemExit stops it."""
    try:
        yield
    except COMPOSING as error:
        _refuse([told(error)])
    except Exception:
        traceback.print_exc()
        raise SystemExit(1) from None


_sweep: list[SweepJob] = []  # that this process has launched
_tells: list[Tell] = []  # what the process that watches over a sweep is told its jobs by
_failed: dict[Path, str] = {}  # folders of runs that ended in what one line tells, and that line
_bugs: dict[Path, str] = {}  # of jobs that ended in a traceback


def _refuse(problems: list[str]) -> None:
    if problems:
        for problem in problems if place().local_rank == 0 else ():
            print(f"compress: {shown(problem, LONGEST)}", file=sys.stderr)
        raise SystemExit(BAD_INPUT)


def _written(node: DictConfig) -> str:
    """The `dir` of a node as it stands there, before anything in it is resolved."""
    return str(raw(node)["dir"])


def several_folders(config: DictConfig) -> list[str]:
    """Under a launcher every process names the run's folder itself; one that is made of the time differs."""
    named = _written(config.hydra.run)
    if place().world == 1 or "${now" not in named:
        return []
    return [
        f"hydra.run.dir={named}: each of the {place().world} processes of the launcher would make a folder of its "
        "own; name one, such as hydra.run.dir=outputs/mine, or let one command start them all: "
        f"devices={place().world}"
    ]


def unwritable(folders: Mapping[str, Path]) -> list[str]:
    """Make the folders that a run needs, by the keys that name them, or say why that cannot be."""
    made: list[Path] = []
    for key, folder in folders.items():
        missing = [path for path in (folder, *folder.parents) if not os.path.lexists(path)]
        try:
            folder.mkdir(parents=True, exist_ok=True)
            made += missing
        except OSError as error:
            for path in [*missing, *made]:  # a refused run leaves nothing
                with suppress(OSError):
                    path.rmdir()
            return [f"{key}: cannot make the folder {folder} ({error.strerror}); give {key}=<folder>"]
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
    """One run, or one job of a sweep, once Hydra has composed it and made its folder.

    A job that fails is told, and the sweep goes on. One that another process is at is left to it: the sweep looks at
    it again when the others are done.
    """
    logging.raiseExceptions = False  # a closed pipe is no reason for a page of traceback per line
    folder = Path(HydraConfig.get().runtime.output_dir)
    in_sweep = HydraConfig.get().mode == RunMode.MULTIRUN
    passes_on = in_sweep and place().world == 1  # processes of a launcher do the same jobs in the same order
    busy = f"{folder}: another process is at it; " + ("the other jobs go first" if passes_on else "waiting")
    try:
        if place().rank > 0:
            _run(plain(config), folder, in_sweep)
            return
        with locked(folder / LOCK, None if passes_on else busy) as is_mine:
            if is_mine:
                _run(plain(config), folder, in_sweep)
            else:
                print(busy, flush=True)  # the log in that folder is the other's
    except Exception as error:
        if is_users(error):
            for problem in _lines(error):
                log.error("compress: %s", shown(problem, LONGEST))
            _failed[folder.absolute()] = _lines(error)[0]
        elif in_sweep:
            log.exception("compress: %s: a bug ended this job", folder)
            _bugs[folder.absolute()] = "a bug ended it"
        else:
            raise


def _lines(error: Exception) -> list[str]:
    """What is told of an error that is the user's."""
    if isinstance(error, OSError):
        what = "cannot reach" if error.errno == errno.EACCES else "cannot write"
        return [f"{what} {error.filename or 'its files'} ({error.strerror}); what was finished is kept"]
    return list(error.problems) if isinstance(error, InputError) else [told(error)]


def _run(config: JSON, folder: Path, in_sweep: bool) -> None:
    import torch

    from compress.config.build import build
    from compress.run.pipeline import finished_summary, run, show
    from compress.run.ranks import follow, lead
    from compress.run.store import Store

    digest = config_hash(config)
    if config["threads"] is not None:
        torch.set_num_threads(config["threads"])
    if place().rank > 0:
        follow(build, config, folder, digest)
        return
    _tell(foreign_run(folder, config))
    put_run_aside(folder)
    job = build(config)
    with lead(job, build, config, folder, digest) as crew:
        _tell(foreign_run(folder, config, job.devices, "hydra.sweep.dir" if in_sweep else "hydra.run.dir"))
        launch = os.environ.get(LAUNCH) or new_launch()
        if in_sweep and SweepJob(folder, {}, digest).has_failed(launch):
            log.info("%s: has failed since this command began; the next one tries it again", folder)
            return
        done = finished_summary(folder, job, digest)
        if done is not None and not (config["force"] and done.get("launch") != launch):
            told = "" if in_sweep else f"\n{show(done, folder)}"  # a sweep ends in a table of its own
            log.info("%s is a finished run of this config: nothing to do%s", folder, told)
            return
        store = Store(Path(config["outputs"]) / "cache", launch)
        how = {key: config[key] for key in ("tensorboard", "plots")}
        summary = run(job, config, digest, folder, store, crew, launch=launch, **how)
    log.info("%s", show(summary, folder))


def _tell(problems: list[str]) -> None:
    if problems:
        raise InputError(*problems)


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
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # once is enough
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
    if place().rank > 0:  # the first process tells people, and writes; Hydra's files are the same from each
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 (as long as the process)
        logging.disable(logging.CRITICAL)
    sys.argv[1:] = _arguments(sys.argv[1:])
    _refuse(mistakes(sys.argv[1:]) or _config_folders(sys.argv[1:]))
    os.environ[LAUNCH] = new_launch()
    if _is_sweep(sys.argv[1:]) and place().world == 1 and can_supervise():
        _tells.append(supervised(_job_died))
    with _told():
        _launch()
        if place().rank > 0:
            return
        if _sweep:
            _end_sweep()
        elif _failed:
            raise SystemExit(BAD_INPUT)


def _is_sweep(argv: list[str]) -> bool:
    return bool(get_args_parser().parse_known_args(argv)[0].multirun)


def _job_died(by: signal.Signals, told: bytes) -> bool:
    """What a signal ended is named, and whether jobs are left to go on with."""
    jobs = [SweepJob.from_json(content) for content in json.loads(told or b"[]")]
    died = mark_died(jobs, os.environ[LAUNCH], f"its process was killed by {by.name}")
    for job in died:
        print(f"compress: {job}: its process was killed by {by.name}; the other jobs go on", file=sys.stderr)
    if not died:
        print(f"compress: killed by {by.name} outside of any job", file=sys.stderr)
    return bool(died)


def _end_sweep() -> None:
    """Wait for jobs that other processes took, do what they left undone, and end in one table.

    Of several jobs that died when a launcher lost its processes, each is tried once more, alone: only one of them
    need have been the cause.
    """
    before: list[SweepJob] = []
    together: list[SweepJob] = []
    while place().world == 1:
        died = mark_died(_sweep, os.environ[LAUNCH], "its process died (a crash, or no memory left)")
        together += died if len(died) > 1 else []
        left = left_undone(_sweep)
        if together and left in ([], before):
            forget_failure(together.pop(0))
            left = left_undone(_sweep)
        elif left in ([], before):
            break
        before = left
        _launch()
    print(f"\n{closing(_sweep, {**_failed, **_bugs})}", flush=True)
    left = [job for job in _sweep if job.folder.absolute() not in _failed]
    if code := 1 if _bugs else exit_code(left) or (BAD_INPUT if _failed else 0):
        raise SystemExit(code)


def _launch() -> None:
    """Let Hydra compose the command line and run it; a launcher that breaks down leaves jobs undone."""
    _failed.clear()
    _bugs.clear()
    try:
        hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")(task)()
    except RuntimeError as error:
        if not _of_launching(error):
            raise
        if not any(job.folder.is_dir() for job in _sweep):  # it could not even begin
            _refuse([f"hydra/launcher: {told(error)}"])
        print(f"compress: hydra/launcher: {told(error)}", file=sys.stderr)


@contextmanager
def _told() -> Iterator[None]:
    """What people can do something about is told in lines; the rest is raised."""
    try:
        yield
    except COMPOSING as error:
        if not isinstance(error, HydraException | OmegaConfBaseException) and not _of_composing(error):
            raise
        _refuse(diagnose(sys.argv[1:], problems_of) or [told(error)])
    except SystemExit as error:
        if error.code == 1 and options(sys.argv[1:]).package:  # Hydra has said that the config has no such part
            raise SystemExit(BAD_INPUT) from None
        raise
    except KeyboardInterrupt:
        done = f"{sum(job.is_done() for job in _sweep)} of {len(_sweep)} jobs are done; " if _sweep else ""
        print(
            f"compress: interrupted; {done}the same command continues from the last epoch or episode",
            file=sys.stderr,
        )
        raise SystemExit(INTERRUPTED) from None
    except BrokenPipeError:  # compress --help | head
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        if not is_users(error):
            raise
        _refuse(_lines(error))


def _files(error: BaseException) -> list[Path]:
    """The source files that it came through."""
    return [Path(frame.filename) for frame in traceback.extract_tb(error.__traceback__)]


def _of_composing(error: BaseException) -> bool:
    """Whether Hydra raised it while it composed, rather than our own code while it ran."""
    here = Path(__file__)
    return not any(path.is_relative_to(here.parent) and path.name != here.name for path in _files(error))


def _of_launching(error: BaseException) -> bool:
    """Whether a launcher could not start or follow its jobs; the jobs themselves raise nothing."""
    return any("hydra_plugins" in path.parts for path in _files(error))
