"""Weights & Biases. Its own variables hold: WANDB_MODE, WANDB_PROJECT, WANDB_ENTITY, WANDB_API_KEY, WANDB_DIR."""

import os
from collections.abc import Mapping, Sequence

from longretriever_tf.tracking.tracker import RunFacts, Table


class WandbTracker:
    """A run of Weights & Biases.

    Args:
      facts: of the run.
      run_id: ours; the service takes the run up again where it knows the id.
    """

    def __init__(self, facts: RunFacts, run_id: str) -> None:
        import wandb

        self._wandb = wandb
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "longretriever_tf"),
            id=run_id,
            resume="allow",
            name=os.environ.get("WANDB_NAME", os.path.normpath(facts.run_dir)),
            dir=os.environ.get("WANDB_DIR", facts.run_dir),
            config={**facts.config, "origin": dict(facts.origin)},
            allow_val_change=True,  # a training that goes on may have other --epochs
            settings=wandb.Settings(console="off"),  # what it prints is not wrapped: progress bars stay as they are
        )
        self._phases: set[str] = set()

    def log(self, phase: str, step: int, metrics: Mapping[str, float]) -> None:
        """As `Tracker.log`: each phase has an axis of its own, since each counts its steps from 0."""
        axis = f"{phase}/step"
        if phase not in self._phases:
            self._run.define_metric(axis)
            self._run.define_metric(f"{phase}/*", step_metric=axis)
            self._phases.add(phase)
        self._run.log({axis: step} | {f"{phase}/{name}": value for name, value in metrics.items()})

    def log_results(self, group: str, results: Mapping[str, float], table: Table | None, files: Sequence[str]) -> None:
        """As `Tracker.log_results`: results go into the summary."""
        for name, value in results.items():
            self._run.summary[f"{group}/{name}"] = value
        shown = {}
        if table is not None:
            shown[f"{group}/table"] = self._wandb.Table(list(table.columns), [list(row) for row in table.rows])
        others = self._wandb.Artifact(f"{self._run.id}-{group.replace('/', '-')}", type="results")
        for path in files:
            if path.endswith(".png"):
                shown[f"{group}/{os.path.basename(path)}"] = self._wandb.Image(path)
            else:
                others.add_file(path)
        if len(others.manifest.entries):
            self._run.log_artifact(others)
        if shown:
            self._run.log(shown)

    def finish(self, is_good: bool) -> None:
        """As `Tracker.finish`."""
        self._run.finish(exit_code=0 if is_good else 1)
