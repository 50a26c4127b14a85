"""Training examples against an oracle that asks every user, category and time in turn."""

import dataclasses

import numpy as np
import pytest
import reference
from worlds import START, crowded_world, make_log

from longretriever_tf.common.errors import UserError
from longretriever_tf.common.schema import DAY_S
from longretriever_tf.config.config import Config, DataConfig, ModelConfig, TrainConfig
from longretriever_tf.data.batches.examples import build_examples, snapshot_times, stats_times
from longretriever_tf.data.batches.in_context import BatchSource
from longretriever_tf.data.batches.prepared_data import prepare, prepare_examples

CUT = START + 170 * DAY_S


def make_config(examples="snapshot", subsequence="items", max_length=5, max_events=11):
    return Config(
        model=ModelConfig(
            subsequence=subsequence, max_length=max_length, max_events=max_events, svd_dim=0, user_context=False
        ),
        train=TrainConfig(examples=examples, snapshot_every_days=11, num_snapshots=7, horizon_days=20),
    )


def described(prepared, examples):
    """Examples in raw ids, as a dict from (user, category, time, position of the target) to what they hold."""
    order, corpus = prepared.order, prepared.corpus
    ids = corpus.item_id[order.item]
    return {
        (
            prepared.log.user_id[examples.user[x]],
            corpus.category_name[examples.category[x]],
            int(examples.time[x]),
            int(examples.target_start[x]),
        ): (
            ids[examples.start[x] : examples.stop[x]].tolist(),
            ids[examples.target_start[x] : examples.target_stop[x]].tolist(),
            float(examples.weight[x]),
            examples.activity[x].tolist(),
        )
        for x in range(len(examples))
    }


def snapshot_oracle(log, config):
    horizon = config.train.horizon_days * DAY_S
    found = {}
    for step in range(config.train.num_snapshots):
        time = int(CUT - horizon - step * config.train.snapshot_every_days * DAY_S)
        for user in range(log.num_users):
            user_history = [b for b in reference.request_history(log, user) if b.timestamp < CUT]
            past = [b.timestamp for b in user_history if b.timestamp < time]
            ahead = [b for b in user_history if time <= b.timestamp < time + horizon]
            for category in {b.category for b in ahead} if past else ():
                history = reference.hard_search(user_history, category, time, -1, config.model.max_events)
                targets = [b.item for b in ahead if b.category == category]
                found[log.user_id[user], category, time] = (
                    [b.item for b in history],
                    targets,
                    len(ahead) ** -0.5,
                    reference.activity_at(past, time),
                )
    return found


def event_oracle(log, limit):
    found = []
    for user in range(log.num_users):
        user_history = [b for b in reference.request_history(log, user) if b.timestamp < CUT]
        for b in user_history:
            history = reference.hard_search(user_history, b.category, b.timestamp, b.basket, limit)
            same_time = sum(other.timestamp == b.timestamp for other in user_history)
            found.append(
                (
                    log.user_id[user],
                    b.category,
                    b.timestamp,
                    b.item,
                    [h.item for h in history],
                    same_time**-0.5,
                    reference.activity_at((h.timestamp for h in user_history), b.timestamp),
                )
            )
    return found


def assert_same(found, expected):
    *lists, weight, activity = found
    *wanted_lists, wanted_weight, wanted_activity = expected
    assert lists == wanted_lists
    np.testing.assert_allclose(weight, wanted_weight, rtol=1e-6)
    np.testing.assert_allclose(activity, wanted_activity, rtol=1e-5)


def test_snapshots_are_what_the_oracle_asks():
    log, config = crowded_world(seed=7), make_config()
    prepared = prepare(config, log, CUT)
    examples, snapshots = prepare_examples(config, prepared)
    assert examples is snapshots
    found = {key[:3]: value for key, value in described(prepared, examples).items()}
    expected = snapshot_oracle(log, config)
    assert len(found) == len(examples) and found.keys() == expected.keys() and len(expected) > 50
    late = [time for user, _, time in expected if user == log.user_id[-2]]
    assert min(late) > START + 120 * DAY_S  # nobody is asked about a user whose history has not begun
    assert any(not history for history, *_ in expected.values())  # a first visit to a category is an example too
    for key, value in expected.items():
        assert_same(found[key], value)


@pytest.mark.parametrize(("subsequence", "limit"), [("items", 11), ("events", 5)])
def test_event_examples_are_what_the_oracle_asks(subsequence, limit):
    log, config = crowded_world(seed=8), make_config("event", subsequence)
    prepared = prepare(config, log, CUT)
    examples, snapshots = prepare_examples(config, prepared)
    assert len(snapshots) != len(examples)  # the interest score learns from snapshots all the same
    found = sorted(
        (*key[:3], targets[0], *rest)
        for key, (history, targets, *numbers) in described(prepared, examples).items()
        for rest in [(history, *numbers)]
    )
    expected = sorted(event_oracle(log, limit))
    assert len(found) == len(expected) == (log.timestamp < CUT).sum()
    for one, other in zip(found, expected, strict=True):
        assert_same(one, other)


def test_both_kinds_of_examples_are_the_two_together():
    log, found = crowded_world(seed=8), {}
    for kind in ("snapshot", "event", "both"):
        config = make_config(kind)
        prepared = prepare(config, log, CUT)
        examples, snapshots = prepare_examples(config, prepared)
        found[kind] = sorted(described(prepared, examples))
        found[kind, "snapshots"] = sorted(described(prepared, snapshots).items())
        assert len(found[kind]) == len(examples)
        # The statistics of each snapshot are of its own time.
        np.testing.assert_array_equal(prepared.stats.time[snapshots.stats_row], snapshots.time)
    assert found["both"] == sorted(found["snapshot"] + found["event"])
    assert found["snapshot", "snapshots"] == found["event", "snapshots"] == found["both", "snapshots"]


@pytest.mark.parametrize("kind", ["snapshot", "event", "both"])
@pytest.mark.parametrize("subsequence", ["items", "events"])
@pytest.mark.parametrize("max_events", [3, 11, 256])
def test_lengths_are_the_tokens_that_the_graph_makes(kind, subsequence, max_events):
    config = make_config(kind, subsequence, max_length=5, max_events=max_events)
    prepared = prepare(config, crowded_world(seed=9), CUT)
    examples, _ = prepare_examples(config, prepared)
    source = BatchSource(config, prepared, examples)
    for rows in np.array_split(np.arange(len(examples)), 5):
        tokens = source.build(rows).token_item.numpy()
        np.testing.assert_array_equal((tokens > 0).sum(1), examples.length[rows])
    assert examples.length.max() == min(5, max_events if subsequence == "items" else 5)


@pytest.mark.parametrize("kind", ["snapshot", "event", "both"])
def test_slices_stay_in_their_run_and_before_their_as_of(kind):
    config = make_config(kind, max_events=256)
    prepared = prepare(config, crowded_world(seed=10), CUT)
    examples, _ = prepare_examples(config, prepared)
    order, stats = prepared.order, prepared.stats
    run = order.find_segments(examples.user, examples.category)
    np.testing.assert_array_equal(
        examples.start, order.segment_offset[run]
    )  # no history here is longer than max_events
    assert (examples.start <= examples.stop).all() and (examples.stop <= examples.target_start).all()
    assert (examples.target_start < examples.target_stop).all()
    assert (examples.target_stop <= order.segment_offset[run + 1]).all()
    with_history = examples.stop > examples.start
    assert (order.timestamp[examples.stop - 1] < examples.time)[with_history].all()
    assert (order.timestamp[examples.target_start] >= examples.time).all()
    assert (stats.time[examples.stats_row] <= examples.time).all()
    next_row = np.minimum(examples.stats_row + 1, len(stats.time) - 1)
    assert ((stats.time[next_row] > examples.time) | (next_row == examples.stats_row)).all()
    # Asking again later only ever adds to the history: in a run, later times hold earlier histories as prefixes.
    by_run = np.lexsort((examples.time, run))
    later = run[by_run][1:] == run[by_run][:-1]
    assert (np.diff(examples.stop[by_run])[later] >= 0).all() and later.any()


def test_distinct_items_of_a_window_against_sets():
    order = prepare(make_config(), crowded_world(seed=11), CUT).order
    for window in (1, 2, 7, 1000):
        expected = [
            len(set(order.item[max(low, p + 1 - window) : p + 1].tolist()))
            for low, high in zip(order.segment_offset[:-1], order.segment_offset[1:], strict=True)
            for p in range(low, high)
        ]
        np.testing.assert_array_equal(order.num_distinct_within(window), expected)
    np.testing.assert_array_equal(order.num_distinct_within(10**6), order.num_distinct)


def test_as_of_times_count_back_from_the_cut():
    config = make_config()
    day = (snapshot_times(config, START, CUT) - START) / DAY_S
    np.testing.assert_array_equal(day, 170 - 20 - 11 * np.arange(7)[::-1])
    times = stats_times(config, START + 106 * DAY_S, CUT)  # a snapshot before which nothing happened says nothing
    np.testing.assert_array_equal((times - START) / DAY_S, [117, 128, 139, 150, 170])
    weekly = stats_times(make_config("event"), START, START + 15 * DAY_S)
    np.testing.assert_array_equal((weekly - START) / DAY_S, [0, 7, 14, 15])
    short = Config(data=DataConfig(window_days=2))  # ten days in all: what is asked is as long as a window
    day = (snapshot_times(short, START, START + 6 * DAY_S) - START) / DAY_S
    np.testing.assert_allclose(day, 4 - np.arange(6)[::-1] * 2 * 10 / 28, atol=1e-4)
    decade = stats_times(make_config("both"), START, START + 3650 * DAY_S)  # coarser: each time costs memory
    snapshots = snapshot_times(config, START, START + 3650 * DAY_S)
    assert len(np.setdiff1d(decade, snapshots)) == 105 and np.isin(snapshots, decade).all()
    assert decade[0] == START and decade[-1] == START + 3650 * DAY_S and (np.diff(decade) > 0).all()


def test_a_window_without_examples_says_what_to_lower():
    log = make_log([1, 1], [5, 6], [START, START + DAY_S], {"category": ["c", "c"]})
    config = make_config()
    prepared = prepare(config, log, START + 2 * DAY_S)
    with pytest.raises(UserError, match=r"--horizon_days.*--window_days.*--examples=event"):
        prepare_examples(config, prepared)
    events = dataclasses.replace(config, train=dataclasses.replace(config.train, examples="event"))
    prepared = prepare(events, log, START + 2 * DAY_S)
    assert len(build_examples(events, prepared.log, prepared.order, prepared.stats.time, START)) == 2
