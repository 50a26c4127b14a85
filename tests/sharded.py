"""Logs in shards on disk, for tests."""

import numpy as np

from longretriever_tf.datasets import sharded_log
from longretriever_tf.datasets.log import LifelongLog
from longretriever_tf.datasets.log_identity import fingerprint_log
from longretriever_tf.datasets.sharded_log import Manifest, ShardedLog


def write_log(directory: str, log: LifelongLog, num_shards: int, build: str = "b") -> ShardedLog:
    """Writes a log as `prepare` does."""
    bounds = sharded_log.split_users(np.diff(log.offset), num_shards)
    shards = [
        sharded_log.write_shard(directory, build, k, num_shards, log.of_users(slice(*bounds[k : k + 2])))
        for k in range(num_shards)
    ]
    sharded_log.write_items(directory, build, log.items)
    weights = [f"{name}:{weight}" for name, weight in zip(log.actions.name, log.actions.weight, strict=False)]
    data = {"action_weights": weights, "target_actions": list(log.actions.target)} if log.actions.name else {}
    sizes = len(log.items.item_id), 0, tuple(shards)
    manifest = Manifest(build, fingerprint_log(log), log.context, log.counts, data, *sizes, actions=log.actions.name)
    sharded_log.write_manifest(directory, manifest)
    return ShardedLog(directory)
