"""An evaluation as the trackers of its run see it: metrics of the run, the table of all models, the files."""

import json
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from longretriever_tf.common.errors import UserError
from longretriever_tf.common.provenance import describe_origin
from longretriever_tf.config.config import load_config, to_json
from longretriever_tf.evaluation.table import COLUMNS
from longretriever_tf.tracking.tracked_run import FILE, track_run
from longretriever_tf.tracking.tracker import RunFacts, Table


def track_evaluation(run_dir: str, metrics: Mapping[str, Any], max_users: int, files: Sequence[str]) -> None:
    """Tells the trackers that the run's training had, if it had any; what fails is a warning.

    Args:
      run_dir: of the run.
      metrics: `metrics.json`.
      max_users: of the window that were asked; 0: all. A part of them has a group of its own.
      files: that `evaluate` wrote; pictures and JSON files are handed on.
    """
    if not os.path.exists(os.path.join(run_dir, FILE)):
        return
    group = f"evaluate/{metrics['split']}" + (f"_first_{max_users}_users" if max_users else "")
    handed = [path for path in files if path.endswith((".png", ".json"))]
    try:
        with track_run((), lambda: facts_of(run_dir), run_dir) as tracked:
            tracked.log_results(group, results_of_run(metrics), table_of(metrics), handed)
    except UserError as error:  # trackers.json is torn: the evaluation itself is whole
        print(f"warning: tracker: {error}", file=sys.stderr, flush=True)


def facts_of(run_dir: str) -> RunFacts:
    """The run's own settings, whatever an evaluation asks otherwise."""
    config = load_config(run_dir)
    return RunFacts(run_dir, json.loads(to_json(config)), describe_origin("evaluate", config.train.seed))


def results_of_run(metrics: Mapping[str, Any]) -> dict[str, float]:
    """All metrics of the first model, the run itself, as "section/metric"."""
    first = next(iter(metrics["models"].values()))
    return {
        f"{section}/{name}": float(value)
        for section, named in first.items()
        if isinstance(named, dict)
        for name, value in named.items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    }


def table_of(metrics: Mapping[str, Any]) -> Table:
    """The table that `evaluate` prints: a row for each model."""
    rows = [
        [name, *(sections.get(section, {}).get(metric) for section, metric in COLUMNS)]
        for name, sections in metrics["models"].items()
    ]
    return Table(["model", *(f"{section} {metric}" for section, metric in COLUMNS)], rows)
