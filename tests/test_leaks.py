"""Nothing at or after its time reaches an example, and nothing at or after the cut reaches training."""

import dataclasses
import os
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import reference
import tensorflow as tf
from worlds import START, block_world, make_log

from longretriever_tf.common.schema import DAY_S
from longretriever_tf.config.config import Config, ModelConfig, TrainConfig
from longretriever_tf.config.snapshots import horizon_days
from longretriever_tf.data.batches.in_context import BatchSource, sampling_probability
from longretriever_tf.data.batches.interests import InterestSource
from longretriever_tf.data.batches.prepared_data import example_history_embeddings, prepare, prepare_examples
from longretriever_tf.datasets.complete_journey import complete_journey_dataset_builder as complete_journey
from longretriever_tf.datasets.splits import global_time_cuts
from longretriever_tf.models.build import build_models
from longretriever_tf.models.retriever import embed_corpus

SAMPLES = 10_000
CUT = START + 100 * DAY_S


@pytest.fixture(scope="module")
def journey():
    """Complete Journey as a log, and its raw histories read by pandas alone: a basket is one time, its earliest."""
    folder = complete_journey.package_data()
    log = complete_journey.read_complete_journey(folder)
    category = pd.read_parquet(os.path.join(folder, "products.parquet"), columns=["product_id", "product_category"])
    rows = pd.read_parquet(
        os.path.join(folder, "transactions.parquet"),
        columns=["household_id", "basket_id", "product_id", "transaction_timestamp"],
    ).merge(category.dropna(), on="product_id", how="inner", sort=False)
    rows["time"] = rows.transaction_timestamp.to_numpy("datetime64[s]").astype(np.int64)
    rows["time"] = rows.groupby("basket_id").time.transform("min")
    rows = rows.drop_duplicates(["basket_id", "product_id"])
    rows = rows.sort_values(["time", "basket_id", "product_id"])
    histories = {
        household: [
            reference.Behavior(*values, 1.0)
            for values in zip(
                *(user_history[name].tolist() for name in ("product_id", "product_category", "time", "basket_id")),
                strict=True,
            )
        ]
        for household, user_history in rows.groupby("household_id")
    }
    return log, histories


@pytest.mark.realdata
@pytest.mark.parametrize("kind", ["snapshot", "event"])
def test_no_history_of_complete_journey_reaches_its_target(journey, kind):
    log, histories = journey
    # Mixed batches: the sample is of all categories, and its targets are read from the batch.
    config = Config(
        model=ModelConfig(svd_dim=0, user_context=False, repeat_term=False, item_stats=False),
        train=TrainConfig(examples=kind, loss="in_batch", in_context=False),
    )
    cut = global_time_cuts(log.timestamp, config.data.window_days).validation_start
    prepared = prepare(config, log, cut)
    examples, _ = prepare_examples(config, prepared)
    sampled = np.sort(np.random.default_rng(1).choice(len(examples), SAMPLES, replace=False))
    source = BatchSource(config, prepared, examples)
    horizon = horizon_days(config) * DAY_S if kind == "snapshot" else 1
    num_tokens = 0
    for rows in np.array_split(sampled, 20):
        batch = source.build(rows)
        tokens, features = batch.token_item.numpy(), batch.features.numpy()
        target_row, target = batch.target_row.numpy(), batch.item[0].numpy()[batch.target_local]
        for row, x in enumerate(rows):
            case = SimpleNamespace(
                user_history=histories[log.user_id[examples.user[x]]],
                time=int(examples.time[x]),
                category=str(prepared.corpus.category_name[examples.category[x]]),
                horizon=horizon,
                kind=kind,
            )
            length = int(examples.length[x])
            num_tokens += length
            found = prepared.corpus.item_id[tokens[row, :length]].tolist(), features[row, :length, :13]
            history = slice(examples.start[x], examples.stop[x])
            targets = prepared.corpus.item_id[target[target_row == row]].tolist()
            assert_strictly_past(prepared, case, history, targets, found)
            assert not tokens[row, length:].any()
    assert num_tokens > SAMPLES  # histories were there to be checked


def assert_strictly_past(prepared, case, history, targets, found):
    """The history is the oracle's, event by event and token by token, and shares no time or basket with a target."""
    order, model = prepared.order, ModelConfig()
    taken = [
        b
        for b in case.user_history
        if b.category == case.category and case.time <= b.timestamp < case.time + case.horizon
    ]
    ahead = [b for b in taken if b.item in targets] if case.kind == "event" else taken
    assert ahead and {b.item for b in ahead} == set(targets) and len(set(targets)) == len(targets)
    whole = reference.hard_search(case.user_history, case.category, case.time, ahead[0].basket, 10**9)
    assert not {b.basket for b in ahead} & {b.basket for b in whole}
    wanted = whole[-model.max_events :]
    assert prepared.corpus.item_id[order.item[history]].tolist() == [b.item for b in wanted]
    assert order.timestamp[history].tolist() == [b.timestamp for b in wanted]
    assert (order.timestamp[history] < case.time).all()
    tokens = reference.item_tokens(wanted, len(whole), case.time, model.max_length)
    assert found[0] == [item for item, _ in tokens]
    if tokens:
        np.testing.assert_allclose(found[1], [features for _, features in tokens], rtol=5e-5, atol=5e-5)


OLD_ITEMS = np.setdiff1d(np.arange(100, 197), [150])
NEW_ITEMS = np.array([1, 150, 999_999])  # before, among and after the old ids
NEW_USERS = np.array([3, 1003, 1017, 888_888])


def first_columns():
    """User, item and time of a world's events, without the users and items that are to come."""
    log = block_world(days=160)
    user, item = log.user_id[log.event_user()], log.items.item_id[log.item_row]
    keep = ~np.isin(user, NEW_USERS) & ~np.isin(item, NEW_ITEMS)
    return user[keep], item[keep], log.timestamp[keep]


def make_world(user, item, timestamp):
    """The log of these events; what is new in them has categories, brands and profile values of its own."""
    ids = np.union1d(OLD_ITEMS, item)
    is_new = np.isin(ids, NEW_ITEMS)
    return make_log(
        user,
        item,
        timestamp,
        item_id=ids,
        item_features={
            "category": np.where(is_new, [f"a{v}" for v in ids], [f"c{v % 7}" for v in ids]),
            "brand": np.where(is_new, [f"a{v}" for v in ids], [f"b{v % 4}" for v in ids]),
        },
        profile={"taste": [f"a{u}" if u in NEW_USERS else f"b{u % 2}" for u in np.unique(user)]},
    )


def upset(columns, since):
    """The same events before `since`; those after it are lost, moved in time or of another item, and more come.

    As unlike the past as can be: new items of new categories and brands, new users with new profile values, and a
    rush on the least popular of the old items.
    """
    random = np.random.default_rng(5)
    user, item, timestamp = columns
    late = np.flatnonzero(timestamp >= since)
    moved, changed = late[: len(late) // 3], late[len(late) // 3 : 2 * len(late) // 3]
    rare = OLD_ITEMS[np.bincount(item, minlength=200)[OLD_ITEMS].argsort()[:5]]
    parts = [
        (user[timestamp < since], item[timestamp < since], timestamp[timestamp < since]),
        (user[moved], item[moved], since + random.integers(0, 50 * DAY_S, len(moved))),
        (user[changed], random.choice(NEW_ITEMS, len(changed)), timestamp[changed]),
        (random.choice(NEW_USERS, 300), random.choice(OLD_ITEMS, 300), random.integers(since, since + DAY_S, 300)),
        (random.choice(user, 400), random.choice(rare, 400), random.integers(since, since + DAY_S, 400)),
        (NEW_USERS[:3], NEW_ITEMS, np.full(3, since)),  # the very second of the cut is after it
        (user[:9], OLD_ITEMS[:9], np.full(9, since)),
    ]
    return tuple(np.concatenate(column) for column in zip(*parts, strict=True))


def fields(prefix, value, without=()):
    return {f"{prefix}.{f.name}": getattr(value, f.name) for f in dataclasses.fields(value) if f.name not in without}


def everything(log, config, cut=CUT):
    """All that training reads or makes before its first step, by name; user rows by their ids."""
    prepared = prepare(config, log, cut)
    examples, snapshots = prepare_examples(config, prepared)
    corpus, encoded, order = prepared.corpus, prepared.log, prepared.order
    models = build_models(config, corpus, prepared.item_svd)
    vectors, bias = embed_corpus(models.retriever, corpus, prepared.stats.item[-1])
    living = np.diff(encoded.offset) > 0
    source = BatchSource(config, prepared, examples)
    batches = tf.nest.flatten(list(source.make_dataset(0).take(5)))
    interest = InterestSource(prepared, snapshots, example_history_embeddings(config, prepared, snapshots), 1)
    return {
        **fields("corpus", corpus),
        **fields("log", encoded, ["user_id", "profile", "offset"]),
        "log.user_id": encoded.user_id[living],
        "log.profile": encoded.profile[living],
        "log.offset": np.unique(encoded.offset),
        **fields("order", order, ["segment_user"]),
        "order.segment_user": encoded.user_id[order.segment_user],
        **fields("stats", prepared.stats),
        "item_svd": prepared.item_svd,
        "history_embedding_rows": prepared.history_embedding_rows,
        "user_fold": prepared.user_fold[living],
        **fields("examples", examples, ["user"]),
        "examples.user": encoded.user_id[examples.user],
        **fields("snapshots", snapshots, ["user"]),
        "snapshots.user": encoded.user_id[snapshots.user],
        "probability": sampling_probability(
            config, corpus, np.bincount(source.targets.item, minlength=corpus.num_items)
        ),
        "batches": {str(i): tensor.numpy() for i, tensor in enumerate(batches)},
        "interest": {str(i): tensor.numpy() for i, tensor in enumerate(next(iter(interest.make_dataset(0))))},
        "vectors": vectors,
        "bias": bias,
    }


def is_same(left, right):
    """Bitwise: values, dtypes and shapes; text by its letters: an array of objects holds addresses."""
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(is_same(left[key], right[key]) for key in left)
    left, right = np.asarray(left), np.asarray(right)
    if left.dtype.kind in "UO":
        return left.tolist() == right.tolist()
    return left.dtype == right.dtype and left.shape == right.shape and left.tobytes() == right.tobytes()


def small_config(examples, **model):
    train = TrainConfig(examples=examples, snapshot_every_days=9, num_snapshots=6, horizon_days=14, batch_size=17)
    return Config(model=ModelConfig(dim=8, num_heads=2, svd_dim=5, profile=True, item_id=True, **model), train=train)


KIND = pytest.mark.parametrize(
    "config",
    [small_config("snapshot"), small_config("event", user_context=False), small_config("both")],
    ids=["snapshot", "event", "both"],
)


@KIND
def test_nothing_at_or_after_the_cut_reaches_training(config):
    columns = first_columns()
    before = everything(make_world(*columns), config)
    after = everything(make_world(*upset(columns, CUT)), config)
    assert [name for name in before if not is_same(before[name], after[name])] == []


@KIND
def test_the_same_upset_before_the_cut_is_noticed(config):
    """The control: were training to read what the test above upsets, that test would fail on every one of these."""
    columns = first_columns()
    before = everything(make_world(*columns), config)
    after = everything(make_world(*upset(columns, CUT - 25 * DAY_S)), config)
    same = {name for name in before if is_same(before[name], after[name])}
    # The cut, the name of the context column, and the times are the config's and not the events'. Actions, numeric
    # features and columns of events are what this log lacks.
    absent = {"corpus.action_name", "corpus.feature_edges", "log.is_target", "order.is_target"}
    absent |= {"corpus.event_values", "log.event_feature", "order.event_feature"}
    assert same == {"corpus.cut", "corpus.context", "stats.time"} | absent


def test_one_second_decides():
    """An event one second before the cut is known; at the cut it is not."""
    columns = first_columns()
    config = small_config("snapshot")
    for second, known in ((CUT - 1, True), (CUT, False)):
        one = (np.array([1001]), np.array([150]), np.array([second]))
        world = make_world(*(np.concatenate(pair) for pair in zip(columns, one, strict=True)))
        assert (150 in prepare(config, world, CUT).corpus.item_id) is known
