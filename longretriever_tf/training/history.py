"""training.json: one line of metrics per epoch, written when the epoch ends, so that a kill loses none of them."""

import json
import os
from typing import Any

from longretriever_tf.common.files import explain_damage, read_json_object, write_text_atomically
from longretriever_tf.common.provenance import describe_origin

HISTORY_FILE = "training.json"


class TrainingHistory:
    """The epochs of a run, over all its sessions; an epoch that is run again replaces its line.

    Args:
      run_dir: of the run.
      seed: of the run.

    Raises:
      UserError: training.json is torn.
    """

    def __init__(self, run_dir: str, seed: int) -> None:
        self._path = os.path.join(run_dir, HISTORY_FILE)
        self._origin = describe_origin("longretriever train", seed)
        self._lines: dict[str, dict[int, dict[str, Any]]] = {}
        if not os.path.exists(self._path):
            return
        cure = "move it away, and run the same `train` command again: the epochs to come are written anew"
        values = read_json_object(self._path, cure)
        with explain_damage(self._path, cure):
            for phase, lines in values["history"].items():
                self._lines[phase] = {int(line["epoch"]): dict(line) for line in lines}

    def add(self, phase: str, line: dict[str, float]) -> None:
        """Writes the line of an epoch.

        Raises:
          UserError: the file cannot be written; the old one stays.
        """
        self._lines.setdefault(phase, {})[int(line["epoch"])] = line
        self.write()

    def lines(self, phase: str) -> list[dict[str, float]]:
        """The epochs of a phase so far, over all sessions."""
        return [line for _, line in sorted(self._lines.get(phase, {}).items())]

    def write(self) -> None:
        """Writes the file: with the first epoch, and for a run that has none to make."""
        history = {phase: [lines[epoch] for epoch in sorted(lines)] for phase, lines in self._lines.items()}
        write_text_atomically(self._path, json.dumps({"run": self._origin, "history": history}, indent=2) + "\n")
