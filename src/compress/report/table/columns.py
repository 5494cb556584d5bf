"""The figures of a run, by the keys that `--sort`, `--where`, csv and json know them by."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from compress.report.read.runs import Run, number
from compress.report.table import units


@dataclass(frozen=True, kw_only=True)
class Measure:
    """One figure of a run: its key, how it is taken from a run, and how a table shows it."""

    key: str
    header: str = ""  # two lines; none: only for sorting, csv and json
    of: Callable[[Run], Any]
    text: Callable[[float], str] = units.points
    apart: Callable[[float, float], str] = units.by_points  # how the table of two runs shows their difference
    detail: bool = False  # only in the table that a sweep ends with, and with --details


def recovered(run: Run) -> str:
    return "finetuned" if "finetuned" in run.results else "from scratch"


def _top1(network: str) -> Callable[[Run], float | None]:
    return lambda run: run.figure(network, "top1")


def _final(name: str) -> Callable[[Run], float | None]:
    return lambda run: run.figure(run.final, name)


def delta(run: Run) -> float | None:
    """The last network's top-1 minus the dense one's, in points."""
    final, dense = run.figure(run.final, "top1"), run.figure("dense", "top1")
    return None if final is None or dense is None or run.final == "dense" else final - dense


def macs_share(run: Run) -> float | None:
    """Of the dense network's MACs; where none was measured, what the cost model said."""
    macs, dense = run.figure(run.final, "macs"), run.figure("dense", "macs")
    if macs is not None and dense:
        return macs / dense
    return number((run.budget.get("achieved") or {}).get("preserve_ratio"))


def asked(run: Run) -> float | None:
    return number((run.budget.get("asked") or {}).get(run.budget_kind))


def achieved(run: Run) -> float | None:
    """In the unit of what was asked."""
    return number((run.budget.get("achieved") or {}).get(run.budget_kind))


def computing(run: Run) -> float | None:
    """Seconds that all of its stages took, whichever run computed them; its controls are left out."""
    seconds = [number(stage.get("seconds")) for stage in run.stages.values()]
    known = [each for each in seconds if each is not None]
    return sum(known) if known else None


def _amount(
    key: str, header: str, of: Callable[[Run], Any], text: Callable[[float], str], detail: bool = False
) -> Measure:
    """What is compared by how many times as much it is."""
    return Measure(key=key, header=header, of=of, text=text, apart=units.by_percent, detail=detail)


MEASURES = (
    Measure(key="asked", header="asked", of=asked),
    Measure(key="achieved", header="achieved", of=achieved),
    Measure(key="top1", of=_final("top1")),
    Measure(key="dense", header="dense\ntop-1", of=_top1("dense")),
    Measure(key="sparsified", header="sparsified\ntop-1", of=_top1("sparsified"), detail=True),
    Measure(key="pruned", header="pruned\ntop-1", of=_top1("pruned")),
    Measure(key="finetuned", header="finetuned\ntop-1", of=lambda run: run.figure(recovered(run), "top1")),
    Measure(key="delta", header="delta,\npoints", of=delta, text=units.signed),
    _amount("macs", "MACs,\nM", _final("macs"), units.millions),
    Measure(key="macs_share", header="MACs,\nof dense", of=macs_share, text=units.share, apart=units.by_share),
    _amount("nonzero_macs", "nonzero\nMACs, M", _final("nonzero_macs"), units.millions),
    _amount("params", "params", _final("params"), units.count),
    _amount("bytes", "file,\nKiB", _final("bytes"), units.kibibytes, detail=True),
    _amount("latency", "latency,\nms", _final("latency_ms"), units.points),
    Measure(key="epochs", header="epochs", of=_final("epochs"), text=units.count, apart=units.by_count, detail=True),
    _amount("seconds", "seconds,\nall stages", computing, units.seconds),
    _amount("seconds_run", "seconds,\nthis run", lambda run: run.seconds, units.seconds),
)


def measures(runs: Sequence[Run]) -> list[Measure]:
    """All figures that some of these runs have, their thresholds and their controls' top-1 in their places."""
    thresholds = {name for run in runs for name in _thresholds(run)}
    controls = dict.fromkeys((control.control, control.final) for run in runs for control in run.controls)
    found: list[Measure] = []
    for measure in MEASURES:
        found.append(measure)
        if measure.key == "pruned":
            found += [_threshold(name) for name in sorted(thresholds)]
        if measure.key == "finetuned":
            found += [_rival(str(name), network) for name, network in controls]
    return [measure for measure in found if any(measure.of(run) is not None for run in runs)]


def _thresholds(run: Run) -> dict[str, Any]:
    found = run.stages.get("prune", {}).get("thresholds")
    return found if isinstance(found, dict) else {}


def _threshold(name: str) -> Measure:
    key = "threshold" if name == "all" else f"{name} threshold"
    return Measure(
        key=key,
        header=key.replace(" ", "\n"),
        of=lambda run: number(_thresholds(run).get(name)),
        text=units.small,
        apart=units.by_exponent,
        detail=True,
    )


def _rival(control: str, network: str) -> Measure:
    def of(run: Run) -> float | None:
        return next((rival.figure(network, "top1") for rival in run.controls if rival.control == control), None)

    return Measure(key=f"{network} {control}", header=f"{network},\n{control}", of=of, detail=True)
