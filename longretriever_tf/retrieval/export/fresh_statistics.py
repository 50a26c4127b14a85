"""Item and category statistics as of the end of a newer log, under towers that were trained on an older one."""

from typing import NamedTuple

import numpy as np

from longretriever_tf.common.errors import UserError
from longretriever_tf.data.corpus import Corpus
from longretriever_tf.data.later_events import merge_parts
from longretriever_tf.data.recipe.item_stats import item_cells, scan_cells
from longretriever_tf.retrieval.export.log_of_today import LogOfToday, date_of

_LEAST_SHARE = 0.5
"""Of the popularity that training counted at its cut, what the log must hold as of then: else it is cut short."""

_FLOOR = 0.05
"""What `data.recipe.item_stats` adds to a decayed count before its logarithm."""


class FreshStatistics(NamedTuple):
    """Statistics that a refresh puts in the place of those of the training cut.

    Attributes:
      item: [V, 3] float32, see `data.recipe.item_stats`.
      category: [C, 3] float32.
      takers: [V] float32, as of `ItemStats`.
      as_of: events before it are counted, seconds UTC.
      num_events: how many those are.
      is_seen: whether anyone ever took the item, [V] bool.
      added: rows of the later events that the log did not hold, [m] int64.
    """

    item: np.ndarray
    category: np.ndarray
    takers: np.ndarray
    as_of: int
    num_events: int
    is_seen: np.ndarray
    added: np.ndarray


def fresh_statistics(log: LogOfToday, corpus: Corpus, trained: np.ndarray, since: int, until: int) -> FreshStatistics:
    """Counts the whole log of today; its last event is what it is as of.

    Args:
      log: the whole log: repeats and popularity count all of its events.
      corpus: the catalogue to count for; events of other items are left out.
      trained: the statistics that training counted at `corpus.cut`, rows of `corpus`, [V, 3].
      since: as of when the last version's statistics are, seconds UTC.
      until: count events before it alone, seconds UTC; 0: all.

    Raises:
      UserError: the log is cut short, or ends before `since`.
    """
    later = log.later
    merged = list(merge_parts(log.parts(), later, corpus))
    times = [part.log.timestamp for part in merged if len(part.log.timestamp)]
    if not times:
        raise UserError(f"{log.source} holds no event of any item of this catalogue: is it the table of another log?")
    as_of = until or max(int(time.max()) for time in times) + 1
    if as_of < since:
        raise UserError(
            f"{log.source} ends at {date_of(as_of)} UTC, and the last version counts events until {date_of(since)} "
            "UTC already: give newer events, or the whole log of today"
        )
    grid = np.array([min(corpus.cut, as_of), as_of], np.int64)
    cells = [item_cells(part.log, grid, corpus.num_items) for part in merged]
    stats = scan_cells(cells, corpus.item_category, grid, corpus.num_categories)
    before, counted = map(_total, (trained, stats.item[0]))
    if counted < _LEAST_SHARE * before:
        raise UserError(
            f"{log.source} holds {counted / before:.0%} of the popularity that training counted at its cut "
            f"({date_of(corpus.cut)} UTC): "
            + (
                "--whole_log says that it is the whole log from its first event on, not the newest alone"
                if log.is_whole
                else "the log that the run was trained on is no longer whole; give the whole log: --whole_log"
            )
        )
    return FreshStatistics(
        item=stats.item[1],
        category=stats.category[1],
        takers=stats.takers,
        as_of=as_of,
        num_events=sum(int((time < as_of).sum()) for time in times),
        is_seen=stats.first_time < as_of,
        added=np.sort(np.concatenate([part.added for part in merged])),
    )


def _total(item_stats: np.ndarray) -> float:
    """Decayed counts of all items together."""
    return float(np.maximum(np.exp(item_stats[:, 0].astype(np.float64)) - _FLOOR, 0).sum())
