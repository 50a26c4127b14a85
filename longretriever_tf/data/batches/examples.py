"""Training examples as light keys into the category order. Imports no TensorFlow.

An example is a question that serving will ask: (user, category, time) and the items that the user took next. It
holds positions, not histories: the search itself runs per batch, in the graph, by the code that serves.
"""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import numpy as np

from longretriever_tf.common import schema
from longretriever_tf.common.ranges import flat_ranges
from longretriever_tf.config.config import Config
from longretriever_tf.config.snapshots import horizon_days, snapshot_every_days
from longretriever_tf.data.batches.order import combine, sort_keys, user_keys
from longretriever_tf.data.corpus import EncodedLog
from longretriever_tf.data.recipe.item_stats import rows_at
from longretriever_tf.data.search.behavior_index import CategoryOrder, hard_search_windows
from longretriever_tf.data.search.user_activity import user_activity

_MAX_AS_OF_TIMES = 104
"""Times of the grid of event examples: two years of weeks."""


@dataclasses.dataclass(frozen=True)
class Examples:
    """X examples, each a slice of history and a slice of targets in one segment of the category order.

    Attributes:
      start, stop: history = events `start:stop` of the category order, all strictly before `time`, [X] int64.
      num_before: events of the category in all that the history shows before `time`, [X] int64.
      target_start, target_stop: targets = the distinct items of events `target_start:target_stop` that are to be
        retrieved (`CategoryOrder.is_target`), one at least; none of them before `time`, [X] int64.
      user, category: [X] int32.
      time: the request's time, seconds UTC, [X] int64.
      stats_row: row of `ItemStats` as of `time`, [X] int32.
      length: tokens that the history makes, at most L, [X] int32; where --history_events hides part of the window, no
        fewer than it makes.
      weight: weight of each target, [X] float32.
      activity: `user_activity` at `time`, [X, 3] float32.
      id: of what the example asks, [X] uint64: the same wherever the example lies; an epoch is ordered by it.
      event_feature: what the example's own event says, indices into `Corpus.event_values`, [X, F] int32; unknown where
        the example is a snapshot's, which has no one event.
    """

    start: np.ndarray
    stop: np.ndarray
    num_before: np.ndarray
    target_start: np.ndarray
    target_stop: np.ndarray
    user: np.ndarray
    category: np.ndarray
    time: np.ndarray
    stats_row: np.ndarray
    length: np.ndarray
    weight: np.ndarray
    activity: np.ndarray
    id: np.ndarray
    event_feature: np.ndarray

    def __len__(self) -> int:
        return len(self.start)


def snapshot_times(config: Config, first: int, cut: int) -> np.ndarray:
    """Times of the snapshots after `first`, oldest first, [S] int64: the last one's horizon ends at the cut.

    >>> from longretriever_tf.config.config import Config, TrainConfig
    >>> config = Config(train=TrainConfig(snapshot_every_days=7, num_snapshots=3, horizon_days=28))
    >>> snapshot_times(config, first=60 * schema.DAY_S, cut=100 * schema.DAY_S) // schema.DAY_S
    array([65, 72])
    """
    step = int(snapshot_every_days(config) * schema.DAY_S)
    last = cut - int(horizon_days(config) * schema.DAY_S)
    times = last - step * np.arange(config.train.num_snapshots - 1, -1, -1, dtype=np.int64)
    return times[times > first]


def stats_times(config: Config, first: int, cut: int) -> np.ndarray:
    """Times at which item statistics are kept: the snapshots, for event examples also a grid; then the cut.

    The grid is weekly, in a log of more than two years coarser: each time costs memory for every item and user.
    """
    times = snapshot_times(config, first, cut)
    if config.train.examples != "snapshot":
        step = max(7 * schema.DAY_S, -(-(cut - first) // _MAX_AS_OF_TIMES))
        times = np.union1d(times, np.arange(first, cut, step, dtype=np.int64))
    return np.append(times, cut)


NO_EXAMPLES = (
    "no training examples: no user has an event (of --target_actions, where they are given) after the first snapshot; "
    "lower --horizon_days (by default as long as --window_days) or --window_days (the learned interest score needs "
    "snapshots with --examples=event, too)"
)


class Candidates(NamedTuple):
    """Examples that may be built, by what they ask.

    Attributes:
      user: row of the log, [X] int64.
      time: seconds UTC, [X] int64.
      is_snapshot: whether the example is a snapshot's, and not of one event, [X] bool.
      id: as of `Examples`, [X] uint64.
    """

    user: np.ndarray
    time: np.ndarray
    is_snapshot: np.ndarray
    id: np.ndarray


Choose: TypeAlias = Callable[[Candidates], np.ndarray]
"""Which of the candidates become examples, [X] bool."""


def build_examples(
    config: Config, log: EncodedLog, order: CategoryOrder, grid: np.ndarray, first: int, choose: Choose | None = None
) -> Examples:
    """All training examples of `log`, which must end before the training cut; none where it has none.

    Args:
      config: the run's config; `train.examples` picks the kind or kinds.
      log: the encoded log before the cut, or some of its users.
      order: the category order of the same log.
      grid: times of the item statistics, the cut last, [S] int64.
      first: time of the first event of the whole log, seconds UTC.
      choose: which of them to build; None: all. It changes nothing of those that it takes.
    """
    parts = []
    if config.train.examples != "event":
        as_of_times = snapshot_times(config, first, int(grid[-1]))
        parts.append(_snapshot_slices(order, as_of_times, int(horizon_days(config) * schema.DAY_S)))
    num_snapshots = sum(len(part[0]) for part in parts)
    if config.train.examples != "snapshot":
        parts.append(_event_slices(order))
    segment, stop, target_start, target_stop, time = (np.concatenate(columns) for columns in zip(*parts, strict=True))
    user = order.segment_user[segment]
    weight = _target_weights(user, time, count_targets(order, target_start, target_stop))
    # The place of the first target in the user's own order tells examples of one time apart.
    is_snapshot = np.arange(len(user)) < num_snapshots
    ids = combine(user_keys(log.user_id)[user], ~is_snapshot, time, target_start - log.offset[user])
    if choose is not None:
        kept = choose(Candidates(user, time, is_snapshot, ids))
        columns = segment, stop, target_start, target_stop, time, user, weight, ids
        segment, stop, target_start, target_stop, time, user, weight, ids = (column[kept] for column in columns)
        is_snapshot = is_snapshot[kept]
    window = hard_search_windows(config.model, log, order, segment, stop, time)
    num_events = stop - window.start
    num_tokens = num_events
    if config.model.subsequence == "items":
        within = order.num_distinct_within(config.model.max_events)
        num_tokens = np.minimum(num_events, np.where(num_events > 0, within[np.maximum(stop - 1, 0)], 0))
    return Examples(
        start=window.start,
        stop=stop,
        num_before=window.num_before,
        target_start=target_start,
        target_stop=target_stop,
        user=user.astype(np.int32),
        category=order.segment_category[segment].astype(np.int32),
        time=time,
        stats_row=rows_at(grid, time),
        length=np.minimum(num_tokens, config.model.max_length).astype(np.int32),
        weight=weight,
        activity=user_activity(log, user, time, config.model.history_events),
        id=ids,
        event_feature=_event_features(order, target_start, is_snapshot),
    )


def _event_features(order: CategoryOrder, event: np.ndarray, is_snapshot: np.ndarray) -> np.ndarray:
    """What the first target says of each example of an event, unknown of a snapshot, [X, F] int32."""
    if order.event_feature is None:
        return np.zeros((len(event), 0), np.int32)
    return np.where(is_snapshot[:, None], schema.UNKNOWN, order.event_feature[event]).astype(np.int32)


def _target_weights(user: np.ndarray, time: np.ndarray, num_targets: np.ndarray) -> np.ndarray:
    """Weight of each target of each example, [X] float32: heavy buyers do not drown the others."""
    as_of_times, as_of = np.unique(time, return_inverse=True)
    _, inverse = np.unique(user * len(as_of_times) + as_of, return_inverse=True)
    targets = np.bincount(inverse, num_targets)[inverse]
    return (np.maximum(targets, 1) ** -0.5).astype(np.float32)


def _snapshot_slices(order: CategoryOrder, as_of_times: np.ndarray, horizon: int) -> tuple[np.ndarray, ...]:
    """One example per time, user and category of which something is taken within `horizon` seconds."""
    parts = [np.zeros((5, 0), np.int64)]
    first_history = np.full(int(order.segment_user.max(initial=0)) + 1, np.iinfo(np.int64).max)
    np.minimum.at(first_history, order.segment_user, order.timestamp[order.segment_offset[:-1]])
    for time in as_of_times:
        stop, target_stop = (stops_before(order.timestamp, order.segment_offset, t) for t in (time, time + horizon))
        # A user without any history before the time is not a request that serving ranks: nothing to read.
        is_asked = count_targets(order, stop, target_stop) > 0
        segment = np.flatnonzero(is_asked & (first_history[order.segment_user] < time))
        time = np.full(len(segment), time)
        parts.append(np.stack([segment, stop[segment], stop[segment], target_stop[segment], time]))
    return tuple(np.concatenate(parts, axis=1))


def _event_slices(order: CategoryOrder) -> tuple[np.ndarray, ...]:
    """One example per event that is a target: the segment's events of strictly earlier time are its history."""
    position = np.arange(len(order.item), dtype=np.int64)
    segment = np.repeat(np.arange(len(order.segment_user)), np.diff(order.segment_offset))
    stop = np.maximum.accumulate(np.where(begins_time(segment, order.timestamp), position, 0))
    columns = segment, stop, position, position + 1, order.timestamp
    return columns if order.is_target is None else tuple(column[order.is_target] for column in columns)


def count_targets(order: CategoryOrder | EncodedLog, start: np.ndarray, stop: np.ndarray) -> np.ndarray:
    """How many of the events `start:stop` are to be retrieved, [n] int64."""
    if order.is_target is None:
        return stop - start
    before = np.concatenate([[0], np.cumsum(order.is_target)])
    return before[stop] - before[start]


def stops_before(timestamp: np.ndarray, offset: np.ndarray, time: int) -> np.ndarray:
    """Where the events before `time` of each owner stop: events `offset[i]:offset[i + 1]` are those of i, [n] int64."""
    before = np.concatenate([[0], np.cumsum(timestamp < time)])
    return offset[:-1] + before[offset[1:]] - before[offset[:-1]]


def begins_time(owner: np.ndarray, timestamp: np.ndarray) -> np.ndarray:
    """Whether an event is the first of its owner at its time; events lie by owner, then by time: [E] bool."""
    return (np.diff(timestamp, prepend=-1) != 0) | (np.diff(owner, prepend=-1) != 0)


@dataclasses.dataclass(frozen=True)
class Targets:
    """Distinct targets of all examples: example x owns `item[offset[x]:offset[x + 1]]`, in order of first occurrence.

    Attributes:
      offset: [X + 1] int64.
      item: [t] int32.
    """

    offset: np.ndarray
    item: np.ndarray


def distinct_targets(examples: Examples, order: CategoryOrder) -> Targets:
    """Reads the target slices of all examples once."""
    owner, position = flat_ranges(examples.target_start, examples.target_stop)
    if order.is_target is not None:
        owner, position = owner[order.is_target[position]], position[order.is_target[position]]
    item = order.item[position]
    key = owner * (int(order.item.max(initial=0)) + 1) + item
    by_key = np.argsort(key, kind="stable")
    is_first = np.zeros(len(key), bool)
    is_first[by_key[np.diff(key[by_key], prepend=-1) != 0]] = True
    count = np.bincount(owner[is_first], minlength=len(examples))
    return Targets(np.concatenate([[0], np.cumsum(count)]).astype(np.int64), item[is_first])


def previous_of_item(owner: np.ndarray, item: np.ndarray) -> np.ndarray:
    """Position of the owner's event before of the same item, -1 where there is none, [E] int64.

    Args:
      owner: user or (user, category) of each event, [E]; the events of an owner lie in order of time.
      item: [E].
    """
    by_item = np.lexsort((item, owner))  # stable: time order within an (owner, item) stays
    same = (np.diff(owner[by_item]) == 0) & (np.diff(item[by_item]) == 0)
    previous = np.full(len(owner), -1, np.int64)
    previous[by_item[1:][same]] = by_item[:-1][same]
    return previous


def training_examples(
    config: Config, log: EncodedLog, order: CategoryOrder, grid: np.ndarray, first: int, choose: Choose | None = None
) -> tuple[Examples, Examples]:
    """Training examples of the towers, and snapshots for the interest score (the same where those are snapshots).

    Users whom --validation_users holds out have none. Arguments as of `build_examples`.
    """

    def build(wanted: Config) -> Examples:
        examples = build_examples(wanted, log, order, grid, first, choose)
        is_held_out = held_out_users(config, log.user_id)
        return take_examples(examples, ~is_held_out[examples.user]) if is_held_out.any() else examples

    examples = build(config)
    if config.train.examples == "snapshot":
        return examples, examples
    return examples, build(dataclasses.replace(config, train=dataclasses.replace(config.train, examples="snapshot")))


def batch_folds(config: Config, user_fold: np.ndarray) -> np.ndarray:
    """Folds that no batch mixes, of users: their own (`fold_of_users`) with --cross_fit_items, else 0 of all."""
    return user_fold if config.train.cross_fit_items else np.zeros_like(user_fold)


def take_examples(examples: Examples, which: np.ndarray) -> Examples:
    """Some of the examples: rows, or a mask."""
    columns = {field.name: getattr(examples, field.name)[which] for field in dataclasses.fields(examples)}
    return dataclasses.replace(examples, **columns)


def held_out_users(config: Config, user_id: np.ndarray) -> np.ndarray:
    """Users who give no example and guide early stopping instead, by --validation_users and --seed, [U] bool.

    Args:
      config: the run's config.
      user_id: raw ids, [U]: each decides for itself, whoever else is there.
    """
    share = config.train.validation_users
    if not share:
        return np.zeros(len(user_id), bool)
    return sort_keys(user_keys(user_id), config.train.seed) < np.uint64(share * 2.0**64)
