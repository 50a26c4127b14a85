"""The loss against numpy, and every configuration that the flags offer on a world with a right answer."""

import dataclasses
import functools
import math

import numpy as np
import pytest
import tensorflow as tf
from worlds import block_world

from longretriever_tf.common import schema
from longretriever_tf.config.config import Config, DataConfig, ModelConfig, TrainConfig
from longretriever_tf.data.batches.in_context import Batch, BatchSource
from longretriever_tf.data.batches.prepared_data import prepare, prepare_examples
from longretriever_tf.models.build import build_models, set_token_scale
from longretriever_tf.models.optimizer import LazyAdamW
from longretriever_tf.models.retriever import LongRetriever
from longretriever_tf.models.stateless_dropout import StatelessRng
from longretriever_tf.models.towers import ItemTower, UserInputs
from longretriever_tf.training.phases import Phase

TINY = ModelConfig(dim=8, num_heads=2, ff_dim=16, svd_dim=4)
SNAPSHOTS = TrainConfig(examples="snapshot", num_snapshots=5, snapshot_every_days=7, horizon_days=14, batch_size=32)
PAPER = {
    "model": {"subsequence": "events", "repeat_term": False, "item_stats": False, "item_id": True},
    "train": {"loss": "in_batch", "examples": "event"},
}


def make_config(model: dict | None = None, train: dict | None = None) -> Config:
    return Config(
        data=DataConfig(dataset="event_log"),
        model=dataclasses.replace(TINY, **(model or {})),
        train=dataclasses.replace(SNAPSHOTS, **(train or {})),
    )


@dataclasses.dataclass(frozen=True)
class World:
    config: Config
    prepared: object
    model: LongRetriever
    phase: Phase

    def batches(self, limit: int) -> list[Batch]:
        return list(self.phase.source.make_dataset(0).take(limit))


@functools.cache
def the_log():
    return block_world(num_users=31, num_items=71, num_categories=5, events_per_user=53)


def build(config: Config) -> World:
    log = the_log()
    prepared = prepare(config, log, int(log.timestamp.max()) - 14 * schema.DAY_S)
    models = build_models(config, prepared.corpus, prepared.item_svd)
    examples, _ = prepare_examples(config, prepared)
    source = BatchSource(config, prepared, examples)
    phase = Phase("towers", 1, models.retriever, source, config.train.seed)
    set_token_scale(models.retriever.user_tower, phase.source.make_dataset(0).take(8))
    return World(config, prepared, models.retriever, phase)


def shake(model: LongRetriever) -> None:
    """No weight stays at an initial value that hides a part of the loss (zero biases, zero statistics weights)."""
    rng = np.random.default_rng(17)
    for variable in model.trainable_variables:
        variable.assign_add(rng.normal(size=variable.shape).astype(np.float32) * 0.3)


def fit(world: World, batches: list[Batch], num: int) -> list[float]:
    """Passes over a few batches, eagerly (no tracing); returns the mean loss of each pass."""
    optimizer = LazyAdamW(0.01, 0.01, 10 * num * len(batches))
    optimizer.build(world.phase.variables())
    means = []
    for _ in range(num):
        losses = []
        for batch in batches:
            with tf.GradientTape() as tape:
                loss = world.phase.loss(batch, optimizer.iterations)
            optimizer.apply(tape.gradient(loss, world.phase.variables()))
            losses.append(float(loss))
        means.append(float(np.mean(losses)))
    return means


def log_softmax(logits: list[float], at: int) -> float:
    top = max(logits)
    return logits[at] - top - math.log(sum(math.exp(x - top) for x in logits))


def full_softmax_oracle(world: World, batch: Batch) -> float:
    """The weighted mean over targets, logit by logit: with repeat logits, and once more by the other vector."""
    vectors = world.model.item_tower(batch.item[0]).numpy().astype(np.float64)
    state = world.model.encode(batch, tf.constant(vectors, tf.float32))
    user, repeat_logit = state.embedding.numpy().astype(np.float64), state.repeat_logit.numpy()
    head = world.model._vector_head
    alone = user + user @ head.kernel.numpy().astype(np.float64) if head else user
    weights = world.model._stats_weight.numpy()
    bias = world.model.item_tower.bias.numpy()[:, 0]
    b = tf.nest.map_structure(lambda part: part.numpy(), batch)
    total, mass = 0.0, 0.0
    for row, target, weight in zip(b.target_row, b.target_local, b.target_weight, strict=True):
        if not b.recipe.is_available[row, target]:
            continue
        available, logits, plain = [], [], []
        for v in np.flatnonzero(b.recipe.is_available[row]):
            popularity = b.recipe.stats[b.recipe.stats_row[row], v] @ weights + bias[b.item[0][v]]
            plain.append(alone[row] @ vectors[v] / world.config.model.temperature + popularity)
            logit = user[row] @ vectors[v] / world.config.model.temperature + popularity
            logit += sum(
                repeat_logit[row, s] for s in range(b.token_item.shape[1]) if b.token_item[row, s] == b.item[0][v]
            )
            available.append(v)
            logits.append(logit)
        column = available.index(target)
        second = world.config.train.vector_loss_weight * log_softmax(plain, column) if head else 0.0
        total -= weight * (log_softmax(logits, column) + second)
        mass += weight
    return total / mass


@pytest.mark.parametrize(("vector_loss_weight", "in_context"), [(0.0, True), (0.4, True), (0.4, False)])
def test_full_softmax_equals_the_oracle(vector_loss_weight, in_context):
    """Over the category, or, of a mixed batch, over the whole corpus."""
    world = build(
        make_config({"temperature": 0.7}, {"vector_loss_weight": vector_loss_weight, "in_context": in_context})
    )
    shake(world.model)
    batches = world.batches(6)
    for batch in batches:
        expected = full_softmax_oracle(world, batch)
        assert float(world.model.compute_loss((batch, None))) == pytest.approx(expected, rel=1e-4)
    # Else the case would not test what it says: several targets in a row, weights that differ, repeat logits.
    assert any((np.bincount(batch.target_row) > 1).any() for batch in batches)
    assert len(np.unique(np.concatenate([batch.target_weight for batch in batches]))) > 3
    assert any((batch.token_item.numpy() > 0).any() for batch in batches)


def with_available(batch: Batch, is_available: np.ndarray) -> Batch:
    return batch._replace(recipe=batch.recipe._replace(is_available=tf.constant(is_available)))


def test_with_cross_fit_items_a_batch_trains_on_the_svd_of_its_own_fold():
    """As a model would that has the table of that fold alone; requests read the SVD of all users."""
    world = build(make_config(train={"history_folds": 2, "cross_fit_items": True}))
    prepared, config = world.prepared, world.config
    rows = prepared.history_embedding_rows
    models = [build_models(config, prepared.corpus, svd).retriever for svd in (*rows, prepared.item_svd)]
    ours = build_models(config, prepared.corpus, prepared.item_svd, rows).retriever
    for model in (ours, *models):
        shake(model)
    batches, seen, item = world.batches(5), set(), np.arange(prepared.corpus.num_items, dtype=np.int32)
    for batch in batches:
        fold = int(batch.recipe.fold[0])
        losses = [float(model.compute_loss((batch, None))) for model in (ours, *models)]
        assert losses[0] == losses[1 + fold] and losses.count(losses[0]) == 2
        seen.add(fold)
    assert seen == {0, 1}
    np.testing.assert_array_equal(ours.item_tower(item), models[-1].item_tower(item))


def test_unavailable_items_neither_compete_nor_count_as_targets():
    world = build(make_config())
    shake(world.model)
    batch = world.batches(1)[0]
    closed = batch.recipe.is_available.numpy().copy()
    closed[:, ::3] = False
    closed[int(batch.target_row[0]), int(batch.target_local[0])] = False
    batch = with_available(batch, closed)
    loss = float(world.model.compute_loss((batch, None)))
    assert loss == pytest.approx(full_softmax_oracle(world, batch), rel=1e-4)
    nothing = with_available(batch, np.zeros_like(closed))
    assert float(world.model.compute_loss((nothing, None))) == 0.0


@pytest.mark.parametrize("logq", [True, False])
def test_in_batch_loss_is_the_tfrs_retrieval_task(logq):
    in_batch = {"model": PAPER["model"] | {"temperature": 0.5}, "train": PAPER["train"]}
    world = build(make_config(in_batch["model"], in_batch["train"] | {"logq": logq, "small_category": 1}))
    shake(world.model)
    batch = world.batches(1)[0]
    assert not bool(batch.scores_full_category)
    vectors = world.model.item_tower(batch.item[0]).numpy()
    user = world.model.encode(batch, tf.constant(vectors)).embedding.numpy()
    b = tf.nest.map_structure(lambda part: part.numpy(), batch)
    ids = b.item[0][b.target_local]
    assert len(set(ids.tolist())) < len(ids), "no accidental hit: the case would not test their masking"
    total = 0.0
    for t, row in enumerate(b.target_row):
        logits, own = [], 0
        for c, item in enumerate(ids):
            if item == ids[t] and c != t:
                continue  # an accidental hit: another row's positive is this row's item
            own = len(logits) if c == t else own
            logit = float(user[row] @ vectors[b.target_local[c]]) / 0.5
            logits.append(logit - math.log(b.target_probability[c]) * logq)
        total -= b.target_weight[t] * log_softmax(logits, own)
    assert float(world.model.compute_loss((batch, None))) == pytest.approx(total / b.target_weight.sum(), rel=1e-4)


def test_sampling_probability_is_of_the_item_within_its_category():
    world = build(make_config(PAPER["model"], PAPER["train"] | {"small_category": 1}))
    log, corpus = world.prepared.log, world.prepared.corpus
    for batch in world.batches(5):
        items = batch.item[0].numpy()[batch.target_local.numpy()]
        category = corpus.item_category[items]
        assert len(set(category.tolist())) == 1
        among = log.item[corpus.item_category[log.item] == category[0]]
        expected = [np.mean(among == item) for item in items]
        np.testing.assert_allclose(batch.target_probability, expected, rtol=1e-5)


def test_small_categories_are_scored_whole_under_in_batch():
    world = build(make_config(PAPER["model"], PAPER["train"] | {"small_category": 14}))
    shake(world.model)
    sizes = np.diff(world.prepared.corpus.category_offset)
    assert sizes[2:].min() <= 14 < sizes[2:].max()
    seen = set()
    for batch in world.phase.source.make_dataset(0):
        category = int(batch.category[0])
        assert bool(batch.scores_full_category) == (sizes[category] <= 14)
        if bool(batch.scores_full_category) and True not in seen:
            assert len(batch.item[0]) == sizes[category]
            expected = full_softmax_without_stats(world, batch)
            assert float(world.model.compute_loss((batch, None))) == pytest.approx(expected, rel=1e-4)
        seen.add(bool(batch.scores_full_category))
    assert seen == {True, False}


def full_softmax_without_stats(world: World, batch: Batch) -> float:
    vectors = world.model.item_tower(batch.item[0]).numpy()
    logits = world.model.encode(batch, tf.constant(vectors)).embedding.numpy() @ vectors.T
    b = tf.nest.map_structure(lambda part: part.numpy(), batch)
    total, mass = 0.0, 0.0
    for row, target, weight in zip(b.target_row, b.target_local, b.target_weight, strict=True):
        real = np.flatnonzero(b.recipe.is_available[row]).tolist()
        if target in real:
            total -= weight * log_softmax(logits[row, real].tolist(), real.index(target))
            mass += weight
    return total / mass


VARIANTS = {
    "default": ({}, {}),
    "paper": (PAPER["model"], PAPER["train"] | {"small_category": 1}),
    "mixed batches": (PAPER["model"], PAPER["train"] | {"in_context": False}),
    "mixed batches, full softmax": ({}, {"in_context": False}),
    "no history token": ({"user_context": False}, {}),
    "profile": ({"profile": True, "num_layers": 2}, {}),
    "cosine": ({"normalize": True, "temperature": 0.05}, {}),
    "bfloat16": ({}, {"mixed_precision": True}),
    "without svd, ids alone": (
        {"svd_dim": 0, "user_context": False, "item_id": True, "repeat_term": False, "item_stats": False},
        {},
    ),
}


@pytest.mark.parametrize("name", VARIANTS)
def test_every_variant_learns(name):
    world = build(make_config(*VARIANTS[name]))
    losses = fit(world, world.batches(2), 7)
    assert np.isfinite(losses).all()
    assert losses[-1] < losses[0] - 0.05


@pytest.mark.parametrize("name", ["paper", "mixed batches"])
def test_a_compiled_step_takes_batches_whole_and_not(name):
    """The first trace knows the first batch's shapes: with in-batch negatives there is no whole category in them."""
    world = build(make_config(VARIANTS[name][0], VARIANTS[name][1] | {"small_category": 14}))
    batches = sorted(world.batches(12), key=lambda batch: bool(batch.scores_full_category))
    assert [bool(batch.scores_full_category) for batch in (batches[0], batches[-1])] == [False, name == "paper"]
    optimizer = LazyAdamW(0.01, 0.01, 100)
    step = world.phase.make_step(optimizer, xla=False)
    for batch in (batches[0], batches[-1]):
        expected = float(world.phase.loss(batch, optimizer.iterations))  # with this step's draws, before its update
        assert float(step(batch)) == pytest.approx(expected, rel=1e-4)


def test_normalized_vectors_have_length_one():
    world = build(make_config({"normalize": True, "temperature": 0.05}))
    batch = world.batches(1)[0]
    vectors = world.model.item_tower(batch.item[0])
    for vectors_or_users in (vectors, world.model.encode(batch, vectors).embedding):
        np.testing.assert_allclose(np.linalg.norm(vectors_or_users, axis=1), 1.0, rtol=1e-5)


@pytest.mark.slow
def test_xla_takes_the_same_step():
    """One compiled step (a compilation per batch shape: tens of seconds each on a CPU)."""
    results = []
    for xla in (False, True):
        world = build(make_config({"dropout": 0.0, "unknown_rate": 0.0}))
        optimizer = LazyAdamW(0.01, 0.01, 100)
        batch = world.batches(1)[0]
        loss = world.phase.make_step(optimizer, xla)(batch)
        results.append((float(loss), [v.numpy() for v in world.phase.variables()]))
    assert results[0][0] == pytest.approx(results[1][0], rel=1e-5)
    for plain, compiled in zip(results[0][1], results[1][1], strict=True):
        np.testing.assert_allclose(plain, compiled, atol=1e-4)


@functools.cache
def learned_world() -> World:
    world = build(make_config({"dim": 16, "svd_dim": 8, "user_context": False}))  # the items must tell the brands
    optimizer = LazyAdamW(0.01, 0.01, 400)
    step = world.phase.make_step(optimizer, xla=False)
    for epoch in range(99):
        for batch in world.phase.source.make_dataset(epoch):
            step(batch)
            if int(optimizer.iterations) == 150:
                return world
    raise AssertionError("99 epochs hold fewer than 150 steps")


def test_a_new_item_of_a_known_brand_lies_near_the_brands_items():
    world = learned_world()
    corpus, tower = world.prepared.corpus, world.model.item_tower
    brands = corpus.feature_values["brand"]
    for category in range(schema.FIRST_KNOWN, corpus.num_categories):
        rows = np.arange(*corpus.category_offset[category : category + 2], dtype=np.int32)
        known, brand_of_row = tower(rows).numpy(), corpus.item_feature[rows, 0]
        for brand in range(schema.FIRST_KNOWN, len(brands)):
            new = new_item(tower, category, brand, known.shape[1])
            distance = np.linalg.norm(known - new, axis=1)
            own, other = distance[brand_of_row == brand], distance[brand_of_row != brand]
            assert own.mean() < 0.9 * other.mean(), (corpus.category_name[category], brands[brand])


def new_item(tower: ItemTower, category: int, brand: int, dim: int) -> np.ndarray:
    """The vector of an item that training never saw, [D]."""
    rank = tower.svd.shape[1]
    vector = tower.embed(
        tf.constant([category]), tf.constant([[brand]]), tf.constant([schema.UNKNOWN]), tf.zeros([1, rank])
    )
    assert vector.shape == (1, dim)
    return vector.numpy()[0]


def test_the_vector_of_an_item_unknown_in_all_is_finite_and_of_usual_size():
    tower = learned_world().model.item_tower
    known = np.linalg.norm(tower(tf.range(2, learned_world().prepared.corpus.num_items)), axis=1)
    size = np.linalg.norm(new_item(tower, schema.UNKNOWN, schema.UNKNOWN, 16))
    assert 0 < size < 2 * known.max()


def test_unknown_users_and_empty_histories_get_finite_vectors_that_differ_by_category():
    world = build(make_config({"profile": True}))
    shake(world.model)
    corpus = world.prepared.corpus
    category = tf.range(corpus.num_categories)
    rows = corpus.num_categories
    inputs = UserInputs(
        tf.zeros([rows, 0, 8]),
        tf.zeros([rows, 0], tf.bool),
        tf.zeros([rows, 0, 19]),
        category,
        tf.fill([rows, 1], schema.UNKNOWN),
        tf.zeros([rows, TINY.svd_dim]),
    )
    state = world.model.user_tower(inputs)
    assert np.isfinite(state.embedding).all() and state.repeat_logit.shape == (rows, 0)
    apart = np.linalg.norm(state.embedding[:, None] - state.embedding[None], axis=2)
    assert (apart[~np.eye(rows, dtype=bool)] > 1e-3).all()


def test_the_user_tower_never_sees_the_targets():
    world = build(make_config())
    batch = world.batches(1)[0]
    vectors = world.model.item_tower(batch.item[0])
    before = world.model.encode(batch, vectors, StatelessRng(1, tf.constant(0))).embedding
    other = batch._replace(target_local=batch.target_local * 0, target_weight=batch.target_weight * 3)
    after = world.model.encode(other, vectors, StatelessRng(1, tf.constant(0))).embedding
    np.testing.assert_array_equal(before, after)
