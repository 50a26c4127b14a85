"""Logs in shards on disk, for tests."""

import dataclasses

import numpy as np

from longretriever_tf.datasets import sharded_log
from longretriever_tf.datasets.log import LifelongLog
from longretriever_tf.datasets.log_identity import fingerprint_log
from longretriever_tf.datasets.sharded_log import Manifest, ShardedLog


def part_of(log: LifelongLog, low: int, high: int) -> LifelongLog:
    """The users `low:high` of a log."""
    events = slice(log.offset[low], log.offset[high])
    columns = {name: getattr(log, name)[events] for name in ("item_row", "timestamp", "basket_id", "weight")}
    return dataclasses.replace(
        log,
        user_id=log.user_id[low:high],
        profile={name: column[low:high] for name, column in log.profile.items()},
        offset=log.offset[low : high + 1] - log.offset[low],
        **columns,
    )


def write_log(directory: str, log: LifelongLog, num_shards: int, build: str = "b") -> ShardedLog:
    """Writes a log as `prepare` does."""
    bounds = sharded_log.split_users(np.diff(log.offset), num_shards)
    shards = [
        sharded_log.write_shard(directory, build, k, num_shards, part_of(log, bounds[k], bounds[k + 1]))
        for k in range(num_shards)
    ]
    sharded_log.write_items(directory, build, log.items)
    manifest = Manifest(
        build, fingerprint_log(log), log.context, log.counts, {}, len(log.items.item_id), 0, tuple(shards)
    )
    sharded_log.write_manifest(directory, manifest)
    return ShardedLog(directory)
