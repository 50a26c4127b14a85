"""In-context batches: what an epoch holds, that it can be repeated and resumed, and what a batch holds."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf
from worlds import START, block_world, crowded_world

from longretriever_tf.common.schema import DAY_S
from longretriever_tf.config.config import Config, ModelConfig, TrainConfig
from longretriever_tf.data.batches.in_context import BatchSource, plan_epoch
from longretriever_tf.data.batches.interests import InterestSource
from longretriever_tf.data.batches.prepared_data import example_history_embeddings, prepare, prepare_examples
from longretriever_tf.data.recipe import history_embedding as history_embeddings
from longretriever_tf.data.recipe.history_embedding import build_history_embeddings, fit_folds, fold_of_users, item_keys
from longretriever_tf.data.recipe.item_svd import distinct_pairs

CUT = START + 130 * DAY_S


def make_config(model=None, **train):
    train = {
        "examples": "snapshot",
        "snapshot_every_days": 9,
        "num_snapshots": 8,
        "horizon_days": 14,
        "batch_size": 13,
        **train,
    }
    in_batch = train.get("loss") == "in_batch"
    model = {"max_length": 7, "svd_dim": 4, "repeat_term": not in_batch, "item_stats": not in_batch, **(model or {})}
    return Config(model=ModelConfig(**model), train=TrainConfig(**train))


@dataclasses.dataclass(frozen=True)
class Ready:
    """A world, ready to make batches."""

    config: Config
    prepared: object
    examples: object
    source: BatchSource

    def plan(self, epoch=0):
        return plan_epoch(self.config, self.examples, self.prepared.corpus.category_offset, epoch, self.source.fold)


def make_ready(config, log=None):
    prepared = prepare(config, block_world() if log is None else log, CUT)
    examples, _ = prepare_examples(config, prepared)
    source = BatchSource(config, prepared, examples)
    return Ready(config, prepared, examples, source)


def lumpy_world():
    """`block_world` where some items are bought every second for ten seconds instead of once."""
    log = block_world()
    times = np.where(log.item_row % 5 == 0, 10, 1)
    columns = ("item_row", "timestamp", "basket_id", "weight")
    many = {name: np.repeat(getattr(log, name), times) for name in columns}
    offset = np.concatenate([[0], np.cumsum(times)])
    many["timestamp"] += np.arange(offset[-1]) - np.repeat(offset[:-1], times)
    in_order = np.lexsort((many["timestamp"], np.repeat(np.arange(log.num_users), np.diff(offset[log.offset]))))
    return dataclasses.replace(log, offset=offset[log.offset], **{name: many[name][in_order] for name in many})


def pairs_of(log, prepared):
    return distinct_pairs(log, prepared.corpus.num_items)


IN_BATCH = {"loss": "in_batch", "small_category": 13}
KINDS = pytest.mark.parametrize(
    "train",
    [
        *({}, IN_BATCH, {**IN_BATCH, "in_context": False}, {"in_context": False}, {"examples": "event"}),
        *({"batch_size": 1}, {"batch_size": 10_000}, {"cross_fit_items": True}),
    ],
    ids=["full", "in_batch", "mixed", "mixed full", "event", "batch of one", "one batch", "folds"],
)


def rows_of(plan):
    return [plan.rows[start:stop] for start, stop in zip(plan.start, plan.stop, strict=True)]


def assert_same_batches(first, second):
    assert len(first) == len(second) > 0
    for one, other in zip(first, second, strict=True):
        for left, right in zip(tf.nest.flatten(one), tf.nest.flatten(other), strict=True):
            assert left.dtype == right.dtype and left.shape == right.shape
            assert left.numpy().tobytes() == right.numpy().tobytes()


@KINDS
def test_every_example_once_an_epoch_and_one_category_a_batch(train):
    ready = make_ready(make_config(**train))
    for epoch in range(3):
        batches = rows_of(ready.plan(epoch))
        np.testing.assert_array_equal(np.sort(np.concatenate(batches)), np.arange(len(ready.examples)))
        assert all(0 < len(rows) <= ready.config.train.batch_size for rows in batches)
        categories = [len(np.unique(ready.examples.category[rows])) for rows in batches]
        assert max(categories) == 1 if ready.config.train.in_context else max(categories) > 1
        fold = ready.prepared.user_fold[ready.examples.user]
        folds = [len(np.unique(fold[rows])) for rows in batches]
        assert max(folds) == 1 if ready.config.train.cross_fit_items else max(folds) > 1 or len(batches[0]) == 1


@KINDS
def test_an_epoch_is_a_function_of_seed_and_epoch(train):
    config = make_config(**train)
    ready, again = make_ready(config), make_ready(config)
    plan = ready.plan(1)
    for name in plan._fields:
        assert getattr(plan, name).tobytes() == getattr(again.plan(1), name).tobytes()
    for other in (ready.plan(2), make_ready(make_config(**train, seed=2)).plan(1)):
        assert sorted(other.rows.tolist()) == sorted(plan.rows.tolist()) and other.rows.tolist() != plan.rows.tolist()
    assert_same_batches(list(ready.source.make_dataset(1).take(9)), list(again.source.make_dataset(1).take(9)))


def test_batches_of_one_category_come_in_no_order():
    """Neither categories nor lengths may come sorted: the last steps would see one kind of example alone."""
    ready = make_ready(make_config())
    first = [rows[0] for rows in rows_of(ready.plan())]
    for column in (ready.examples.category[first], ready.examples.length[first]):
        assert (np.diff(column) < 0).sum() > len(first) / 5 and (np.diff(column) > 0).sum() > len(first) / 5


@pytest.mark.parametrize("train", [{}, IN_BATCH], ids=["full", "in_batch"])
def test_resuming_gives_the_rest_of_the_epoch_bitwise(train):
    ready = make_ready(make_config(**train))
    plan = ready.plan(3)
    whole = list(ready.source.make_dataset(3))
    assert len(whole) == len(plan.start)
    for first in (1, len(whole) // 2, len(whole) - 1):
        assert_same_batches(list(make_ready(ready.config).source.make_dataset(3, first)), whole[first:])
    assert not list(ready.source.make_dataset(3, len(whole)))


def distinct_targets(ready, x):
    return list(
        dict.fromkeys(ready.prepared.order.item[ready.examples.target_start[x] : ready.examples.target_stop[x]])
    )


@KINDS
def test_a_batch_holds_what_its_rows_say(train):
    ready = make_ready(make_config(**train))
    prepared, examples, corpus = ready.prepared, ready.examples, ready.prepared.corpus
    every_target = np.concatenate([distinct_targets(ready, x) for x in range(len(examples))])
    counts = np.bincount(every_target, minlength=corpus.num_items)
    plan = ready.plan()
    wholes = set()
    for rows, batch in list(zip(rows_of(plan), ready.source.make_dataset(0).as_numpy_iterator(), strict=True))[:40]:
        items = batch.item[0]
        np.testing.assert_array_equal(batch.category, examples.category[rows])
        np.testing.assert_array_equal(batch.profile, prepared.log.profile[examples.user[rows]])
        own = prepared.user_fold[examples.user[rows]] if ready.config.train.cross_fit_items else np.zeros(len(rows))
        np.testing.assert_array_equal(np.unique(own), batch.recipe.fold)
        assert batch.token_item.shape == (len(rows), examples.length[rows].max())  # padded to its own longest
        np.testing.assert_array_equal((batch.token_item > 0).sum(1), examples.length[rows])
        real = batch.token_item > 0
        np.testing.assert_array_equal(items[batch.token_local][real], batch.token_item[real])
        targets = [(row, item) for row, x in enumerate(rows) for item in distinct_targets(ready, x)]
        found = list(zip(batch.target_row.tolist(), items[batch.target_local].tolist(), strict=True))
        assert found == targets
        np.testing.assert_array_equal(batch.target_weight, examples.weight[rows][batch.target_row])
        item = items[batch.target_local]
        taken = counts[corpus.item_category == corpus.item_category[item[0]]].sum()
        total = taken if ready.config.train.in_context else counts.sum()
        np.testing.assert_allclose(batch.target_probability, counts[item] / total, rtol=1e-6)
        wholes.add(bool(batch.scores_full_category))
        if batch.scores_full_category:
            assert_whole(ready, rows, batch)
        else:
            assert batch.recipe.stats.shape[0] == 0 and batch.recipe.is_available.shape == (len(rows), 0)
            assert set(items) - {0} == set(batch.token_item[real]) | {item for _, item in targets}
    assert wholes == {ready.config.train.loss == "full"} or (train == IN_BATCH and wholes == {True, False})


def assert_whole(ready, rows, batch):
    """The batch holds its category's whole slice, with statistics and availability at each row's own time."""
    corpus, stats, category = ready.prepared.corpus, ready.prepared.stats, batch.category[0]
    low, high = corpus.category_offset[category], corpus.category_offset[category + 1]
    if not ready.config.train.in_context:  # every item but padding and unknown
        low, high = 2, corpus.num_items
    np.testing.assert_array_equal(batch.item, [np.arange(low, high)])
    stats_row = ready.examples.stats_row[rows]
    np.testing.assert_array_equal(batch.recipe.stats[batch.recipe.stats_row], stats.item[stats_row, low:high])
    time = ready.examples.time[rows]
    np.testing.assert_array_equal(batch.recipe.is_available, stats.first_time[low:high] < time[:, None])
    # What anyone took before the time is on offer: a token is, so the copy term can reach it.
    row, slot = np.nonzero(batch.token_item)
    assert batch.recipe.is_available[row, batch.token_local[row, slot]].all()


def test_log_q_counts_targets_not_events():
    """An item that a user takes ten times within a horizon is one target of that snapshot."""
    ready = make_ready(make_config(**IN_BATCH), lumpy_world())
    corpus, log = ready.prepared.corpus, ready.prepared.log
    targets = np.concatenate([distinct_targets(ready, x) for x in range(len(ready.examples))])

    def log_share(items):
        """Of each item among those of its category."""
        counts = np.bincount(items, minlength=corpus.num_items)
        return np.log(counts[item] / np.bincount(corpus.item_category, counts)[corpus.item_category[item]])

    found = {}
    for batch in ready.source.make_dataset(0).as_numpy_iterator():
        found |= dict(zip(batch.item[0][batch.target_local].tolist(), batch.target_probability.tolist(), strict=True))
    item = np.array(list(found))
    np.testing.assert_allclose(np.log(list(found.values())), log_share(targets), rtol=1e-5)
    assert np.abs(log_share(targets) - log_share(log.item)).max() > 1  # else this tests nothing


@pytest.mark.parametrize("small_category", [0, 13, 14, 1000])
def test_small_categories_are_scored_whole_in_batch(small_category):
    ready = make_ready(make_config(loss="in_batch", small_category=small_category))
    size = np.diff(ready.prepared.corpus.category_offset)
    assert set(size[2:]) == {13, 14}  # 97 items in 7 categories
    for batch in ready.source.make_dataset(0).take(60).as_numpy_iterator():
        assert batch.scores_full_category == (size[batch.category[0]] <= small_category)


@pytest.mark.parametrize("max_logits", [1, 14 * 3, 14 * 8 + 1, 4_000_000])
def test_a_full_softmax_stays_within_max_logits(max_logits):
    ready = make_ready(make_config(max_logits=max_logits))
    size = np.diff(ready.prepared.corpus.category_offset)
    batches = rows_of(ready.plan())
    for rows in batches:
        assert len(rows) == 1 or len(rows) * size[ready.examples.category[rows[0]]] <= max_logits
    longest = max(map(len, batches))
    assert longest == min(13, max(1, max_logits // 13))  # as long as the smallest category allows


def test_batches_hold_histories_of_like_length():
    """Bucketing: padding wastes less than it does when lengths come as they may."""
    ready = make_ready(make_config({"max_length": 50}, batch_size=16), crowded_world(seed=12, num_users=97))
    length = ready.examples.length

    def num_padded(batches):
        return sum(length[rows].max() * len(rows) - length[rows].sum() for rows in batches)

    batches = rows_of(ready.plan())
    mixed = [np.random.default_rng(1).permutation(rows) for rows in batches]
    by_chance = np.split(
        np.concatenate(mixed)[np.random.default_rng(2).permutation(len(length))],
        np.cumsum([len(rows) for rows in batches])[:-1],
    )
    assert num_padded(batches) < num_padded(by_chance) / 2


@KINDS
def test_the_history_embedding_of_a_history_is_strictly_past_and_of_other_folds(train):
    ready = make_ready(make_config({"svd_dim": 5}, history_folds=3, **train))
    prepared, examples, log = ready.prepared, ready.examples, ready.prepared.log
    fold = fold_of_users(log, item_keys(prepared.corpus.item_id), 3)
    folds = fit_folds(pairs_of(log, prepared), prepared.item_svd, fold, 3, ready.config.train.seed)
    rows = np.arange(0, len(examples), 17)
    embedding = ready.source.build(rows).recipe.history_embedding.numpy()
    for row, x in enumerate(rows):
        user, as_of = examples.user[x], prepared.stats.time[examples.stats_row[x]]
        sums = np.zeros(5)
        for e in range(log.offset[user], log.offset[user + 1]):
            if log.timestamp[e] < as_of:
                age = (as_of - log.timestamp[e]) / DAY_S
                sums += 2 ** (-age / 90) * folds[fold[user], log.item[e]]
        assert as_of <= examples.time[x] or row == 0
        np.testing.assert_allclose(embedding[row], 3 * sums / max(np.linalg.norm(sums), 1e-6), atol=1e-5)
    assert np.ptp(np.linalg.norm(embedding, axis=1)) < 4 and (np.linalg.norm(embedding, axis=1) > 2.9).any()


@pytest.mark.parametrize("shown, train", [(0, {}), (9, {}), (0, {"examples": "event"})])
def test_history_embeddings_are_kept_for_pairs_that_have_examples_alone(shown, train, monkeypatch):
    """Against the table of every user at every time, made in one go."""
    monkeypatch.setattr(history_embeddings, "_CHUNK_EVENTS", 71)
    config = make_config({"svd_dim": 5, "history_events": shown}, history_folds=3, **train)
    ready = make_ready(config)
    prepared, examples, log = ready.prepared, ready.examples, ready.prepared.log
    kept = example_history_embeddings(config, prepared, examples)
    pairs = set(zip(examples.stats_row.tolist(), examples.user.tolist(), strict=True))
    as_of_times = prepared.stats.time
    assert len(kept.vector) == len(pairs) < len(as_of_times) * log.num_users and len(kept.row) == len(examples)
    monkeypatch.setattr(history_embeddings, "_CHUNK_EVENTS", 10**9)
    everyone, everywhere = np.tile(np.arange(log.num_users), len(as_of_times)), np.repeat(as_of_times, log.num_users)
    dense = history_embeddings.build_history_embeddings(
        log, prepared.user_fold, prepared.history_embedding_rows, everyone, everywhere, shown
    )
    dense = dense.reshape(len(as_of_times), log.num_users, 5)
    np.testing.assert_allclose(kept.vector[kept.row], dense[examples.stats_row, examples.user], rtol=0, atol=2e-6)
    assert np.ptp(dense, axis=0).max() > 0.1


def test_a_folds_svd_has_not_seen_its_users():
    config = make_config({"svd_dim": 5})
    prepared = prepare(config, crowded_world(seed=13), CUT)
    log = prepared.log
    fold = fold_of_users(log, item_keys(prepared.corpus.item_id), 3)
    folds = fit_folds(pairs_of(log, prepared), prepared.item_svd, fold, 3, 1)
    later = log.timestamp > log.timestamp[log.offset[log.event_user()]]  # how a history begins tells its fold
    mine = later & (fold[log.event_user()] == 1)
    item = log.item.copy()
    item[mine] = np.random.default_rng(1).integers(2, 9, mine.sum())
    other = fit_folds(pairs_of(dataclasses.replace(log, item=item), prepared), prepared.item_svd, fold, 3, 1)
    assert folds[1].tobytes() == other[1].tobytes() and folds[0].tobytes() != other[0].tobytes()
    likeness = np.sum(folds[1] * prepared.item_svd, axis=1)[2:]
    assert np.median(likeness) > 0.5  # rotated onto the full basis
    assert not (folds.view(np.uint32) & 0xFFFF).any()  # bfloat16, as exports hold them


def interest_source(seed=1, **train):
    config = make_config(**train)
    prepared = prepare(config, crowded_world(seed=13), CUT)
    _, snapshots = prepare_examples(config, prepared)
    source = InterestSource(prepared, snapshots, example_history_embeddings(config, prepared, snapshots), seed)
    source.batch_size = 11
    return prepared, snapshots, source


@pytest.mark.parametrize("kind", ["snapshot", "event", "both"])
def test_the_interest_score_reads_each_lifes_own_history_embedding(kind):
    """Of the snapshot's time, whatever the towers' examples and the times of the item statistics are."""
    prepared, snapshots, source = interest_source(examples=kind)
    user, time = np.unique(np.stack([snapshots.user, snapshots.time], 1).astype(np.int64), axis=0).T
    expected = build_history_embeddings(prepared.log, prepared.user_fold, prepared.history_embedding_rows, user, time)
    rows = np.random.default_rng(5).permutation(source.num_rows)[:17]
    np.testing.assert_array_equal(source.build(rows).history_embedding, expected[rows])
    assert source.num_rows == len(user) and len(np.unique(expected, axis=0)) > len(user) // 2


def test_interest_snapshots_count_what_comes_next():
    prepared, snapshots, source = interest_source()
    log, corpus = prepared.log, prepared.corpus
    asked = sorted({(int(u), int(t)) for u, t in zip(snapshots.user, snapshots.time, strict=True)})
    assert source.num_rows == len(asked)
    batch = source.build(np.arange(source.num_rows))
    for row, (user, time) in enumerate(asked):
        every, novel = np.zeros([2, corpus.num_categories])
        mine = slice(log.offset[user], log.offset[user + 1])
        item, when = log.item[mine], log.timestamp[mine]
        interacted = set(item[when < time])
        for taken in set(item[(when >= time) & (when < time + 14 * DAY_S)]):
            every[corpus.item_category[taken]] += 1
            novel[corpus.item_category[taken]] += taken not in interacted
        np.testing.assert_array_equal(batch.counts[row], np.stack([every, novel], 1))
        np.testing.assert_allclose(np.expm1(batch.features[row, 0, 15]), (when < time).sum(), rtol=1e-5)
        assert batch.weight[row] == snapshots.weight[(snapshots.user == user) & (snapshots.time == time)][0]


def test_interest_epochs_repeat_and_resume_bitwise():
    _, _, source = interest_source()
    whole = list(source.make_dataset(epoch=2))
    assert len(whole) == source.num_batches() and sum(len(batch.weight) for batch in whole) == source.num_rows
    assert_same_batches(list(interest_source()[2].make_dataset(epoch=2)), whole)
    assert_same_batches(list(source.make_dataset(epoch=2, first=2)), whole[2:])
    for other in (source.make_dataset(epoch=3), interest_source(seed=2)[2].make_dataset(epoch=2)):
        assert any(a.bag.numpy().tobytes() != b.bag.numpy().tobytes() for a, b in zip(other, whole, strict=True))
