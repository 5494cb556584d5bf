"""Rows, settings and results in MLflow: in a folder, or on a server.

The run folder keeps the id of its run there. A run that goes on is opened again and is told only what it lacks; with
`force` it is another run, since stages may come out otherwise.
"""

import json
import os
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from compress.io.extras import require_extra
from compress.io.files import JSON
from compress.report.trackers.tracker import Entry, remember, remembered, told_results, told_settings
from compress.schema.bounds import Bound

NAME = "mlflow"
AT_ONCE = 100  # params or metrics in one request, MLflow's limit for params
ENDED = {"done": "FINISHED", "failed": "FAILED"}


@dataclass(frozen=True)
class Mlflow:
    uri: str
    experiment: str
    timeout_seconds: Annotated[int, Bound(ge=1, most=3600)]
    retries: Annotated[int, Bound(ge=0, most=10)]

    def require(self, asked_by: str) -> None:
        require_extra(NAME, (NAME,), asked_by)

    def begin(self, folder: Path, summary: JSON) -> "MlflowRun":
        _prepare(self.timeout_seconds, self.retries)
        from mlflow.tracking import MlflowClient

        client, uri = MlflowClient(tracking_uri=address(self.uri)), address(self.uri)
        kept = {} if summary["config"].get("force") else remembered(folder, NAME)
        if kept.get("uri") == uri and _is_there(client, kept.get("run", "")):
            client.update_run(kept["run"], status="RUNNING")
            return MlflowRun(client, kept["run"])
        run = client.create_run(
            _experiment(client, self.experiment), run_name=folder.name, tags=_tags(folder, summary)
        )
        remember(folder, NAME, {"uri": uri, "run": run.info.run_id})
        opened = MlflowRun(client, run.info.run_id)
        opened.settings(told_settings(summary))
        return opened


class MlflowRun:
    def __init__(self, client: Any, run: str) -> None:
        self._client, self._run = client, run
        known = client.get_run(run).data.metrics
        self._told = {(key, point.step) for key in known for point in client.get_metric_history(run, key)}

    def settings(self, settings: JSON) -> None:
        from mlflow.entities import Param

        params = [Param(_name(key), _text(value)) for key, value in settings.items()]
        for at in range(0, len(params), AT_ONCE):
            self._client.log_batch(self._run, params=params[at : at + AT_ONCE])

    def row(self, entry: Entry) -> None:
        self._numbers([(name, value, entry.step) for name, value in entry.scalars().items()])

    def end(self, summary: JSON) -> None:
        self._numbers([(name, value, 0) for name, value in told_results(summary).items()])
        self._client.set_terminated(self._run, ENDED.get(summary["status"], "KILLED"))

    def _numbers(self, numbers: Sequence[tuple[str, float, int]]) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        named = [(_name(name), value, step) for name, value, step in numbers]
        new = [Metric(name, float(value), now, step) for name, value, step in named if (name, step) not in self._told]
        for at in range(0, len(new), AT_ONCE):
            self._client.log_batch(self._run, metrics=new[at : at + AT_ONCE])
        self._told |= {(metric.key, metric.step) for metric in new}


def address(uri: str) -> str:
    """MLflow's URI of a store: that of a folder, if it is one.

    >>> address("http://server:5000"), address("/tmp/mlruns")
    ('http://server:5000', 'file:///tmp/mlruns')
    """
    return uri if ":" in uri or uri == "databricks" else Path(uri).expanduser().absolute().as_uri()


def _prepare(timeout_seconds: int, retries: int) -> None:
    """Set what MLflow reads in the environment, unless it is there. Its own patience with a server that does not
    answer is many minutes, in which the run would wait; and since 3.2 it tells its makers what it is used for."""
    for name, value in {
        "MLFLOW_HTTP_REQUEST_TIMEOUT": timeout_seconds,
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": retries,
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_ALLOW_FILE_STORE": "true",  # newer versions want to be told that a folder is meant
    }.items():
        os.environ.setdefault(name, str(value))


def _is_there(client: Any, run: str) -> bool:
    """Whether the store still has a run; one in its bin does not count."""
    from mlflow.exceptions import MlflowException

    try:
        return bool(client.get_run(run).info.lifecycle_stage == "active")
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return False
        raise


def _experiment(client: Any, name: str) -> str:
    """The id of an experiment, which is made if it is not there; a job beside this one may be first."""
    from mlflow.exceptions import MlflowException

    if (found := client.get_experiment_by_name(name)) is not None:
        return str(found.experiment_id)
    try:
        return str(client.create_experiment(name))
    except MlflowException:
        if (found := client.get_experiment_by_name(name)) is None:
            raise
        return str(found.experiment_id)


def _tags(folder: Path, summary: JSON) -> dict[str, str]:
    names = ("config_hash", "commit", "device", "devices")
    return {"folder": str(folder.absolute()), **{key: _text(summary[key]) for key in names if summary.get(key)}}


def _name(text: str) -> str:
    """With characters that MLflow allows."""
    return re.sub(r"[^\w./ -]", "_", text, flags=re.ASCII)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=str)
