"""MLflow. Its own variables hold: MLFLOW_TRACKING_URI, MLFLOW_EXPERIMENT_NAME, and those of its credentials."""

import json
import os
import time
from collections.abc import Mapping, Sequence
from typing import Any

from longretriever_tf.tracking.tracker import RunFacts, Table

_TAG = "longretriever_tf.run"
_BATCH = 500  # metrics of a call; the server takes 1,000
_MOST = 5000  # characters of a tag or a parameter
_FLUSH_S = 5.0


class MlflowTracker:
    """A run of MLflow, found again by a tag that we chose: a kill while it is made loses no run.

    Args:
      facts: of the run.
      run_id: ours, not MLflow's.
      uri: of the tracking store; empty: what MLflow's variables say.
    """

    def __init__(self, facts: RunFacts, run_id: str, uri: str = "") -> None:
        from mlflow import MlflowClient, entities, get_tracking_uri

        self._entities = entities
        self.uri: str = uri or str(get_tracking_uri())
        self._client: Any = MlflowClient(self.uri)
        experiment = _experiment(self._client, os.environ.get("MLFLOW_EXPERIMENT_NAME", "longretriever_tf"))
        found = self._client.search_runs([experiment], f"tags.`{_TAG}` = '{run_id}'", max_results=1)
        if found:
            self._run = found[0]
            self._client.update_run(self._id, status="RUNNING")
        else:
            tags = {_TAG: run_id, **{name: str(value)[:_MOST] for name, value in facts.origin.items()}}
            self._run = self._client.create_run(experiment, tags=tags, run_name=os.path.normpath(facts.run_dir))
        known = self._run.data.params  # they never change: a training that goes on adds none
        given = {name: str(value)[:_MOST] for name, value in facts.settings().items()}
        params = [entities.Param(name, value) for name, value in given.items() if name not in known]
        for first in range(0, len(params), 100):
            self._client.log_batch(self._id, params=params[first : first + 100])
        self._waiting: list[Any] = []
        self._sent = time.monotonic()

    @property
    def _id(self) -> str:
        return str(self._run.info.run_id)

    def log(self, phase: str, step: int, metrics: Mapping[str, float]) -> None:
        """As `Tracker.log`: sent together every few seconds, since each call is a request."""
        now = int(time.time() * 1000)
        self._waiting += [self._entities.Metric(f"{phase}/{name}", value, now, step) for name, value in metrics.items()]
        if len(self._waiting) >= _BATCH or time.monotonic() - self._sent > _FLUSH_S:
            self._flush()

    def log_results(self, group: str, results: Mapping[str, float], table: Table | None, files: Sequence[str]) -> None:
        """As `Tracker.log_results`: tables and files become artifacts."""
        now = int(time.time() * 1000)
        self._waiting += [self._entities.Metric(_name(f"{group}/{n}"), value, now, 0) for n, value in results.items()]
        self._flush()
        if table is not None:
            content = {"columns": list(table.columns), "data": [list(row) for row in table.rows]}
            self._client.log_text(self._id, json.dumps(content), f"{group}/table.json")
        for path in files:
            self._client.log_artifact(self._id, path, group)

    def _flush(self) -> None:
        waiting, self._waiting = self._waiting, []
        for first in range(0, len(waiting), _BATCH):
            self._client.log_batch(self._id, metrics=waiting[first : first + _BATCH])
        self._sent = time.monotonic()

    def finish(self, is_good: bool) -> None:
        """As `Tracker.finish`."""
        self._flush()
        self._client.set_terminated(self._id, "FINISHED" if is_good else "FAILED")


def _experiment(client: Any, name: str) -> str:
    """The id of an experiment, which is made if need be; several processes may want it at once."""
    found = client.get_experiment_by_name(name)
    if found is None:
        try:
            return str(client.create_experiment(name))
        except Exception:  # another process was quicker
            found = client.get_experiment_by_name(name)
            if found is None:
                raise
    return str(found.experiment_id)


def _name(name: str) -> str:
    """MLflow's metrics know no "@"."""
    return name.replace("@", "_at_")
