"""The rows of metrics.jsonl, and what recorder and plots read in them.

A row is a flat JSON object. Of its keys only these have a meaning here; any method may write them, none has to:

- `stage`: the stage that wrote it, with the control's name for a stage of a control ("finetune random 1");
- its step, under its own name: {"epoch": 3}. A row that counts by something that is not in `STEPS` names it:
  {"step": "round", "round": 3};
- `loss`, `held_out_top1`: of a training, per epoch;
- `accuracy`: of a candidate that a search tried, and `target`, what the search was to reach where it has several;
- objects {"edges": [...], "counts": [...]}: histograms.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from compress.errors import InputError, first_line
from compress.io.files import JSON, read_rows
from compress.io.paths import METRICS
from compress.report.read.runs import Run

EPOCH = "epoch"
STEPS = (EPOCH, "episode", "generation")  # steps that a row need not name


class RowStep(NamedTuple):
    name: str
    value: int


def step_of(row: Mapping[str, Any]) -> RowStep | None:
    """What a row counts by, and how far it has come; None where it does not count.

    >>> step_of({"stage": "pretrain", "epoch": 3})
    RowStep(name='epoch', value=3)
    >>> step_of({"stage": "sparsify", "step": "round", "round": 7, "epoch": 1})
    RowStep(name='round', value=7)
    >>> step_of({"stage": "eval", "top1": 93.0}) is None
    True
    """
    name = next((name for name in (row.get("step"), *STEPS) if isinstance(name, str) and name in row), None)
    return None if name is None else RowStep(name, row[name])


def read_metrics(run: Run) -> list[JSON]:
    """
    Raises:
        InputError: metrics.jsonl is damaged.
    """
    try:
        return read_rows(run.folder)
    except (ValueError, OSError) as error:
        raise InputError(f"{run.folder / METRICS}: damaged ({first_line(error)})") from None
