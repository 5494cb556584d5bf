"""Two runs side by side, and what stands in which format."""

from pathlib import Path
from typing import Any

from compress.report.read.runs import Run
from compress.report.table.query import Keys
from compress.report.table.rows import make_table, number_text
from compress.report.table.side_by_side import side_by_side


def run(name: str, budget: dict[str, float] | None = None, **row: Any) -> Run:
    return Run(
        folder=Path(name),
        settings={"method": "slimming"},
        results={"dense": {"top1": 90.0, "macs": 4e6}, "finetuned": {"top1": 91.0, "macs": 2e6, **row}},
        budget={"asked": {"percent": 0.5}, "achieved": budget or {"percent": 0.5}, "met": False},
    )


def laid(a: Run, b: Run, style: str = "table") -> str:
    keys = Keys([a, b])
    return side_by_side(make_table([a, b], keys), keys, style)


def difference(text: str, figure: str) -> str:
    (line,) = [line for line in text.splitlines() if line.startswith(figure)]
    return line.split("  ")[-1].strip()


def test_a_difference_has_one_unit_per_figure() -> None:
    first = run("a", macs=2_092_000, bytes=995_000, params=30_000, latency_ms=1.0, epochs=10)
    second = run("b", macs=2_092_640, bytes=995_008, params=30_300, latency_ms=1.5, epochs=20, top1=91.0 + 1e-14)
    text = laid(first, second)
    wanted = {
        "MACs, M ": "+0.0 %", "file, KiB": "+0.0 %", "params": "+1.0 %", "latency": "+50.0 %", "epochs": "+10",
        "delta": "+0.00", "achieved": "+0.00 points", "MACs, of dense": "+0.02 points",
    }  # fmt: skip
    assert {figure: difference(text, figure) for figure in wanted} == wanted


def test_lines_between_the_tables_are_comments_in_latex_and_paragraphs_in_markdown() -> None:
    first, second = run("with_underscores"), run("100%")
    lines = laid(first, second, "latex").splitlines()
    tables = [at for at, line in enumerate(lines) if line.startswith(r"\begin{tabular}")]
    assert len(tables) == 1
    bare = [line for line in (*lines[: tables[0]], *lines[lines.index(r"\end{tabular}") + 1 :]) if line]
    assert len(bare) >= 6
    assert all(line.startswith("% ") for line in bare)
    assert laid(first, second, "markdown").startswith("a: with_underscores\n\nb: 100%\n\n")


def test_means_of_mmacs_keep_their_zeros_beside_a_spread() -> None:
    runs = [run(str(got), {"percent": 0.5}) for got in (59.7, 60.0, 60.3)]
    for one in runs:
        one.budget.update(asked={"flops_limit": 60.0}, achieved={"flops_limit": float(str(one.folder))})
    keys = Keys(runs)
    table = make_table(runs, keys, ["method"])
    (row,) = table.rows
    shown = {column.key: number_text(row, column, False) for column in table.columns}
    assert (shown["asked"], shown["achieved"]) == ("60 M", "60.00 ± 0.30 M")
