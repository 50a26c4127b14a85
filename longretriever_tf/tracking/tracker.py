"""What the package asks of a tracker. `wandb_tracker` and `mlflow_tracker` are the two that there are."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Protocol


@dataclasses.dataclass(frozen=True)
class RunFacts:
    """A run as a tracker knows it.

    Attributes:
      run_dir: of the run.
      config: of the run as JSON: sections of settings.
      origin: where it comes from: commit, versions, machine.
    """

    run_dir: str
    config: Mapping[str, Mapping[str, Any]]
    origin: Mapping[str, Any]

    def settings(self) -> dict[str, Any]:
        """Settings by "section.name"."""
        return {f"{section}.{name}": value for section, named in self.config.items() for name, value in named.items()}


@dataclasses.dataclass(frozen=True)
class Table:
    """A table of models by metrics; None where a model lacks one."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str | float | None]]


class Tracker(Protocol):
    """One tracked run. Every method may raise what the library raises: `tracked_run` sees to it."""

    def log(self, phase: str, step: int, metrics: Mapping[str, float]) -> None:
        """Metrics of a phase of the training, at a step of its optimizer."""

    def log_results(self, group: str, results: Mapping[str, float], table: Table | None, files: Sequence[str]) -> None:
        """What is known at an end.

        Args:
          group: whose results they are: "train", or "evaluate/test".
          results: final metrics of the run, by name.
          table: of all models.
          files: paths of pictures and JSON files.
        """

    def finish(self, is_good: bool) -> None:
        """Ends the session, and delivers what is left."""
