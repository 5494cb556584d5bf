"""The table that a run ends with, from its summary alone."""

from typing import Any

from tabulate import tabulate

from compress.report.table import latency
from compress.report.table.as_text import count, in_budget_unit, kibibytes, share, two_decimals

LATENCY = "latency_limit"


def results_table(summary: dict[str, Any]) -> str:
    """A row per network (dense, pruned, finetuned), with the budget asked beside what was achieved of it."""
    results, budget = summary["results"], summary["budget"]
    if not results:
        return "no network was measured (stages without eval)"
    first = next(iter(results.values()))
    # a method that begins with new weights has no dense row
    dense_macs = first["macs"] if "dense" in results else budget.get("dense_macs", first["macs"])
    asked = {**budget["asked"], **budget.get("beside", {})} if budget["achieved"] else {}  # else nothing was pruned
    predicted = (budget.get("latency") or {}).get("predicted_ms")
    compared = [header for kind in asked for header in _headers(kind)]
    sparse = any("sparsity" in row for row in results.values())
    rows = []
    for name, row in results.items():
        of = _budget_of(name, summary)
        got, asked_of = of.get("achieved", {}), {**asked, **of.get("asked", {})}
        pairs = [
            (kind, value)
            for kind in asked
            for value in (asked_of[kind], *([predicted] if kind == LATENCY else []), got.get(kind))
        ]
        figures = [in_budget_unit(kind, value) if got and value is not None else "" for kind, value in pairs]
        rows.append(
            [
                name,
                f"{two_decimals(row['top1'])} %",
                _epochs(row),
                in_budget_unit("flops_limit", row["macs"] / 1e6),
                share(row["macs"] / dense_macs),
                *figures,
                count(row["params"]),
                *(_sparse(row) if sparse else []),
                f"{kibibytes(row['bytes'])} KiB",
                latency.cell(row),
            ]
        )
    zeros = ["zeros", "nonzero MACs", "zipped"] if sparse else []
    headers = ["", "test top-1", "epochs", "MACs", "of dense", *compared, "params", *zeros, "file", "latency"]
    text = tabulate(rows, headers, stralign="right", disable_numparse=True)
    notes = [
        f"latency: {latency.batches([first])}, median in turns ± half the quartiles, {latency.measured_in(first)}; "
        "MACs: multiply-adds of convolutions and linear layers"
    ]
    if overlap := latency.not_told_apart(results):
        notes.append(overlap)
    if sparse:
        notes.append(
            "zeros: of the weights of convolutions and linear layers; nonzero MACs: those without a zero weight"
        )
    if not budget.get("met", True):
        notes.append("BUDGET MISSED: achieved differs from asked by more than 1 % and one rounding step")
    elif budget.get("binds"):
        notes.append(f"{budget['binds']} binds before {next(iter(asked))} is spent")
    return "\n".join([text, *notes])


def _headers(kind: str) -> list[str]:
    return [f"asked {kind}", "predicted", "measured"] if kind == LATENCY else [f"asked {kind}", "achieved"]


def _budget_of(name: str, summary: dict[str, Any]) -> dict[str, Any]:
    """What was asked of a network and achieved: "pruned" is the run's, "pruned, random 1" its control's."""
    stage, _, branch = name.partition(", ")
    if stage in ("dense", "sparsified"):
        return {}
    branches = {**summary.get("controls", {}), **summary.get("steps", {})}
    budget: dict[str, Any] = branches[branch] if branch else summary["budget"]
    return budget


def _epochs(row: dict[str, Any]) -> str:
    return "" if row.get("epochs") is None else str(row["epochs"])


def _sparse(row: dict[str, Any]) -> list[str]:
    if "sparsity" not in row:
        return ["", "", ""]
    sizes = in_budget_unit("flops_limit", row["nonzero_macs"] / 1e6), f"{kibibytes(row['zipped_bytes'])} KiB"
    return [share(row["sparsity"]), *sizes]
