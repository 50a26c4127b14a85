"""The run directory, and the guard against writing into another config's run."""

import json
import os

from longretriever_tf.config import Config, from_dict, to_json
from longretriever_tf.errors import UserError
from longretriever_tf.files import require_writable, write_text_atomically

_FREE_TO_CHANGE = ("checkpoint_every_s", "materialise_gb", "run_dir", "epochs", "interest_epochs", "patience")
"""Flags of `train` that a resumed run may change: none of them alters a step already made."""


def open_run_dir(config: Config) -> bool:
    """Creates the run directory, or checks that it belongs to this very config.

    Returns:
      Whether the directory held a run of this config already.

    Raises:
      UserError: it is not writable, or holds a run of another config (which is left as it is).
    """
    run_dir = config.train.run_dir
    require_writable(run_dir)
    path = os.path.join(run_dir, "config.json")
    if not os.path.exists(path):
        write_text_atomically(path, to_json(config))
        return False
    with open(path, encoding="utf-8") as file:
        # Settings that the run's version did not have yet stand at their defaults.
        stored = json.loads(to_json(from_dict(Config, json.load(file), path)))
    wanted = json.loads(to_json(config))
    differing = [
        f"--{name}: {stored[section][name]!r} there, {value!r} here"
        for section in ("data", "model", "train", "baseline")
        for name, value in wanted[section].items()
        if stored[section][name] != value and name not in _FREE_TO_CHANGE
    ]
    if differing:
        raise UserError(
            f"{run_dir!r} holds a run of another config ({'; '.join(differing)}). Resume it with its own "
            "flags, or train this one elsewhere with --run_dir=..."
        )
    return True
