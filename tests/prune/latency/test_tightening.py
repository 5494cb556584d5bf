"""What takes longer than its limit is chosen once more, with the limit tightened by the ratio."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from compress.errors import InputError
from compress.graph.plan import Plan
from compress.io.stage_folder import StageFolder
from compress.prune.method import Decision
from compress.run.stages import latency
from compress.run.stages.latency import Measured, is_kept, planned, tightened
from compress.schema.settings import Budget

ASKED = Budget("preserve_ratio", 0.5, beside=(Budget("latency_limit", 4.0),))


class Problem(SimpleNamespace):
    """All that is asked of one."""


def choosing(monkeypatch: pytest.MonkeyPatch, ms: float, dense_ms: float, folder: Path, second: Any = None) -> Any:
    """What is decided for a network that is measured so, where the dense one took 10 ms before: its budgets in turn,
    the problem and the decision at the end."""
    asked: list[Budget] = []
    monkeypatch.setattr(latency, "cut", lambda *_: None)
    monkeypatch.setattr(latency, "measured", lambda *_: Measured(ms, 0.1, dense_ms))
    monkeypatch.setattr(latency, "replace", lambda problem, budget=None, **more: (
        Problem(**{**vars(problem), "budget": budget}) if isinstance(problem, Problem)
        else replace(problem, **more) if budget is None else replace(problem, budget=budget, **more)
    ))  # fmt: skip

    def plan(problem: Any, work: StageFolder) -> Decision:
        asked.append(problem.budget)
        if second is not None and len(asked) == 2:
            raise second
        work.row(step=len(asked))
        return Decision(Plan(), own={"number": len(asked)})

    problem: Any = Problem(budget=ASKED, model=None, graph=None, latency=lambda: SimpleNamespace(dense_ms=10.0))
    rows: list[Any] = []
    found, decision = planned(problem, plan, StageFolder(folder, rows.append), None)  # type: ignore[arg-type]
    return asked, found, decision, rows


def test_what_is_above_its_limit_is_chosen_once_more(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked, found, decision, rows = choosing(monkeypatch, 5.0, 10.0, tmp_path)
    assert [budget.of("latency_limit") for budget in asked] == [4.0, pytest.approx(3.2)]
    assert asked[1].value == 0.5
    assert found.budget.of("latency_limit") == pytest.approx(3.2)
    assert decision.own == {"number": 2}
    assert [row["step"] for row in rows] == [1, 2]


def test_a_machine_that_is_slower_now_is_no_reason(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """5 ms where the dense network takes 12.5 and took 10 are 4."""
    asked, found, decision, _ = choosing(monkeypatch, 5.0, 12.5, tmp_path)
    assert asked == [ASKED]
    assert found.budget == ASKED
    assert decision.own == {"number": 1}


def test_what_cannot_be_tightened_stays(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked, found, decision, _ = choosing(monkeypatch, 5.0, 10.0, tmp_path, InputError("out of reach"))
    assert len(asked) == 2
    assert found.budget == ASKED
    assert decision.own == {"number": 1}


def test_a_limit_counts_as_kept_up_to_five_percent() -> None:
    assert is_kept({})
    assert is_kept({"asked_ms": 4.0, "measured_ms": 4.19})
    assert not is_kept({"asked_ms": 4.0, "measured_ms": 4.21})


def test_only_the_limit_of_latency_is_tightened() -> None:
    budget = Budget("latency_limit", 4.0, beside=(Budget("params_limit", 1.0),))
    assert tightened(budget, 2) == Budget("latency_limit", 2.0, beside=(Budget("params_limit", 1.0),))
