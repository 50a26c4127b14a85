"""Item and category statistics as of the end of a newer log, under towers that were trained on an older one."""

import dataclasses
import os
import tempfile
from typing import NamedTuple

import numpy as np
import pandas as pd

from longretriever_tf.common import schema
from longretriever_tf.common.errors import UserError
from longretriever_tf.config.config import DataConfig
from longretriever_tf.data.corpus import Corpus, encode_log
from longretriever_tf.data.recipe.item_stats import build_item_stats
from longretriever_tf.datasets.event_log.source import read_event_log
from longretriever_tf.datasets.log import LifelongLog

_LEAST_SHARE = 0.5
"""Of the popularity that training counted at its cut, what the table must hold as of then: else it is cut short."""

_FLOOR = 0.05
"""What `data.recipe.item_stats` adds to a decayed count before its logarithm."""


class FreshStatistics(NamedTuple):
    """Statistics that a refresh puts in the place of those of the training cut.

    Attributes:
      item: [V, 3] float32, see `data.recipe.item_stats`.
      category: [C, 3] float32.
      as_of: events before it are counted, seconds UTC.
      num_events: how many those are.
      is_seen: whether anyone ever took the item, [V] bool.
    """

    item: np.ndarray
    category: np.ndarray
    as_of: int
    num_events: int
    is_seen: np.ndarray


def fresh_statistics(data: DataConfig, events: str, corpus: Corpus, trained: np.ndarray, since: int) -> FreshStatistics:
    """Counts the whole log of today; its last event is what it is as of.

    Args:
      data: of the run: its columns name those of the table (user, item, timestamp, and the basket if there is one).
      events: path of the events table, from the first event on: repeats and popularity count all of them.
      corpus: the catalogue to count for; events of other items are left out.
      trained: the statistics that training counted at `corpus.cut`, rows of `corpus`, [V, 3].
      since: as of when the last version's statistics are, seconds UTC.

    Raises:
      UserError: the table cannot be read, is cut short, or ends before `since`.
    """
    log = encode_log(_read(data, events, corpus), corpus)
    if not len(log.item):
        raise UserError(
            f"--events={events} holds no event of any item of this catalogue: is it the table of another log?"
        )
    as_of = int(log.timestamp.max()) + 1
    if as_of < since:
        raise UserError(
            f"--events={events} ends at {_date(as_of)} UTC, and the last version counts events until {_date(since)} "
            "UTC already: give the whole log of today"
        )
    as_of_times = np.array([min(corpus.cut, as_of), as_of], np.int64)
    stats = build_item_stats(log, corpus.item_category, as_of_times, corpus.num_categories)
    before, counted = map(_total, (trained, stats.item[0]))
    if counted < _LEAST_SHARE * before:
        raise UserError(
            f"--events={events} holds {counted / before:.0%} of the popularity that training counted at its cut "
            f"({_date(corpus.cut)} UTC): it must hold the whole log from its first event on, not the newest alone"
        )
    is_seen = np.bincount(log.item, minlength=corpus.num_items) > 0
    return FreshStatistics(stats.item[1], stats.category[1], as_of, len(log.item), is_seen)


def _read(data: DataConfig, events: str, corpus: Corpus) -> LifelongLog:
    """The table under the catalogue, read as `event_log` reads tables: baskets, duplicates and times by its rules."""
    known = slice(schema.FIRST_KNOWN, None)
    category = corpus.category_name[corpus.item_category[known]]
    with tempfile.TemporaryDirectory() as folder:
        items = os.path.join(folder, "exported-catalogue.parquet")
        pd.DataFrame({data.item_column: corpus.item_id[known], "category": category}).to_parquet(items)
        spec = dataclasses.replace(data, events=events, items=items, context="category", item_features=())
        spec = dataclasses.replace(spec, users="", user_features=(), item_name_column="", weight_column="")
        try:
            return read_event_log(spec)
        except UserError as error:  # the table of items is none that the user gave
            raise UserError(str(error).replace(f"--items={items}", "the catalogue of the export")) from error


def _total(item_stats: np.ndarray) -> float:
    """Decayed counts of all items together."""
    return float(np.maximum(np.exp(item_stats[:, 0].astype(np.float64)) - _FLOOR, 0).sum())


def _date(seconds: int) -> str:
    return str(np.datetime64(seconds, "s")).replace("T", " ")
