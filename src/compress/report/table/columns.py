"""The columns of figures: of each its key (in `--sort`, `--where`, csv and json), its header, how to get it.

Columns of settings are not here: `rows` makes them of the configuration differences."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from compress.report.read.runs import Run, number
from compress.report.table import as_text
from compress.schema.settings import BUDGETS, BudgetKind


@dataclass(frozen=True, kw_only=True)
class Column:
    """A number that runs have, or a short text."""

    key: str
    header: str = ""  # may have two lines; empty: only for sorting, csv and json
    of: Callable[[Run], Any]
    text: Callable[[Any], str] = as_text.two_decimals
    difference: Callable[[Any, Any], str] = as_text.difference_in_points  # in the table of two runs
    detail: bool = False  # shown only with --details, and in the table that a sweep ends with


def recovered(run: Run) -> str:
    """The network after fine-tuning, or the one that was trained from scratch in its place."""
    return "finetuned" if "finetuned" in run.results else "from scratch"


def _top1(network: str) -> Callable[[Run], float | None]:
    return lambda run: run.result(network, "top1")


def _final(name: str) -> Callable[[Run], float | None]:
    return lambda run: run.result(run.final, name)


def delta(run: Run) -> float | None:
    """The last network's top-1 minus the dense one's, in points."""
    final, dense = run.result(run.final, "top1"), run.result("dense", "top1")
    return None if final is None or dense is None or run.final == "dense" else final - dense


def macs_share(run: Run) -> float | None:
    """Of the dense network's MACs: as measured, else as the plan was priced."""
    macs, dense = run.result(run.final, "macs"), run.result("dense", "macs")
    if macs is not None and dense:
        return macs / dense
    return number(run.achieved.get("preserve_ratio"))


def gene(run: Run) -> str | None:
    """As a search found it, in the form that `method.gene` takes."""
    found = run.stages.get("prune", {}).get("gene")
    return f"[{','.join(map(str, found))}]" if isinstance(found, list) else None


def asked(run: Run) -> float | None:
    return number(run.asked.get(run.budget_kind or ""))


def achieved(run: Run) -> float | None:
    """In the unit of what was asked."""
    return number(run.achieved.get(run.budget_kind or ""))


def predicted(run: Run) -> float | None:
    """The latency by which a limit in ms was met, beside which `achieved` is what was then measured."""
    return number((run.budget.get("latency") or {}).get("predicted_ms"))


def seconds_of_stages(run: Run) -> float | None:
    """What all stages took, also those that another run computed; without the stages of controls."""
    seconds = [number(stage.get("seconds")) for stage in run.stages.values()]
    known = [each for each in seconds if each is not None]
    return sum(known) if known else None


def _searching(run: Run, name: str) -> float | None:
    """Sum over the stages that scored candidates: of their number, or of the seconds of these stages."""
    stages = [stage for stage in run.stages.values() if number(stage.get("evaluations")) is not None]
    known = [each for each in (number(stage.get(name)) for stage in stages) if each is not None]
    return sum(known) if known else None


def _counted(counter: str) -> Callable[[Run], float | None]:
    """Multiply-adds of the pruned network by another counter, where a search priced its candidates by it."""
    return lambda run: number((run.stages.get("prune", {}).get("counters") or {}).get(counter))


def _amount(
    key: str, header: str, of: Callable[[Run], Any], text: Callable[[float], str], detail: bool = False
) -> Column:
    """A column of amounts, which differ by so many percent."""
    difference = as_text.difference_in_percent
    return Column(key=key, header=header, of=of, text=text, difference=difference, detail=detail)


COLUMNS = (
    Column(key="asked", header="asked", of=asked),
    Column(key="achieved", header="achieved", of=achieved),
    _amount("predicted", "predicted,\nms", predicted, as_text.two_decimals),
    Column(key="top1", of=_final("top1")),
    Column(key="dense", header="dense\ntop-1", of=_top1("dense")),
    Column(key="sparsified", header="sparsified\ntop-1", of=_top1("sparsified"), detail=True),
    Column(key="pruned", header="pruned\ntop-1", of=_top1("pruned")),
    Column(key="finetuned", header="finetuned\ntop-1", of=lambda run: run.result(recovered(run), "top1")),
    Column(key="delta", header="delta,\npoints", of=delta, text=as_text.signed),
    _amount("macs", "MACs,\nM", _final("macs"), as_text.millions),
    Column(
        key="macs_share",
        header="MACs,\nof dense",
        of=macs_share,
        text=as_text.share,
        difference=as_text.difference_of_shares,
    ),
    _amount("macs_fvcore", "MACs, M\nby fvcore", _counted("fvcore"), as_text.millions, detail=True),
    _amount("macs_search", "MACs, M\nby search", _counted("search"), as_text.millions, detail=True),
    _amount("macs_ptflops", "MACs, M\nby ptflops", _counted("ptflops"), as_text.millions, detail=True),
    _amount("nonzero_macs", "nonzero\nMACs, M", _final("nonzero_macs"), as_text.millions),
    _amount("params", "params", _final("params"), as_text.count),
    _amount("bytes", "file,\nKiB", _final("bytes"), as_text.kibibytes, detail=True),
    _amount("latency", "latency,\nms", _final("latency_ms"), as_text.two_decimals),
    _amount("latency_spread", "spread,\nms", _final("latency_spread_ms"), as_text.two_decimals, detail=True),
    Column(
        key="epochs",
        header="epochs",
        of=_final("epochs"),
        text=as_text.count,
        difference=as_text.difference_of_counts,
        detail=True,
    ),
    _amount("evaluations", "candidates\nscored", lambda run: _searching(run, "evaluations"), as_text.count),
    _amount("search_seconds", "seconds,\nsearch", lambda run: _searching(run, "seconds"), as_text.seconds),
    Column(key="gene", header="gene", of=gene, text=str, difference=lambda a, b: "", detail=True),
    _amount("seconds", "seconds,\nall stages", seconds_of_stages, as_text.seconds),
    _amount("seconds_run", "seconds,\nthis run", lambda run: run.seconds, as_text.seconds),
)


def columns(runs: Sequence[Run]) -> list[Column]:
    """The columns that some of these runs have a figure for, with columns per limit beside the budget, per threshold
    and per control's top-1."""
    thresholds = {name for run in runs for name in _thresholds(run)}
    controls = dict.fromkeys((control.control, control.final) for run in runs for control in run.controls)
    found: list[Column] = []
    for column in COLUMNS:
        found.append(column)
        if column.key == "achieved":
            found += [limit for kind in BUDGETS if any(kind in run.beside for run in runs) for limit in _limit(kind)]
        if column.key == "pruned":
            found += [_threshold(name) for name in sorted(thresholds)]
        if column.key == "finetuned":
            found += [_top1_of_control(str(name), network) for name, network in controls]
    return [column for column in found if any(column.of(run) is not None for run in runs)]


def _limit(kind: BudgetKind) -> list[Column]:
    """What was asked and achieved of a limit that stands beside the budget of some runs."""

    def text(value: float) -> str:
        return as_text.in_budget_unit(kind, value)

    def achieved_of(run: Run) -> float | None:
        return number(run.achieved.get(kind)) if kind in run.beside else None

    return [
        _amount(f"asked {kind}", f"asked\n{kind}", lambda run: number(run.beside.get(kind)), text),
        _amount(f"achieved {kind}", f"achieved\n{kind}", achieved_of, text),
    ]


def _thresholds(run: Run) -> dict[str, Any]:
    found = run.stages.get("prune", {}).get("thresholds")
    return found if isinstance(found, dict) else {}


def _threshold(name: str) -> Column:
    key = "threshold" if name == "all" else f"{name} threshold"
    return Column(
        key=key,
        header=key.replace(" ", "\n"),
        of=lambda run: number(_thresholds(run).get(name)),
        text=as_text.scientific,
        difference=as_text.difference_with_exponent,
        detail=True,
    )


def _top1_of_control(control: str, network: str) -> Column:
    def of(run: Run) -> float | None:
        return next((each.result(network, "top1") for each in run.controls if each.control == control), None)

    return Column(key=f"{network} {control}", header=f"{network},\n{control}", of=of, detail=True)
