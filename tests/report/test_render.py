"""What a cell holds in which format."""

import csv
import io
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from compress.report.read.runs import Run
from compress.report.table.query import Keys
from compress.report.table.render import render
from compress.report.table.rows import make_table


def run(name: str, seed: int = 0, top1: float = 90.0, started: Any = None, **settings: Any) -> Run:
    return Run(
        folder=Path(name),
        settings={"method": "slimming", **{key.replace("__", "."): value for key, value in settings.items()}},
        results={"finetuned": {"top1": top1 + seed}},
        started=started,
    )


def shown(runs: list[Run], style: str, *by: str) -> str:
    keys = Keys(runs)
    return render(make_table(runs, keys, by), style)


def raw(runs: list[Run], *by: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads(shown(runs, "json", *by), parse_constant=pytest.fail)
    return rows


def test_no_cell_begins_with_what_a_rule_of_latex_takes_for_its_own() -> None:
    lines = shown([run("a", model__widths=[1, 2]), run("b", model__widths=[3, 4])], "latex").splitlines()
    assert len([line for line in lines if line.strip().startswith("{}[")]) == 2
    assert not [line for line in lines if line.strip().startswith("[")]


@pytest.mark.parametrize("style", ["table", "markdown", "latex"])
def test_no_setting_is_cut_where_it_differs(style: str) -> None:
    runs = [run(f"run{at}", model__widths=[64] * 30 + [at]) for at in range(3)]
    for text in (shown(runs, style), shown(runs, style, "model.widths")):
        assert all(f",64,{at}]" in text for at in range(3))
        assert f"[{'64,' * 30}" not in text
        assert "run0" not in text


@pytest.mark.parametrize("style", ["table", "markdown", "latex"])
def test_rows_that_look_the_same_show_their_folders(style: str) -> None:
    assert all(f"run{at}" in shown([run("run0"), run("run1")], style) for at in range(2))


def test_settings_called_like_columns_of_csv_and_json_keep_their_values() -> None:
    names = ("n", "budget", "marks", "met", "runs", "top1_sd")
    runs = [run(str(at), top1=90.0 + at, **{f"model__{name}": at for name in names}, n=-at) for at in (3, 4)]
    for row, value in zip(raw(runs), (3, 4), strict=True):
        assert all(row[f"model.{name}"] == value for name in names)
    (row,) = raw(runs, "method")
    assert (row["n"], row["runs"]) == (2, ["3", "4"])
    first, second = raw(runs, "n")
    assert [(each["config.n"], each["n"]) for each in (first, second)] == [(-3, 1), (-4, 1)]


def test_json_is_json_whatever_a_summary_holds() -> None:
    runs = [run("a", lr=math.inf, started=math.nan), run("b", lr=[1.0, -math.inf])]
    runs[0].budget["met"] = math.nan
    first, second = raw(runs)
    assert (first["lr"], first["met"], first["started"], second["lr"]) == ("inf", "nan", "nan", [1.0, "-inf"])


@pytest.mark.parametrize("style", ["table", "markdown", "latex"])
def test_a_cell_is_one_line(style: str) -> None:
    text = shown([run("a", note="two\nlines"), run("b", note="one")], style)
    assert "two lines" in text


def test_folders_of_runs_that_are_alike_stand_once_in_csv() -> None:
    rows = list(csv.DictReader(io.StringIO(shown([run("a"), run("b")], "csv"))))
    assert [row["run"] for row in rows] == ["a", "b"]


def test_a_budget_that_the_rows_are_grouped_by_stays_where_the_one_asked_is_not_shown() -> None:
    runs = [replace(run(str(at), seed=at), budget={"asked": {"percent": at / 10}}) for at in (1, 2)]
    keys = Keys(runs)
    table = make_table(runs, keys, ["percent"])
    assert "asked" in render(table, "table")
    columns = [column for column in table.columns if column.key == "finetuned"]
    header = render(replace(table, columns=columns), "table").splitlines()[0].split()
    assert header == ["percent", "n", "finetuned"]


def test_no_short_name_is_that_of_a_setting_at_the_root() -> None:
    """`stages` of the root is left out where it is the method's."""
    runs = [run(str(at), distill__stages=stages, distill__tau=at) for at, stages in enumerate(([], ["finetune"]))]
    keys = Keys(runs)
    assert keys.short["distill.stages"] == "distill.stages"
    assert keys.short["distill.tau"] == "tau"
