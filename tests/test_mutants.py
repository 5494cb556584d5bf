"""The list of broken laws is about the code as it stands. `make mutants` tells whether each is noticed."""

import subprocess
import sys
from collections import Counter
from pathlib import Path

import mutants
import pytest

ROOT = Path(__file__).parents[1]
LISTED = mutants.read_mutants(ROOT)
PARTS = {"agents", "data", "distill", "graph", "measure", "methods", "models", "prune", "report", "search", "train"}


def test_every_law_stands_where_it_is_to_be_broken_and_its_tests_are_there() -> None:
    assert len(LISTED) >= 80
    problems = []
    for mutant in LISTED:
        try:
            assert mutant.broken((ROOT / mutant.path).read_text()) != (ROOT / mutant.path).read_text()
        except (ValueError, OSError) as error:
            problems.append(str(error))
        problems += [f"{mutant.law}: there is no test {name}" for name in mutant.unknown_tests(ROOT)]
        if not mutant.tests:
            problems.append(f"{mutant.law}: names no test")
    assert not problems, "\n".join(problems)


def test_no_law_is_broken_twice_in_the_same_way() -> None:
    assert not [text for text, count in Counter((m.file, m.stands, m.put) for m in LISTED).items() if count > 1]
    assert not [law for law, count in Counter((m.file, m.law) for m in LISTED).items() if count > 1]


def test_every_part_has_some() -> None:
    parts = Counter(Path(mutant.file).parts[0] for mutant in LISTED)
    assert set(parts) >= PARTS
    assert parts["train"] >= 10


def mutant(**changes: str) -> mutants.Mutant:
    settings = {"law": "x", "file": "seeds.py", "stands": "a = 1", "put": "a = 2"}
    return mutants.Mutant(**(settings | changes), tests=("tests/test_seeds.py::test_none", "tests/test_seeds.py"))


@pytest.mark.parametrize(
    ("text", "changes", "says"),
    [
        ("b = 1\n", {}, "stands there 0 times: a = 1"),
        ("a = 1\na = 1\n", {}, "stands there 2 times: a = 1"),
        ("a = 1\n", {"put": "a = ("}, "is no Python with: a = ("),
        ("a = 1\n", {"put": "a = 1"}, "is put back as it was"),
    ],
)
def test_what_no_longer_applies_is_told(text: str, changes: dict[str, str], says: str) -> None:
    with pytest.raises(ValueError, match="seeds.py") as told:
        mutant(**changes).broken(text)
    assert says in str(told.value)


def test_a_law_is_broken_once_and_a_test_that_is_not_there_is_named() -> None:
    assert mutant().broken("a = 1\nb = 1\n") == "a = 2\nb = 1\n"
    assert mutant().unknown_tests(ROOT) == ["tests/test_seeds.py::test_none"]


TRIAL = """
import sys
from pathlib import Path
import mutants

seeds = ("tests/test_seeds.py",)
law = {"law": "constant", "file": "io/seeds.py", "stands": "digest()[:6]", "put": "digest()[:0]"}
listed = [
    mutants.Mutant(**law, tests=seeds),
    mutants.Mutant(**law, tests=("tests/test_settings.py",)),
    mutants.Mutant(**{**law, "stands": "nowhere"}, tests=seeds),
    mutants.Mutant(**law, tests=("tests/test_seeds.py::test_gone",)),
]
copy = mutants.Copy(Path(sys.argv[1]))
verdicts = mutants.judged(listed, [copy])
assert (copy.root / "src/compress/io/seeds.py").read_text() == (mutants.ROOT / "src/compress/io/seeds.py").read_text()
assert not mutants.wrong_without(listed[:2], copy)
assert mutants.wrong_without(listed[3:], copy)
print(mutants.table(verdicts))
"""


@pytest.mark.slow
def test_a_law_that_nobody_guards_survives_and_is_told(tmp_path: Path) -> None:
    """One that is caught, one whose test does not see it, one whose text is gone, one whose test is gone."""
    command = [sys.executable, "-c", TRIAL, str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT / "tools", capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "4 broken laws: 1 caught, 1 SURVIVED, 1 NO LONGER APPLIES, 1 CANNOT BE RUN" in done.stdout
    for told in ("all of its tests pass: tests/test_settings.py", "stands there 0 times: nowhere", "test_gone"):
        assert told in done.stdout
