"""Laws broken on purpose, one at a time, in a copy: the tests named for each must notice. `make mutants`.

`tests/mutants.toml` lists them: what stands in a file, what is put instead, and which tests have to fail. A text that
does not stand there exactly once is told, and so is a test that fails without any law broken, or cannot be run.

Tests run in forks of a process that has loaded torch: that is most of what a single test takes.
"""

import argparse
import importlib
import os
import re
import shutil
import signal
import sys
import tempfile
import time
import tomllib
import traceback
import warnings
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TABLE = Path("tests") / "mutants.toml"
COPIED = ("src", "conf", "docs", "tests", "pyproject.toml", "README.md")
LOADED = (
    "fvcore.nn",
    "hydra",
    "matplotlib.pyplot",
    "pytest",
    "torch._dynamo",
    "torch.utils.tensorboard",
    "torchvision",
)
CAUGHT, SURVIVED, STALE, BROKEN = "caught", "SURVIVED", "NO LONGER APPLIES", "CANNOT BE RUN"
SECONDS = 600  # for the tests of one broken law
PASSED, FAILED, CRASHED = 0, 1, 3  # pytest's exit codes


@dataclass(frozen=True)
class Mutant:
    """One law and how it is broken."""

    law: str
    file: str  # below src/compress
    stands: str
    put: str
    tests: tuple[str, ...]

    @property
    def path(self) -> Path:
        return Path("src") / "compress" / self.file

    def broken(self, text: str) -> str:
        """The file's text with the law broken.

        Raises:
            ValueError: what should stand there does not, or not once, or what is put instead is no other program.
        """
        if (count := text.count(self.stands)) != 1:
            raise ValueError(f"{self.path}: stands there {count} times: {self.stands}")
        changed = text.replace(self.stands, self.put)
        try:
            compile(changed, str(self.path), "exec")
        except SyntaxError as error:
            raise ValueError(f"{self.path}: is no Python with: {self.put} ({error.msg})") from None
        if self.stands == self.put:
            raise ValueError(f"{self.path}: is put back as it was: {self.put}")
        return changed

    def unknown_tests(self, root: Path) -> list[str]:
        """Of the tests that it names, those that are not there."""
        return [name for name in self.tests if not _is_there(root, name)]


def _is_there(root: Path, name: str) -> bool:
    file, _, function = name.partition("::")
    if not (root / file).is_file():
        return False
    pattern = rf"^def {re.escape(function.partition('[')[0])}\("
    return not function or re.search(pattern, (root / file).read_text(), re.MULTILINE) is not None


def read_mutants(root: Path = ROOT) -> list[Mutant]:
    with open(root / TABLE, "rb") as file:
        listed = tomllib.load(file)["mutant"]
    return [Mutant(**{**each, "tests": tuple(each["tests"])}) for each in listed]


# -- running ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Verdict:
    mutant: Mutant
    what: str  # caught, or what went wrong
    told: str = ""  # by which test, or why
    seconds: float = 0.0

    def __str__(self) -> str:
        why = "" if self.what == CAUGHT else f"\n    {self.told}"
        return f"{self.what:<18} {self.seconds:5.1f} s  {self.mutant.file}: {self.mutant.law}{why}"


class Copy:
    """A copy of the tree, in which one law at a time is broken."""

    def __init__(self, folder: Path) -> None:
        self.root, self.output = folder / "tree", folder / "output"
        self.root.mkdir(parents=True)
        for name in COPIED:
            source = ROOT / name
            if source.is_dir():
                shutil.copytree(source, self.root / name, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(source, self.root / name)

    def start(self, tests: Iterable[str]) -> int:
        """The process that runs them."""
        sys.stdout.flush()
        if child := os.fork():
            return child
        code = CRASHED
        try:
            code = self._run(list(tests))
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)

    def _run(self, tests: Sequence[str]) -> int:
        os.setsid()
        output = os.open(self.output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        for stream in (1, 2):
            os.dup2(output, stream)
        os.chdir(self.root)
        os.environ |= {"PYTHONPATH": str(self.root / "src"), "PYTHONDONTWRITEBYTECODE": "1"}
        sys.path.insert(0, str(self.root / "src"))
        sys.dont_write_bytecode = True  # a file that is broken and mended within a second looks the same to a cache
        import pytest

        plain = ["-x", "-q", "-m", "not slow and not gpu", "-p", "no:cacheprovider", "-p", "no:xdist"]
        loaded = [
            "-W",
            "ignore::pytest.PytestAssertRewriteWarning",
        ]  # a package that brings a plugin is there already
        code = int(pytest.main([*plain, *loaded, *tests]))
        sys.stdout.flush()
        return code

    def end(self, process: int, seconds: float) -> int | None:
        """The exit code, if it has ended; None as long as it runs. It ends after so many seconds at the latest."""
        done, status = os.waitpid(process, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        if seconds > SECONDS:
            os.killpg(process, signal.SIGKILL)
            os.waitpid(process, 0)
            return -signal.SIGKILL
        return None


class Trial:
    """One law, broken in a copy while its tests run."""

    def __init__(self, mutant: Mutant, copy: Copy) -> None:
        self.mutant, self.copy = mutant, copy
        self.file, self.began = copy.root / mutant.path, time.perf_counter()
        self.text = self.file.read_text()
        self.file.write_text(mutant.broken(self.text))
        self.process = copy.start(mutant.tests)

    def verdict(self) -> Verdict | None:
        """None as long as the tests run; the law is mended with it."""
        seconds = time.perf_counter() - self.began
        code = self.copy.end(self.process, seconds)
        if code is None:
            return None
        self.file.write_text(self.text)
        told = self.copy.output.read_text(errors="replace")
        if code == PASSED:
            return Verdict(self.mutant, SURVIVED, f"all of its tests pass: {' '.join(self.mutant.tests)}", seconds)
        if code != FAILED:
            return Verdict(self.mutant, BROKEN, f"pytest ends with {code}: {told.strip()[-300:]}", seconds)
        failed = re.findall(r"^(?:FAILED|ERROR) (\S+)", told, re.MULTILINE)
        return Verdict(self.mutant, CAUGHT, " ".join(failed), seconds)


def judged(mutants: Sequence[Mutant], copies: Sequence[Copy]) -> list[Verdict]:
    """Each broken in a copy of its own for the while, as many at a time as there are copies."""
    waiting, free, trials = list(mutants)[::-1], list(copies), list[Trial]()
    verdicts: list[Verdict] = []
    while waiting or trials:
        ended: list[Verdict] = []
        if waiting and free:
            mutant = waiting.pop()
            try:
                trials.append(Trial(mutant, free[-1]))
                free.pop()
            except (ValueError, OSError) as error:
                ended.append(Verdict(mutant, STALE, str(error)))
        for trial in list(trials):
            if (verdict := trial.verdict()) is not None:
                ended.append(verdict)
                trials.remove(trial)
                free.append(trial.copy)
        for verdict in ended:
            print(verdict, flush=True)
        verdicts += ended
        if not (ended or (waiting and free)):
            time.sleep(0.02)
    return verdicts


def wrong_without(mutants: Sequence[Mutant], copy: Copy) -> str:
    """What is wrong with the named tests where no law is broken; nothing, as it should be."""
    began, process = time.perf_counter(), copy.start(dict.fromkeys(name for m in mutants for name in m.tests))
    while (code := copy.end(process, time.perf_counter() - began)) is None:
        time.sleep(0.02)
    return "" if code == PASSED else f"{copy.output.read_text(errors='replace')}\npytest ends with {code}."


def table(verdicts: Sequence[Verdict]) -> str:
    """Per file how many of its laws were caught; below the sum what was not."""
    laws = Counter(verdict.mutant.file for verdict in verdicts)
    caught = Counter(verdict.mutant.file for verdict in verdicts if verdict.what == CAUGHT)
    width = max(map(len, laws), default=0)
    counts = Counter(verdict.what for verdict in verdicts)
    total = ", ".join(f"{counts[what]} {what}" for what in (CAUGHT, SURVIVED, STALE, BROKEN) if counts[what])
    lines = [f"{file:<{width}}  {caught[file]} of {count} caught" for file, count in sorted(laws.items())]
    return "\n".join(["", *lines, "", f"{len(verdicts)} broken laws: {total}", *lost(verdicts)])


def lost(verdicts: Sequence[Verdict]) -> list[str]:
    return [str(verdict) for verdict in verdicts if verdict.what != CAUGHT]


def main(argv: Sequence[str]) -> int:
    """Exit code 0 where every law that was broken was caught."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-k", default="", metavar="WORD", help="only those with this in law, file or tests")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="so many at a time")
    options = parser.parse_args(argv)
    mutants = [m for m in read_mutants() if options.k in " ".join([m.law, m.file, *m.tests])]
    if not mutants:
        print(f"no law has {options.k} in its name, file or tests")
        return 1
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of others, on import
        for name in LOADED:
            importlib.import_module(name)
    began = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        copies = [Copy(Path(folder) / str(number)) for number in range(max(1, options.jobs))]
        if wrong := wrong_without(mutants, copies[0]):
            print(f"{wrong} The named tests have to pass before any law is broken.")
            return 1
        verdicts = judged(mutants, copies)
    print(table(verdicts), f"{time.perf_counter() - began:.0f} s", sep="\n")
    return 1 if lost(verdicts) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
