"""Some of the users of a log on disk, where all of them do not fit into memory. Imports no TensorFlow."""

import os
from collections.abc import Collection

import numpy as np

from longretriever_tf.common.errors import UserError
from longretriever_tf.common.text import as_text, is_text
from longretriever_tf.config.config import DataConfig
from longretriever_tf.data.batches.order import sort_keys, user_keys
from longretriever_tf.data.corpus import Corpus, encode_log
from longretriever_tf.data.recipe.item_stats import ItemStats, item_cells, scan_cells
from longretriever_tf.datasets.load import load_log, open_sharded_log
from longretriever_tf.datasets.log import LifelongLog
from longretriever_tf.datasets.sharded_log import ShardedLog

EVENT_BYTES = 1300
"""Memory of a training in memory for each event of the log: measured at 9.7 million events with --examples=both."""

_DRAW = 18
"""Names the draw of the sample: that of users held out for validation is another."""


def memory_gb(max_memory_gb: float) -> float:
    """What --max_memory_gb allows; 0: half of this machine's memory."""
    return max_memory_gb or os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2e9


def events_that_fit(max_memory_gb: float) -> float:
    """How many events may be read into memory, by `EVENT_BYTES`."""
    return memory_gb(max_memory_gb) * 1e9 / EVENT_BYTES


def load_sample(config: DataConfig, max_events: float, purpose: str) -> LifelongLog:
    """The log that the config names, or a sample of its users where it lies on disk and holds more events than that.

    Args:
      config: of the log.
      max_events: about how many events the sample may hold.
      purpose: what the log is for: begins the note that says what the sample is.
    """
    if not config.data:
        return load_log(config)
    return read_sample(open_sharded_log(config), max_events, purpose)


def read_sample(log: ShardedLog, max_events: float, purpose: str) -> LifelongLog:
    """The whole log, or the users whose ids' hashes are smallest: the same ones on every machine, in any order of ids.

    Args:
      log: on disk.
      max_events: as of `load_sample`.
      purpose: as of `load_sample`.
    """
    if max_events >= log.num_events:
        return log.read_whole()
    sample = log.join([shard.of_users(in_sample(log, max_events, shard.user_id)) for shard in log.read_shards()])
    print(
        f"{purpose} a sample of {sample.num_users:,} of {log.num_users:,} users with {sample.num_events:,} of "
        f"{log.num_events:,} events, chosen by a hash of their ids: the whole log does not fit into the memory allowed",
        flush=True,
    )
    return sample


def in_sample(log: ShardedLog, max_events: float, user_id: np.ndarray) -> np.ndarray:
    """Which users belong to the sample of `read_sample`, or would if the log knew them, [n] bool.

    Args:
      log: as of `read_sample`.
      max_events: as of `load_sample`.
      user_id: raw ids of the log's kind, [n].
    """
    share = max_events / max(log.num_events, 1)
    if share >= 1:
        return np.ones(len(user_id), bool)
    return sort_keys(user_keys(user_id), _DRAW) < np.uint64(share * 2**64)


def of_sample(config: DataConfig, max_events: float, sample: LifelongLog, later: LifelongLog) -> LifelongLog:
    """Later events of the users of a sample, and of those who would be in it: what stands next to it.

    Args:
      config: of the log, and of `load_sample`.
      max_events: as of `load_sample`.
      sample: what `load_sample` returned.
      later: events of any users.

    Raises:
      UserError: none is left.
    """
    if not config.data:
        return later
    user_id = as_text(later.user_id) if is_text(sample.user_id) else later.user_id
    kept = later.of_users(in_sample(open_sharded_log(config), max_events, user_id))
    if not kept.num_events:
        raise UserError(
            f"none of the {later.num_events:,} new events is of a user of the sample of --data={config.data}: raise "
            "--max_memory_gb, or give more days of events"
        )
    return kept


def load_users(config: DataConfig, user_ids: Collection[str]) -> LifelongLog:
    """The log that the config names; of one on disk those users alone whose ids read so.

    Args:
      config: of the log.
      user_ids: raw ids, as text; none: whoever comes first.

    Raises:
      UserError: the log on disk lacks one of them.
    """
    if not config.data:
        return load_log(config)
    log = open_sharded_log(config)
    if not user_ids:
        return log.read_shard(0)
    found = log.join([shard.of_users(np.isin(as_text(shard.user_id), list(user_ids))) for shard in log.read_shards()])
    if missing := sorted(set(user_ids) - set(map(str, found.user_id.tolist()))):
        raise UserError(f"user {missing[0]!r} is not in --data={config.data}, which has {log.num_users:,} users")
    return found


def stats_on_disk(log: ShardedLog, corpus: Corpus, as_of: int) -> ItemStats:
    """Item statistics of all users strictly before a time, one shard after the other.

    Args:
      log: on disk.
      corpus: whose items are counted.
      as_of: seconds UTC.
    """
    at, index = np.array([as_of], np.int64), corpus.find_items(log.items.item_id)
    shards = (encode_log(shard, corpus, index).before(as_of) for shard in log.read_shards())
    cells = [item_cells(shard, at, corpus.num_items) for shard in shards]
    return scan_cells(cells, corpus.item_category, at, corpus.num_categories)
