"""One tiny trained run and its export, made by the real commands and shared by the tests of a session."""

import dataclasses
import os
import pathlib
import subprocess
import sys

import numpy as np
import pandas as pd
from worlds import block_world

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


def run_module(name: str, *flags: str, **kwargs) -> subprocess.CompletedProcess:
    """`python -m longretriever_tf.NAME` in a child process."""
    return subprocess.run(command(name, *flags), cwd=ROOT, capture_output=True, text=True, timeout=1800, **kwargs)


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
    """Trains and exports by command. Some tens of seconds."""
    log = block_world(num_users=53, num_items=97, events_per_user=61)
    flags = (*write_tables(log, directory), *FLAGS)
    run_dir, export_dir = os.path.join(directory, "run"), os.path.join(directory, "export")
    for name, extra in (("train", flags), ("export", (f"--export_dir={export_dir}",))):
        done = run_module(name, *extra, f"--run_dir={run_dir}")
        assert done.returncode == 0, done.stderr
    return Trained(flags, run_dir, export_dir, load_config(run_dir))
