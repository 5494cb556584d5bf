"""Rows, settings and results in Weights & Biases: in a folder of the run, for `wandb sync`, or on its server.

A run that goes on has its id, which the run folder keeps. Offline the folder begins anew, as tb/ does. Online the
rows that the server has are left out: a row is a step there. With `force` it is another run.
"""

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal
from uuid import uuid4

from compress.io.extras import require_extra
from compress.io.files import JSON
from compress.report.trackers.tracker import Entry, remember, remembered, told_results, told_settings
from compress.schema.bounds import Bound

NAME = "wandb"
FOLDER = "wandb"  # what wandb itself calls it, inside of `dir`


@dataclass(frozen=True)
class Wandb:
    mode: Literal["offline", "online"]
    project: str
    entity: str | None
    timeout_seconds: Annotated[int, Bound(ge=1, most=3600)]

    def require(self, asked_by: str) -> None:
        require_extra(NAME, (NAME,), asked_by)

    def begin(self, folder: Path, summary: JSON) -> "WandbRun":
        offline = self.mode == "offline"
        if offline:
            shutil.rmtree(folder / FOLDER, ignore_errors=True)
            os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # to its makers
        import wandb

        kept = {} if summary["config"].get("force") else remembered(folder, NAME)
        run_id = kept.get("run") or uuid4().hex
        remember(folder, NAME, {"run": run_id})
        run = wandb.init(
            project=self.project,
            entity=self.entity,
            mode=self.mode,
            id=run_id,
            name=folder.name,
            dir=str(folder),
            config=told_settings(summary),
            resume=None if offline else "allow",
            settings=wandb.Settings(
                silent=True,
                console="off",
                reinit="finish_previous",
                init_timeout=self.timeout_seconds,
                login_timeout=self.timeout_seconds,  # it asks for a key, on a terminal
            ),
        )
        return WandbRun(run, run.step)


class WandbRun:
    def __init__(self, run: Any, told: int) -> None:
        """`told`: how many rows it has already."""
        self._run, self._told, self._rows = run, told, 0
        self._prefixes: set[str] = set()

    def row(self, entry: Entry) -> None:
        prefix, step = _name(entry.prefix), _name(f"{entry.prefix}/{entry.counted_by}")
        if prefix not in self._prefixes:
            self._prefixes.add(prefix)
            self._run.define_metric(f"{prefix}/*", step_metric=step)
        if self._rows >= self._told:
            numbers = {_name(name): value for name, value in entry.scalars().items()}
            self._run.log({**numbers, step: entry.step}, step=self._rows)
        self._rows += 1

    def end(self, summary: JSON) -> None:
        self._run.summary.update(told_results(summary))
        self._run.finish(exit_code=0 if summary["status"] == "done" else 1)


def _name(text: str) -> str:
    """Without dots, as in the target of "sparsify/0.5": in the name of a step wandb takes them for a path."""
    return text.replace(".", "_")
