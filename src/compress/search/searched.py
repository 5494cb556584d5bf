"""`Searched`: what methods have in common whose widths any search could decide."""

from pathlib import Path
from typing import Protocol, runtime_checkable

from compress.prune.method import Problem
from compress.search.feasible import Feasible
from compress.search.scorers.scorer import Scorer


@runtime_checkable
class Searched(Protocol):
    """A method whose widths another search could decide: within what, and scored by what."""

    def within(self, problem: Problem) -> Feasible:
        """What the budget of the problem allows.

        Raises:
            InputError: nothing; says what is reachable.
        """

    def scorer_of(self, problem: Problem, learned: Path | None) -> Scorer:
        """`learned` is the folder that `learn` wrote to, None without `sparsify`."""
