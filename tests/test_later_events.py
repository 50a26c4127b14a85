"""Later events join a log: each counts once, whoever holds it, in parts of the users as in one."""

import dataclasses

import numpy as np
import pytest
from worlds import block_world, make_log

from longretriever_tf.common.errors import UserError
from longretriever_tf.common.schema import FIRST_KNOWN
from longretriever_tf.config.actions import Actions
from longretriever_tf.config.config import Config, DataConfig, TrainConfig
from longretriever_tf.data.catalogue import save_catalogue
from longretriever_tf.data.corpus import fit_corpus
from longretriever_tf.data.later_events import (
    NOTHING,
    LaterEvents,
    events_of,
    join_events,
    load_events,
    merge_parts,
    save_events,
)
from longretriever_tf.data.number_bins import name_bins
from longretriever_tf.retrieval.export.log_of_today import LogOfToday
from longretriever_tf.retrieval.export.sold_items import with_sold_items


def text(values) -> np.ndarray:
    return np.array([str(value) for value in values], object)


@pytest.fixture(scope="module")
def world():
    """A log, the events of its last tenth as later ones, and the corpus of what lies before."""
    log = block_world(num_users=23, num_items=31, events_per_user=29)
    cut = int(np.quantile(log.timestamp, 0.9))
    return log, log.of_events(log.timestamp < cut), events_of(log.of_events(log.timestamp >= cut)), fit_corpus(log, cut)


def counted(parts) -> set:
    """(user, item, time) of all parts."""
    return {
        (str(user), int(item), int(time))
        for part in parts
        for user, item, time in zip(
            part.log.user_id[part.log.event_user()], part.log.item, part.log.timestamp, strict=True
        )
    }


def test_the_past_and_the_later_events_make_the_whole_log(world):
    log, past, later, corpus = world
    whole = counted(merge_parts([log], NOTHING, corpus))
    order = np.random.default_rng(1).permutation(len(later.timestamp))
    for parts in ([past], [past.of_users(slice(0, 9)), past.of_users(slice(9, 20))]):
        merged = list(merge_parts(parts, later.take(order), corpus))
        if len(parts) == 1:
            assert counted(merged) == whole
        added = np.sort(np.concatenate([part.added for part in merged]))
        np.testing.assert_array_equal(added, np.arange(len(later.timestamp)))
        for part in merged:  # histories are in order of time
            user = part.log.event_user()
            assert (np.diff(part.log.timestamp)[np.diff(user) == 0] >= 0).all()
    rest = merged[-1].log  # the users of no part
    assert set(rest.user_id.tolist()) == set(log.user_id[20:].tolist()) & set(later.user_id.tolist())


def test_an_event_counts_once_whatever_type_its_ids_have(world):
    _, past, later, corpus = world
    twice = join_events([later, later._replace(user_id=text(later.user_id)), events_of(past)])
    assert twice.user_id.dtype == object and twice.item_id.dtype == np.int64
    for same in (twice, twice._replace(item_id=text(twice.item_id))):
        (one, rest) = merge_parts([past], same, corpus)
        assert counted([one, rest]) == counted(merge_parts([past], later, corpus))
        assert sorted(one.added.tolist() + rest.added.tolist()) == list(range(len(later.timestamp)))


def test_items_outside_the_corpus_are_added_and_not_counted():
    log = make_log(["a", "a", "b"], ["x", "y", "x"], [10, 20, 30], {"category": ["c", "c"]})
    corpus = fit_corpus(log, 100)
    later = LaterEvents(text(["a", "new", "new"]), text(["z", "y", "y"]), np.array([40, 50, 50]))
    merged = list(merge_parts([log], later, corpus))
    assert [part.added.tolist() for part in merged] == [[0], [1]]
    assert [len(part.log.item) for part in merged] == [3, 1]
    assert merged[1].log.user_id.tolist() == ["new"] and corpus.item_id[merged[1].log.item].tolist() == ["y"]


def test_the_log_keeps_what_it_holds_twice_by_two_baskets():
    log = make_log([1, 1], [5, 5], [10, 10], {"category": ["c"]}, basket=[1, 2])
    assert log.num_events == 2
    later = LaterEvents(np.array([1]), np.array([5]), np.array([10]))
    (part, _) = merge_parts([log], later, fit_corpus(log, 100))
    assert len(part.log.item) == 2 and len(part.added) == 0


def test_a_view_and_a_purchase_of_one_second_are_two_events(tmp_path):
    log = make_log(["a", "a"], ["x", "x"], [10, 20], {"category": ["c"]})
    log = dataclasses.replace(log, action=np.array([1, 1], np.int16), actions=Actions(("buy", "view")))
    given = [("x", 10, "view"), ("x", 10, "buy"), ("x", 30, "view"), ("x", 30, "buy"), ("x", 30, "buy")]
    item, time, action = zip(*given, strict=True)
    later = LaterEvents(text(["a"] * 5), text(item), np.array(time), text(action))
    later = load_events(str(tmp_path), [save_events(str(tmp_path), later)])
    (part, _) = merge_parts([log], join_events([later, events_of(log)]), fit_corpus(log, 100))
    assert part.added.tolist() == [1, 2, 3] and part.log.timestamp.tolist() == [10, 10, 20, 30, 30]


def test_kept_events_come_back_and_a_damaged_file_is_named(world, tmp_path):
    _, _, later, _ = world
    for events in (
        later,
        later._replace(user_id=text(later.user_id), item_id=text(["é" * (i % 3) for i in later.item_id])),
    ):
        name = save_events(str(tmp_path), events)
        assert save_events(str(tmp_path), events) == name
        np.testing.assert_equal(load_events(str(tmp_path), [name]).columns(), events.columns())
    assert not len(load_events(str(tmp_path), []).timestamp)
    (tmp_path / "later_events" / name).write_bytes(b"PAR1 and no more")
    with pytest.raises(UserError, match=f"{name} cannot be read .* --whole_log"):
        load_events(str(tmp_path), [name])


def test_an_item_that_the_run_has_kept_is_sold_though_its_events_say_no_category(tmp_path):
    """Of a log with a table of items: the events have none to say, and theirs is read as blank."""
    log = block_world(num_users=20, num_items=30, events_per_user=20)
    category, price = {"category": log.items.features["category"]}, {"price": np.arange(30.0)}
    log = dataclasses.replace(log, items=dataclasses.replace(log.items, features=category, numbers=price))
    is_sold_later = log.item_row == log.item_row[0]
    corpus = fit_corpus(log.of_events(~is_sold_later), int(log.timestamp.max()) + 1)
    save_catalogue(str(tmp_path), log.items, corpus)
    later = log.of_events(is_sold_later)
    blank = dataclasses.replace(log.items, features={"category": np.full(len(log.items.item_id), "", object)})
    data = DataConfig(dataset="event_log", events="events.parquet", items="items.parquet", numeric_features=("price",))
    config = Config(data=data, train=TrainConfig(run_dir=str(tmp_path)))
    table = dataclasses.replace(later, items=blank)
    listed = with_sold_items(config, corpus, corpus, LogOfToday("--events", data, table, False, NOTHING))
    assert listed is not None and len(listed.item_id) == corpus.num_items - FIRST_KNOWN + 1
    sold = log.items.item_id[log.item_row[0]]
    assert listed.features["category"][listed.item_id == sold] == log.items.features["category"][log.item_row[0]]
    bins = name_bins(log.items.numbers["price"], corpus.feature_edges["price"])
    assert listed.features["price"][listed.item_id == sold] == bins[log.item_row[0]]
