"""The run directory: one training at a time, of one config and one log; and what a finished run has left there."""

import contextlib
import glob
import json
import os
import shutil
from collections.abc import Iterator
from typing import Any

from longretriever_tf.common.errors import UserError
from longretriever_tf.common.files import (
    explain_damage,
    read_json_object,
    remove_leftovers,
    require_writable,
    write_text_atomically,
)
from longretriever_tf.common.locks import hold_lock
from longretriever_tf.config.config import Config, from_dict, load_config, to_json
from longretriever_tf.config.snapshots import settled
from longretriever_tf.data.batches.prepared_data import load_saved
from longretriever_tf.data.batches.tables import Tables
from longretriever_tf.datasets.log_identity import LogIdentity, read_identity, require_log_of_run, source_of
from longretriever_tf.training.charts import FILE as CHART_FILE
from longretriever_tf.training.history import HISTORY_FILE

_FREE_TO_CHANGE = (
    *("checkpoint_every_s", "materialise_gb", "max_memory_gb", "num_workers", "distribute"),
    *("run_dir", "epochs", "interest_epochs", "patience", "tracker"),
)
"""Flags of `train` that a resumed run may change: none of them alters a step that is done."""


@contextlib.contextmanager
def open_run_dir(config: Config) -> Iterator[None]:
    """Holds the run directory for the block, for this process alone; creates it if need be. It changes no run.

    Raises:
      UserError: it is not writable, another training works in it, or it holds a run of another config.
    """
    run_dir = config.train.run_dir
    require_writable(run_dir)
    busy = (
        f"{run_dir!r} is in use by another training ({{}}): wait for it, stop it, or train elsewhere with --run_dir=..."
    )
    with hold_lock(run_dir, busy):
        remove_leftovers(run_dir)
        _remove_torn_checkpoints(run_dir)
        _require_same_config(config)
        yield


def write_config(config: Config) -> None:
    """Writes config.json where there is none: from then on the directory is a run of this config.

    Raises:
      UserError: it cannot be written.
    """
    path = os.path.join(config.train.run_dir, "config.json")
    if not os.path.exists(path):
        write_text_atomically(path, to_json(config))


def is_finished(run_dir: str) -> bool:
    """Whether a training has run to its end here: its weights, its history and its picture are there."""
    parts = ("checkpoints/final/weights.index", "corpus.npz", "as_of_cut.npz", HISTORY_FILE, CHART_FILE)
    return all(os.path.exists(os.path.join(run_dir, part)) for part in parts)


def has_unchanged_source(config: Config) -> bool:
    """Whether the files that the run's log was read from are as they were; nothing of them is read.

    True for a run of an earlier version, which kept no log.json: nothing can tell.
    """
    identity = read_identity(config.train.run_dir)
    return identity is None or identity.source == source_of(config.data)


def require_same_log(config: Config, here: LogIdentity) -> None:
    """Refuses to go on with another log than the run has begun with.

    Raises:
      UserError: names both logs.
    """
    cure = "Its weights and statistics belong together; train on this log elsewhere, with --run_dir=..."
    require_log_of_run(config.train.run_dir, here, cure)


def require_same_corpus(run_dir: str, prepared: Tables) -> None:
    """Refuses another log where an earlier version kept no identity of it: by the items that were known at the cut.

    Raises:
      UserError: the run's corpus is of another log.
    """
    if read_identity(run_dir) is not None or not os.path.exists(os.path.join(run_dir, "corpus.npz")):
        return
    stored, here = load_saved(run_dir)[0], prepared.corpus
    if stored.cut != here.cut or stored.item_id.tolist() != here.item_id.tolist():
        raise UserError(
            f"{run_dir!r} was trained on another log than this one: {stored.num_items - 2:,} items before the cut "
            f"{stored.cut} (seconds UTC) there, {here.num_items - 2:,} before {here.cut} here. Train on this log "
            "elsewhere, with --run_dir=..."
        )


def _require_same_config(config: Config) -> None:
    path = os.path.join(config.train.run_dir, "config.json")
    if not os.path.exists(path):
        return
    cure = "restore it from a copy, or train elsewhere with --run_dir=..."
    values = read_json_object(path, cure)
    with explain_damage(path, cure):
        # Settings that the run's version did not have yet stand at their defaults.
        stored = json.loads(to_json(settled(from_dict(Config, values, path))))
    wanted = json.loads(to_json(settled(config)))
    differing = differing_settings(stored, wanted, "there", "here")
    if differing:
        raise UserError(
            f"{config.train.run_dir!r} holds a run of another config ({'; '.join(differing)}). Resume it with its own "
            "flags, or train this one elsewhere with --run_dir=..."
        )


def stored_batches_per_step(run_dir: str) -> int:
    """Batches of a step of the run that the directory holds; 0 where it holds none."""
    if not os.path.exists(os.path.join(run_dir, "config.json")):
        return 0
    return load_config(run_dir).train.batches_per_step


def differing_settings(one: dict[str, Any], other: dict[str, Any], first: str, second: str) -> list[str]:
    """The settings that two trainings of one run may not differ in, and do.

    Args:
      one: the JSON object of a config.
      other: of the other's.
      first: what to call the place of `one`.
      second: of `other`.
    """
    free = set(_FREE_TO_CHANGE)
    if other["train"]["device_input"] and "none" in (one["train"]["distribute"], other["train"]["distribute"]):
        free.remove("distribute")  # one device draws dropout for all groups of a step at once
    return [
        f"--{name}: {one[section][name]!r} {first}, {value!r} {second}"
        for section in ("data", "model", "train", "baseline", "update")
        for name, value in other[section].items()
        if one[section][name] != value and name not in free
    ]


def _remove_torn_checkpoints(run_dir: str) -> None:
    """Removes what TensorFlow leaves of a checkpoint when it is killed while writing one."""
    checkpoints = os.path.join(glob.escape(run_dir), "checkpoints")
    for path in glob.glob(os.path.join(checkpoints, "*", "*_temp")):
        shutil.rmtree(path, ignore_errors=True)
    for path in glob.glob(os.path.join(checkpoints, "*", "*.tempstate*")):
        with contextlib.suppress(OSError):
            os.remove(path)
