"""Whether new events still look like the log: shares of the unknown, distances next to the usual ones, the verdict."""

import dataclasses

import numpy as np
import pytest
from sharded import write_log
from worlds import START, block_world

from longretriever_tf import inspect_log
from longretriever_tf.common.schema import DAY_S
from longretriever_tf.common.text import as_text
from longretriever_tf.config.config import Config, DataConfig
from longretriever_tf.data.later_events import events_of, join_events
from longretriever_tf.data.window.sample import load_sample, of_sample
from longretriever_tf.inspection.drift import AS_USUAL, REFRESH, TRAIN, decide, measure_drift, render


@pytest.fixture(scope="module")
def world():
    """A log of 126 days, and the events of the 14 days after it."""
    log = block_world(num_users=80, num_items=40, events_per_user=120)
    is_past = log.timestamp < START + 126 * DAY_S
    return log.of_events(is_past), events_of(log.of_events(~is_past))


def test_more_of_the_same_is_as_usual(world):
    log, new = world
    drift = measure_drift(log, new)
    assert (drift.new_items, drift.new_categories, drift.new_users, drift.num_known) == (0, 0, 0, 0)
    assert drift.days == pytest.approx(14, abs=0.5) and drift.num_events == len(new.timestamp)
    pairs = set(zip(log.user_id[log.event_user()].tolist(), log.items.item_id[log.item_row].tolist(), strict=True))
    again = [pair in pairs for pair in zip(new.user_id.tolist(), new.item_id.tolist(), strict=True)]
    assert drift.repeats == pytest.approx(np.mean(again)) and 0.5 < drift.usual_repeats <= 1
    assert decide(drift) == (AS_USUAL, []) and "New events: they look like the log" in render(drift)


def test_distances_are_total_variation(world):
    log, new = world
    span = int(new.timestamp.max() - new.timestamp.min()) + 1
    last = (log.timestamp >= log.timestamp.max() + 1 - span) & (log.timestamp <= log.timestamp.max())
    shares = [
        {raw: float(np.mean(ids == raw)) for raw in log.items.item_id.tolist()}
        for ids in (log.items.item_id[log.item_row[last]], new.item_id)
    ]
    expected = 0.5 * sum(abs(shares[0][raw] - shares[1][raw]) for raw in shares[0])
    assert measure_drift(log, new).item_distance == pytest.approx(expected)


@pytest.mark.parametrize(("share", "word"), [(0.05, REFRESH), (0.4, TRAIN)])
def test_items_that_the_log_does_not_know(world, share, word):
    log, new = world
    is_new = np.arange(len(new.item_id)) < share * len(new.item_id)
    drift = measure_drift(log, new._replace(item_id=np.where(is_new, new.item_id + 10_000, new.item_id)))
    assert drift.new_items == pytest.approx(is_new.mean())
    assert decide(drift)[0] == word and f"{is_new.mean():.1%} of the events are of items" in decide(drift)[1][0]


def test_a_category_that_takes_over_is_told_and_so_are_new_ones(world):
    log, new = world
    items = log.items.item_id[log.items.features["category"] == "c1"]
    moved = measure_drift(log, new._replace(item_id=np.resize(items, len(new.item_id))))
    assert moved.category_distance > 2 * moved.usual_category_distance
    assert decide(moved)[0] == TRAIN and "category popularity has moved" in decide(moved)[1][0]
    unknown = new._replace(item_id=new.item_id + 10_000)
    category = np.array(["zz"] * (len(new.item_id) // 2) + ["c1"] * (len(new.item_id) - len(new.item_id) // 2), object)
    assert measure_drift(log, unknown, category).new_categories == pytest.approx(np.mean(category == "zz"))


def test_events_of_the_log_are_left_out_and_text_ids_are_compared_as_text(world):
    log, new = world
    both = join_events([new, events_of(log)])
    as_text = both._replace(item_id=np.array(list(map(str, both.item_id)), object))
    assert measure_drift(log, as_text) == measure_drift(log, new)._replace(num_known=log.num_events)


def test_a_log_that_is_too_short_to_compare_with_is_said_so(world):
    log, new = world
    short = log.of_events(log.timestamp >= log.timestamp.max() - 10 * DAY_S)
    said = " ".join(render(measure_drift(short, new)).split())
    assert "nan" not in said and "no two earlier spans" in said


def test_next_to_a_sample_of_the_users_stand_their_own_new_events(world, tmp_path):
    log, _ = world
    log = dataclasses.replace(log, user_id=as_text([f"user {raw}" for raw in log.user_id]))
    middle = int(np.quantile(log.timestamp, 0.8))
    past, later = log.of_events(log.timestamp < middle), log.of_events(log.timestamp >= middle)
    write_log(str(tmp_path), past, 3)
    data, half = DataConfig(data=str(tmp_path)), past.num_events / 2
    sample = load_sample(data, half, "asked")
    assert 0 < sample.num_users < past.num_users
    assert measure_drift(sample, events_of(later)).new_users > 0
    drift = measure_drift(sample, events_of(of_sample(data, half, sample, later)))
    assert (
        drift.new_users == 0 and drift.usual_events_per_day / 2 < drift.events_per_day < 2 * drift.usual_events_per_day
    )


def test_new_items_are_of_no_new_category_where_the_log_s_are_learned(world):
    """The events name the log's own category, which is no cluster."""
    log, _ = world
    items = dataclasses.replace(log.items, item_id=log.items.item_id + 10_000)
    table = dataclasses.replace(log.of_events(log.timestamp >= np.quantile(log.timestamp, 0.9)), items=items)
    data = DataConfig(dataset="event_log", events="events.parquet", context="clusters:3")
    report = inspect_log.inspect_log(log, Config(data=data))
    told = inspect_log._with_drift(report, log, Config(data=data), table).statistics["drift"]
    assert told["new_items"] == 1 and told["new_categories"] == 0
