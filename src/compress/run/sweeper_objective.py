"""The objective of a run for sweepers that optimise (optuna): figures of its last network, by default on held-out
images."""

from collections.abc import Callable, Sequence

from compress.io.files import JSON
from compress.schema.settings import FROM_SCRATCH, HELD_OUT, NETWORK_NAMES

SweeperObjective = float | tuple[float, ...] | None


def objective(summary: JSON, names: str | Sequence[str], held_out: Callable[[], float | None]) -> SweeperObjective:
    """One figure of the run, or several in the order of `names`; None if the run lacks one of them.

    `held_out` measures the held-out top-1 (percent) if the summary does not have it.
    """
    if isinstance(names, str):
        return _figure(summary, names, held_out)
    figures = [_figure(summary, name, held_out) for name in names]
    known = [value for value in figures if value is not None]
    return tuple(known) if len(known) == len(figures) else None


def _figure(summary: JSON, name: str, held_out: Callable[[], float | None]) -> float | None:
    value = _last_row(summary).get(name) if name != HELD_OUT else _held_out(summary)
    if value is None and name == HELD_OUT:
        value = held_out()
    return None if value is None else float(value)


def _held_out(summary: JSON) -> float | None:
    """The held-out top-1 (percent) that the last stage with a network reported, if it trained that network."""
    last = next((s for s in reversed(NETWORK_NAMES) if s in summary["stages"]), "")
    value: float | None = summary["stages"].get(last, {}).get(HELD_OUT)
    return value


def _last_row(summary: JSON) -> JSON:
    """The results of the last network of the run itself, not of a control."""
    names = {*NETWORK_NAMES.values(), FROM_SCRATCH}
    rows = [row for name, row in summary["results"].items() if name in names]
    return rows[-1] if rows else {}
