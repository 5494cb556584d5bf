"""The figures that a sweeper makes large or small: of the last network of a run, on held-out images unless asked."""

from collections.abc import Callable, Sequence

from compress.io.files import JSON
from compress.schema.settings import FROM_SCRATCH, HELD_OUT, NETWORK_NAMES

Objective = float | tuple[float, ...] | None


def objective(summary: JSON, asked: str | Sequence[str], held_out: Callable[[], float | None]) -> Objective:
    """One figure, or several in their order; None where the run does not have one.

    `held_out` measures the network where the summary does not say how it does on held-out images.
    """
    if isinstance(asked, str):
        return _figure(summary, asked, held_out)
    found = [_figure(summary, name, held_out) for name in asked]
    known = [value for value in found if value is not None]
    return tuple(known) if len(known) == len(found) else None


def _figure(summary: JSON, name: str, held_out: Callable[[], float | None]) -> float | None:
    value = _last_row(summary).get(name) if name != HELD_OUT else _held_out(summary)
    if value is None and name == HELD_OUT:
        value = held_out()
    return None if value is None else float(value)


def _held_out(summary: JSON) -> float | None:
    """What the stage that left the network measured, if it trained it."""
    last = next((s for s in ("finetune", "prune", "sparsify", "pretrain") if s in summary["stages"]), "")
    value: float | None = summary["stages"].get(last, {}).get(HELD_OUT)
    return value


def _last_row(summary: JSON) -> JSON:
    """The figures of the last network of the run's own, not of its controls."""
    names = {*NETWORK_NAMES.values(), FROM_SCRATCH}
    rows = [row for name, row in summary["results"].items() if name in names]
    return rows[-1] if rows else {}
