"""What is made of one shard of users: arrays in, arrays out. Imports no TensorFlow.

The window in memory is made by the same functions, of all users at once.
"""

import numpy as np

from longretriever_tf.common.ranges import flat_ranges, offset_of
from longretriever_tf.common.text import pack_text, unpack_text
from longretriever_tf.config.config import Config
from longretriever_tf.data.batches.example_embeddings import embed_examples
from longretriever_tf.data.batches.examples import (
    Examples,
    batch_folds,
    distinct_targets,
    take_examples,
    training_examples,
)
from longretriever_tf.data.batches.interest_rows import interest_rows
from longretriever_tf.data.corpus import Corpus, EncodedLog, Seen
from longretriever_tf.data.recipe.history_embedding import fold_of_users
from longretriever_tf.data.recipe.item_stats import ItemCells, item_cells, rows_at
from longretriever_tf.data.recipe.item_svd import DistinctPairs, distinct_pairs
from longretriever_tf.data.search.behavior_index import CategoryOrder, build_category_order

EVENT = np.dtype([("item", "<i4"), ("weight", "<f4"), ("timestamp", "<i8")])
TARGET_EVENT = np.dtype([*EVENT.descr, ("is_target", "?")])
EXAMPLE = np.dtype(
    [
        *((name, "<i8") for name in ("time", "first_event", "first_target")),
        *((name, "<i4") for name in ("num_events", "num_before", "num_targets")),
        *((name, "<i4") for name in ("user", "category", "stats_row", "embedding")),
        *(("weight", "<f4"), ("activity", "<f4", (3,))),
    ]
)
"""An example's places in the shard's other columns, and what it reads; see `batches.examples.Examples`."""
INTEREST = np.dtype(
    [
        *((name, "<i8") for name in ("time", "first_event", "first_target")),
        *((name, "<i4") for name in ("num_events", "num_targets", "stats_row")),
        ("weight", "<f4"),
    ]
)
"""The same of a snapshot of the interest score; its events lie in the order of time."""
INTEREST_TARGET = np.dtype([("category", "<i4"), ("counts", "<f4", (2,))])

Arrays = dict[str, np.ndarray]


def pack_seen(seen: Seen) -> Arrays:
    """What was seen, as a file holds it."""
    text = {f"profile/{name}": values for name, values in seen.profile.items()}
    return {"item_row": seen.item_row, "first": np.array([seen.first]), **pack_text(text)}


def unpack_seen(arrays: Arrays) -> Seen:
    """What `pack_seen` packed."""
    text = unpack_text({name: values for name, values in arrays.items() if name.startswith("profile/")})
    profile = {name.removeprefix("profile/"): values for name, values in text.items()}
    return Seen(arrays["item_row"], profile, int(arrays["first"][0]))


def count_shard(log: EncodedLog, grid: np.ndarray, item_key: np.ndarray, num_folds: int) -> Arrays:
    """What a shard adds to the tables of items.

    Args:
      log: the shard before the cut.
      grid: times of the item statistics, [S] int64.
      item_key: from `item_keys`, [V].
      num_folds: of the history embeddings.
    """
    cells, pairs = item_cells(log, grid, len(item_key)), distinct_pairs(log, len(item_key))
    return {
        "cell_offset": cells.offset,
        "cells": cells.cells,
        "pair_offset": pairs.offset,
        "pair_item": pairs.item,
        "user_fold": fold_of_users(log, item_key, num_folds),
    }


def cells_of(arrays: Arrays) -> ItemCells:
    """The cells of a counted shard."""
    return ItemCells(arrays["cell_offset"], arrays["cells"])


def pairs_of(arrays: Arrays) -> DistinctPairs:
    """The pairs of a counted shard."""
    return DistinctPairs(arrays["pair_offset"], arrays["pair_item"])


def shard_examples(
    config: Config,
    corpus: Corpus,
    log: EncodedLog,
    user_fold: np.ndarray,
    history_embedding_rows: np.ndarray,
    grid: np.ndarray,
    first: int,
) -> Arrays:
    """All that batches read of a shard.

    Args:
      config: the run's config.
      corpus: of all shards.
      log: the shard before the cut.
      user_fold: of its users, [U] int64.
      history_embedding_rows: of each fold, [K, V, D] float32.
      grid: times of the item statistics, [S] int64.
      first: time of the first event of the whole log, seconds UTC.
    """
    order = build_category_order(log, corpus)
    examples, snapshots = training_examples(config, log, order, grid, first)
    # Examples of a category, a fold and a length lie together, so that an epoch is planned group by group.
    fold = batch_folds(config, user_fold)[examples.user]
    by_group = np.lexsort((examples.id, examples.length, fold, examples.category))
    examples_by_group = take_examples(examples, by_group)
    embeddings = embed_examples(config, log, user_fold, history_embedding_rows, grid, examples_by_group)
    source, moved = _by_category(order)
    segment = np.searchsorted(order.segment_offset, examples_by_group.target_start, side="right") - 1
    first_event = examples_by_group.start + moved[segment]
    arrays = {
        "events": _with_targets(
            _events(order.item[source], order.weight[source], order.timestamp[source]),
            None if order.is_target is None else order.is_target[source],
        ),
        "history": _events(log.item, log.weight, log.timestamp),
        "profile": log.profile,
        "embedding": embeddings.vector,
        **_example_arrays(examples_by_group, fold[by_group], first_event, order, embeddings.row),
    }
    if not config.train.cross_fit_items:  # as windows were before there were folds to tell apart
        del arrays["example_fold"], arrays["group_fold"]
    rows = interest_rows(log, order, snapshots, config.model.history_events)
    first_of_row = take_examples(snapshots, rows.example)
    interest = np.zeros(len(rows.id), INTEREST)
    columns = {
        "time": rows.time,
        "first_event": rows.start,
        "num_events": rows.stop - rows.start,
        "first_target": rows.target[:-1],
        "num_targets": np.diff(rows.target),
        "stats_row": rows_at(grid, rows.time),
        "weight": rows.weight,
    }
    _fill(interest, columns)
    targets = np.zeros(len(rows.category), INTEREST_TARGET)
    _fill(targets, {"category": rows.category, "counts": rows.counts})
    own = embed_examples(config, log, user_fold, history_embedding_rows, grid, first_of_row)
    arrays |= {"interest": interest, "interest_id": rows.id, "interest_target": targets}
    return arrays | {"interest_embedding": own.vector[own.row]}


def _by_category(order: CategoryOrder) -> tuple[np.ndarray, np.ndarray]:
    """Events by category first, so that what a batch reads lies together.

    Returns:
      Position in the category order of each event, [E] int64; and how far each segment's events move, [R] int64.
    """
    start, stop = order.segment_offset[:-1], order.segment_offset[1:]
    by_category = np.argsort(order.segment_category, kind="stable")
    moved = np.empty(len(start), np.int64)
    moved[by_category] = offset_of((stop - start)[by_category])[:-1]
    return flat_ranges(start[by_category], stop[by_category])[1], moved - start


def _example_arrays(
    examples: Examples, fold: np.ndarray, first_event: np.ndarray, order: CategoryOrder, embedding_row: np.ndarray
) -> Arrays:
    """Records of examples that lie by category, then fold, then length; and where each of these groups ends."""
    targets = distinct_targets(examples, order)
    records = np.zeros(len(examples), EXAMPLE)
    columns = {name: getattr(examples, name) for name in EXAMPLE.names or () if hasattr(examples, name)}
    columns |= {
        "first_event": first_event,
        "num_events": examples.stop - examples.start,
        "first_target": targets.offset[:-1],
        "num_targets": np.diff(targets.offset),
        "embedding": embedding_row,
    }
    _fill(records, columns)
    is_last = np.any([np.diff(part, append=-1) != 0 for part in (examples.category, fold, examples.length)], axis=0)
    last = np.flatnonzero(is_last)
    return {
        "examples": records,
        "example_id": examples.id,
        "example_fold": fold.astype(np.int32),
        "target": targets.item,
        "group_category": examples.category[last],
        "group_length": examples.length[last],
        "group_fold": fold[last].astype(np.int32),
        "group_stop": last + 1,
    }


def _events(item: np.ndarray, weight: np.ndarray, timestamp: np.ndarray) -> np.ndarray:
    records = np.zeros(len(item), EVENT)
    _fill(records, {"item": item, "weight": weight, "timestamp": timestamp})
    return records


def _with_targets(events: np.ndarray, is_target: np.ndarray | None) -> np.ndarray:
    """The records with a column `is_target`, where the log has target actions."""
    if is_target is None:
        return events
    records = np.zeros(len(events), TARGET_EVENT)
    _fill(records, {**{name: events[name] for name in EVENT.names or ()}, "is_target": is_target})
    return records


def _fill(records: np.ndarray, columns: Arrays) -> None:
    for name, column in columns.items():
        records[name] = column
