"""A run from a log on disk: whether it is needed, what it trains on, and whom it is validated on."""

import dataclasses
from collections.abc import Iterator

import numpy as np

from longretriever_tf.common.errors import require
from longretriever_tf.common.ranges import flat_ranges, offset_of
from longretriever_tf.common.schema import DAY_S
from longretriever_tf.config.baselines import LONGRETRIEVER
from longretriever_tf.config.config import Config
from longretriever_tf.data.batches.examples import held_out_users
from longretriever_tf.data.batches.prepared_data import Prepared, require_examples
from longretriever_tf.data.corpus import EncodedLog, encode_log
from longretriever_tf.data.recipe.history_embedding import fold_of_users, item_keys
from longretriever_tf.data.search.behavior_index import build_category_order
from longretriever_tf.data.window.build import build_window
from longretriever_tf.data.window.sample import EVENT_BYTES, memory_gb, stats_on_disk
from longretriever_tf.data.window.window import Window, open_window
from longretriever_tf.datasets.load import load_log, open_sharded_log
from longretriever_tf.datasets.log import LifelongLog
from longretriever_tf.datasets.sharded_log import ShardedLog
from longretriever_tf.datasets.splits import Cuts
from longretriever_tf.evaluation.ground_truth import Truth, build_truth


def read_log(config: Config) -> LifelongLog | ShardedLog:
    """The log that the config names: in memory where it fits --max_memory_gb, else on disk.

    Raises:
      UserError: a mistake in the config or the files; or the model trains in memory alone.
    """
    if not config.data.data:
        return load_log(config.data)
    log = open_sharded_log(config.data)
    needed, room = _needed_gb(config, log), memory_gb(config.train.max_memory_gb)
    fits = needed <= room
    print(
        f"{log.num_events:,} events, {log.num_users:,} users and {len(log.items.item_id):,} items would take about "
        f"{needed:,.1f} GB, and --max_memory_gb is {room:,.1f}: training in memory"
        + ("" if fits else " is out of the question, so from disk"),
        flush=True,
    )
    if fits:
        return load_log(config.data)
    train, cure = config.train, f"raise --max_memory_gb={room:,.1f} where this machine has the memory"
    require(config.model.model == LONGRETRIEVER, f"--model={config.model.model} trains in memory alone: {cure}")
    require(not train.device_input, f"--device_input keeps all examples on the device and in memory: {cure}")
    return log


def _needed_gb(config: Config, log: ShardedLog) -> float:
    """Peak memory of a training in memory, by the sizes of the log."""
    model, train = config.model, config.train
    rows = 1.0 + train.history_folds if model.reads_history_embedding else 1.0
    rows += train.history_folds / 2 if train.cross_fit_items else 0  # as bfloat16, for the item tower
    return (EVENT_BYTES * log.num_events + len(log.items.item_id) * (1500 + 4 * model.svd_dim * rows)) / 1e9


def prepare_on_disk(config: Config, log: ShardedLog) -> Window:
    """The training window of a log on disk, made where it is not there yet.

    Raises:
      UserError: the disk does not allow it, or there are no training examples.
    """
    window = open_window(build_window(config, log, config.train.num_workers), log.num_users)
    for rows in ("examples", "interest"):
        require_examples(config, sum(len(shard[rows]) for shard in window.shards))
    return window


def validation_on_disk(log: ShardedLog, cuts: Cuts, window: Window, most: int) -> tuple[Prepared, Truth]:
    """The first `most` users of the validation window: their requests at the cut, and what they took after it.

    Raises:
      UserError: there is none.
    """
    corpus, span = window.corpus, cuts.window_of("validation")
    is_sold = np.ones(corpus.num_items, bool)
    users = _first_users(_encoded_shards(log, window), most, corpus.cut, span, is_sold)
    truth = build_truth(users, corpus.num_items, corpus.cut, span, is_sold)
    return _requests(window, users, corpus.cut, window), truth


def held_out_on_disk(config: Config, log: ShardedLog, window: Window, most: int) -> tuple[Prepared, Truth]:
    """What --validation_users asks about: the last --window_days of the users held out, and the log before these.

    Raises:
      UserError: none of them takes anything in those days.
    """
    corpus, stop = window.corpus, window.corpus.cut
    start = stop - round(config.data.window_days * DAY_S)
    stats = stats_on_disk(log, corpus, start)
    held_out = (_take(shard, held_out_users(config, shard.user_id)) for shard in _encoded_shards(log, window))
    is_sold = stats.first_time < start
    users = _first_users(held_out, most, start, (start, stop), is_sold)
    truth = build_truth(users, corpus.num_items, start, (start, stop), is_sold)
    return _requests(window, users, start, dataclasses.replace(window, stats=stats)), truth


def _encoded_shards(log: ShardedLog, window: Window) -> Iterator[EncodedLog]:
    index = window.corpus.find_items(log.items.item_id)
    return (encode_log(shard, window.corpus, index) for shard in log.read_shards())


def _first_users(
    shards: Iterator[EncodedLog], most: int, cut: int, span: tuple[int, int], is_sold: np.ndarray
) -> EncodedLog:
    """The first users with an event before the cut, and within the span one of an item that was sold, as a log."""
    found: list[EncodedLog] = []
    for shard in shards:
        user = shard.event_user()
        is_past, is_next = (np.zeros(shard.num_users, bool) for _ in range(2))
        is_past[user[shard.timestamp < cut]] = True
        in_span = (shard.timestamp >= span[0]) & (shard.timestamp < span[1]) & shard.targets()
        is_next[user[in_span & is_sold[shard.item]]] = True
        chosen = np.flatnonzero(is_past & is_next)[: most - sum(part.num_users for part in found)]
        mask = np.zeros(shard.num_users, bool)
        mask[chosen] = True
        found.append(_take(shard, mask))
        if sum(part.num_users for part in found) == most:
            break
    lengths = np.concatenate([np.diff(part.offset) for part in found])
    names = ["user_id", "profile", "item", "timestamp", "weight"]
    names += ["is_target"] if found[0].is_target is not None else []
    columns = {name: np.concatenate([getattr(part, name) for part in found]) for name in names}
    return EncodedLog(offset=offset_of(lengths), **columns)


def _take(log: EncodedLog, chosen: np.ndarray) -> EncodedLog:
    """Some users of a log; [U] bool."""
    _, event = flat_ranges(log.offset[:-1][chosen], log.offset[1:][chosen])
    return EncodedLog(
        user_id=log.user_id[chosen],
        profile=log.profile[chosen],
        offset=offset_of(np.diff(log.offset)[chosen]),
        item=log.item[event],
        timestamp=log.timestamp[event],
        weight=log.weight[event],
        is_target=None if log.is_target is None else log.is_target[event],
    )


def _requests(window: Window, users: EncodedLog, as_of: int, tables: Window) -> Prepared:
    """Some users' histories before a time, with the tables of that time."""
    past = users.before(as_of)
    return Prepared(
        corpus=window.corpus,
        stats=tables.stats,
        item_svd=window.item_svd,
        history_embedding_rows=window.history_embedding_rows,
        log=past,
        order=build_category_order(past, window.corpus),
        user_fold=fold_of_users(past, item_keys(window.corpus.item_id), len(window.history_embedding_rows)),
    )
