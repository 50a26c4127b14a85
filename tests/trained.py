"""One tiny trained run and its export, made by the real commands and shared by the tests of a session."""

import dataclasses
import os
import pathlib
import pickle
import shutil
import subprocess
import sys

import numpy as np
import pandas as pd
from command_server import run_command
from worlds import block_world

from longretriever_tf.common.files import write_bytes_atomically
from longretriever_tf.common.locks import hold_lock
from longretriever_tf.config.config import Config, load_config
from longretriever_tf.datasets.log import LifelongLog

ROOT = pathlib.Path(__file__).resolve().parent.parent
FLAGS = (
    "--recipe=compact",
    "--dataset=event_log",
    "--item_features=brand",
    "--user_features=taste",
    "--window_days=14",
    "--horizon_days=14",
    "--num_snapshots=6",
    "--batch_size=32",
    "--max_logits=600",
    "--dim=16",
    "--num_heads=2",
    "--ff_dim=32",
    "--svd_dim=8",
    "--profile",
    "--interest_epochs=3",
    "--num_interests=5",
    "--top_interests=5",
)


@dataclasses.dataclass(frozen=True)
class Trained:
    """A finished run: `flags` are those of its training but --run_dir."""

    flags: tuple[str, ...]
    run_dir: str
    export_dir: str
    config: Config


def run_module(name: str, *flags: str) -> subprocess.CompletedProcess:
    """`python -m longretriever_tf.NAME` in a child process, which need not import the libraries again."""
    return run_command(command(name, *flags)[1:], ROOT, 1800)


def command(name: str, *flags: str) -> list[str]:
    return [sys.executable, "-m", f"longretriever_tf.{name}", *flags]


def write_tables(log: LifelongLog, directory: pathlib.Path) -> tuple[str, ...]:
    """Writes the log as the tables of `event_log`; returns the flags that name them."""
    user = np.repeat(log.user_id, np.diff(log.offset))
    tables = {
        "events": {"user_id": user, "item_id": log.items.item_id[log.item_row], "timestamp": log.timestamp},
        "items": {"item_id": log.items.item_id, **log.items.features},
        "users": {"user_id": log.user_id, **log.profile},
    }
    for name, columns in tables.items():
        pd.DataFrame(columns).to_parquet(directory / f"{name}.parquet")
    return *(f"--{name}={directory}/{name}.parquet" for name in tables), f"--data_dir={directory}/tfds"


def make_trained(directory: pathlib.Path) -> Trained:
    """Trains and exports by command. Some tens of seconds; other tests hold an export to its warm-up requests."""
    log = block_world(num_users=53, num_items=97, events_per_user=61)
    flags = (*write_tables(log, directory), *FLAGS)
    run_dir, export_dir = os.path.join(directory, "run"), os.path.join(directory, "export")
    for name, extra in (("train", flags), ("export", (f"--export_dir={export_dir}", "--nocheck"))):
        done = run_module(name, *extra, f"--run_dir={run_dir}")
        assert done.returncode == 0, done.stderr
    return Trained(flags, run_dir, export_dir, load_config(run_dir))


def share_trained(shared: pathlib.Path, own: pathlib.Path) -> Trained:
    """`make_trained` once for all processes that test: each gets the run and the export as copies of its own."""
    shared.mkdir(exist_ok=True)
    made = shared / "made.pickle"
    with hold_lock(str(shared), "another process trains in {}", wait=True):
        if not made.exists():
            write_bytes_atomically(str(made), pickle.dumps(make_trained(shared)))
        trained: Trained = pickle.loads(made.read_bytes())
        run_dir, export_dir = (
            shutil.copytree(getattr(trained, name), own / name) for name in ("run_dir", "export_dir")
        )
    return Trained(trained.flags, str(run_dir), str(export_dir), load_config(str(run_dir)))
