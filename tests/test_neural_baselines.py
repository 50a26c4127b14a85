"""Two-tower, MIND and ComiRec-SA: layers and losses against numpy, padding, and whole runs."""

import copy
import dataclasses
import functools
import os

import numpy as np
import pytest
import tensorflow as tf
from test_baseline_batches import make_ready
from trained import write_tables
from worlds import block_world

from longretriever_tf.common.errors import UserError
from longretriever_tf.common.schema import DAY_S
from longretriever_tf.config.baselines import BASELINES, BaselineConfig
from longretriever_tf.config.config import Config, DataConfig, ModelConfig, TrainConfig
from longretriever_tf.data.recipe.item_stats import ItemStats
from longretriever_tf.evaluation.evaluate_run import evaluate_run
from longretriever_tf.models.baselines.batches import UserBatch
from longretriever_tf.models.baselines.comirec import SelfAttentiveInterests
from longretriever_tf.models.baselines.mind import CapsuleInterests, num_interests, route, squash
from longretriever_tf.models.baselines.model import RecentRetriever, build_baseline
from longretriever_tf.models.baselines.scorer import RecentScorer
from longretriever_tf.models.baselines.user_side import Interests
from longretriever_tf.models.build import load_for_export
from longretriever_tf.training import run as run_lib
from longretriever_tf.training.loop import Checkpoints

R, L, K, D, T = 5, 7, 3, 4, 11
EVERY = pytest.mark.parametrize("name", BASELINES)


def make_config(name: str, loss: str = "in_batch", **baseline) -> Config:
    heads = {"num_heads": 2} if name == "two_tower" else {}
    capsules = {} if name == "two_tower" else {"num_capsules": K}
    return Config(
        model=ModelConfig(model=name, dim=D, ff_dim=6, svd_dim=3, temperature=0.7, **heads),
        train=TrainConfig(
            examples="snapshot", loss=loss, num_snapshots=5, snapshot_every_days=9, horizon_days=14, batch_size=5
        ),
        baseline=BaselineConfig(recent_length=L, **capsules, **baseline),
    )


def shake(model: tf.Module) -> None:
    """No weight stays at an initial value that hides a part of the answer."""
    rng = np.random.default_rng(17)
    for variable in model.trainable_variables:
        variable.assign_add(rng.normal(size=variable.shape).astype(np.float32) * 0.4)


def np_squash(z: np.ndarray) -> np.ndarray:
    norm = np.linalg.norm(z)
    return z * norm / (1 + norm**2)


def np_softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max())
    return e / e.sum()


def np_route(x: np.ndarray, num_capsules: int, initial: np.ndarray, iterations: int) -> np.ndarray:
    """One user's capsules from events [n, D], step by step as Algorithm 1 of the paper says."""
    b = initial[: len(x), :num_capsules].astype(np.float64).copy()
    for _ in range(iterations):
        w = np.stack([np_softmax(row) for row in b])
        u = np.stack([np_squash(sum(w[i, j] * x[i] for i in range(len(x)))) for j in range(num_capsules)])
        for i in range(len(x)):
            for j in range(num_capsules):
                b[i, j] += u[j] @ x[i]
    return u


def random_events() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(3)
    is_real = np.arange(L)[None] < np.array([7, 1, 4, 2, 6])[:, None]
    return rng.normal(size=[R, L, D]).astype(np.float32), is_real


@pytest.mark.parametrize("iterations", [1, 3])
def test_routing_against_the_papers_algorithm(iterations):
    events, is_real = random_events()
    initial = np.random.default_rng(5).normal(size=[L, K]).astype(np.float32)
    many = num_interests(tf.constant(is_real.sum(1)), K).numpy()
    assert many.tolist() == [2, 1, 2, 1, 2]  # log2 of 7, 1, 4, 2, 6
    capsules = route(*map(tf.constant, (events, is_real, np.arange(K) < many[:, None], initial)), iterations).numpy()
    for row in range(R):
        expected = np_route(events[row, is_real[row]], many[row], initial, iterations)
        np.testing.assert_allclose(capsules[row, : many[row]], expected, rtol=1e-4, atol=1e-6)
        assert not capsules[row, many[row] :].any()


def test_routing_learns_through_its_last_step_alone():
    events, is_real = map(tf.constant, random_events())
    everyone, initial = tf.ones([R, K], tf.bool), tf.random.normal([L, K], seed=2)
    with tf.GradientTape() as tape:
        tape.watch(events)
        total = tf.reduce_sum(route(events, is_real, everyone, initial, 3) ** 2)
    gradient = tape.gradient(total, events).numpy()
    assert np.isfinite(gradient).all() and np.abs(gradient[0]).min() > 0 and not gradient[~is_real.numpy()].any()


@pytest.mark.parametrize("count, expected", [(0, 1), (1, 1), (3, 1), (4, 2), (8, 3), (31, 4), (32, 5), (200, 5)])
def test_number_of_interests_by_hand(count, expected):
    assert num_interests(tf.constant([count]), 5).numpy().tolist() == [expected]


def test_squash_by_hand():
    found = squash(tf.constant([[3.0, 4.0], [0.0, 0.0]])).numpy()
    np.testing.assert_allclose(found, [[3 * 5 / 26, 4 * 5 / 26], [0, 0]], rtol=1e-6)


def test_label_aware_attention_against_numpy():
    layer = CapsuleInterests(make_config("mind"))
    rng = np.random.default_rng(9)
    vector, target = rng.normal(size=[R, K, D]), rng.normal(size=[T, D])
    is_real, row = np.arange(K) < np.array([3, 1, 2, 3, 1])[:, None], rng.integers(0, R, T)
    interests = Interests(tf.constant(vector, tf.float32), tf.constant(is_real))
    found = layer.queries(interests, tf.constant(row, tf.int32), tf.constant(target, tf.float32))
    for t in range(T):
        real = vector[row[t], is_real[row[t]]]
        product = real @ target[t]
        weight = np_softmax(np.sign(product) * np.abs(product) ** 2)
        np.testing.assert_allclose(found.vector[found.of_target[t]], weight @ real, rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(tf.gather(found.row, found.of_target), row)


def test_self_attention_against_numpy_and_the_nearest_interest_answers():
    layer = SelfAttentiveInterests(make_config("comirec"))
    events, is_real = random_events()
    interests = layer(tf.constant(events), tf.constant(is_real))
    hidden, attend = (variable.numpy() for variable in layer.trainable_variables)
    vector = np.zeros([R, K, D])
    for r in range(R):
        h = events[r, is_real[r]]
        for k, logits in enumerate((np.tanh(h @ hidden) @ attend).T):
            vector[r, k] = np_softmax(logits) @ h
    np.testing.assert_allclose(interests.vector, vector, rtol=1e-4, atol=1e-5)
    row, target = np.array([0, 0, 4, 2], np.int32), np.random.default_rng(1).normal(size=[4, D]).astype(np.float32)
    found = layer.queries(interests, tf.constant(row), tf.constant(target))
    for t in range(4):
        best = max(vector[row[t]], key=lambda v, t=t: v @ target[t])
        np.testing.assert_allclose(found.vector[found.of_target[t]], best, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(tf.gather(found.row, found.of_target), row)


@functools.cache
def the_model(name: str, loss: str = "in_batch", item_bias: bool = False) -> tuple[RecentRetriever, list[UserBatch]]:
    config = make_config(name, loss, uniform_negatives=0 if loss == "full" else 13, item_bias=item_bias)
    ready = make_ready(config)
    item_stats = ready.prepared.stats.item if item_bias else None
    model = build_baseline(config, ready.prepared.corpus, ready.prepared.item_svd, item_stats)
    shake(model)
    return model, ready.batches()[:3]


def interests_of(model: RecentRetriever, item: np.ndarray, features: np.ndarray) -> np.ndarray:
    vectors = tf.reshape(model.item_tower(tf.constant(item.reshape(-1))), [*item.shape, D])
    made = model.interests(vectors, tf.constant(item > 0), tf.constant(features))
    return tf.where(made.is_real[:, :, None], made.vector, 0.0).numpy()


@EVERY
def test_padding_never_changes_the_answer(name):
    model, batches = the_model(name)
    batch = max(batches, key=lambda batch: np.ptp((batch.token_item > 0).sum(1)))
    together = interests_of(model, batch.token_item, batch.features)
    lengths = (batch.token_item > 0).sum(1)
    assert lengths.min() < lengths.max()
    for row, length in enumerate(lengths):
        alone = interests_of(model, batch.token_item[row : row + 1, :length], batch.features[row : row + 1, :length])
        np.testing.assert_allclose(alone[0], together[row], rtol=1e-4, atol=1e-5)
    assert np.isfinite(interests_of(model, np.zeros([2, 3], np.int32), np.zeros([2, 3, 2], np.float32))).all()


def query_vectors(model: RecentRetriever, batch: UserBatch, vectors: np.ndarray) -> np.ndarray:
    """The vector that answers for each target, [t, D]."""
    made = model.interests(tf.gather(vectors, batch.token_local), tf.constant(batch.token_item > 0), batch.features)
    queries = model.user_side.queries(made, tf.constant(batch.target_row), tf.gather(vectors, batch.target_local))
    return tf.gather(queries.vector, queries.of_target).numpy()


@EVERY
def test_sampled_softmax_against_numpy(name):
    model, batches = the_model(name)
    for batch in batches:
        vectors = model.item_tower(tf.constant(batch.item)).numpy()
        query = query_vectors(model, batch, vectors)
        local = np.append(batch.target_local, batch.negative_local)
        log_q = np.log(np.append(batch.target_probability, batch.negative_probability))
        total, weights = 0.0, 0.0
        for t, row in enumerate(batch.target_row):
            logits = []
            for c in range(len(local)):
                is_own = c < len(batch.target_row) and batch.target_row[c] == row
                is_hit = batch.item[local[c]] == batch.item[local[t]]
                if c == t or not (is_own or is_hit):
                    logits.append(query[t] @ vectors[local[c]] / 0.7 - log_q[c])
            own = query[t] @ vectors[local[t]] / 0.7 - log_q[t]
            total += batch.target_weight[t] * (np.log(np.sum(np.exp(np.array(logits) - own))))
            weights += batch.target_weight[t]
        loss = model.compute_loss((UserBatch(*map(tf.constant, batch)), None))
        assert float(loss) == pytest.approx(total / weights, rel=1e-4)


@EVERY
@pytest.mark.parametrize("item_bias", [False, True])
def test_full_softmax_against_numpy(name, item_bias):
    model, batches = the_model(name, "full", item_bias)
    stats = make_ready(make_config(name, "full")).prepared.stats
    for batch in batches:
        vectors = model.item_tower(tf.constant(batch.item)).numpy()
        query = query_vectors(model, batch, vectors)
        total, weights = 0.0, 0.0
        for t, row in enumerate(batch.target_row):
            if batch.target_weight[t] > 0:
                sold = batch.first_time < batch.time[row]
                bias = bias_at(model, stats, batch.time[row]) if item_bias else np.zeros(len(vectors))
                logits = query[t] @ vectors[sold].T / 0.7 + bias[sold]
                own = query[t] @ vectors[batch.target_local[t]] / 0.7 + bias[batch.target_local[t]]
                total += batch.target_weight[t] * np.log(np.sum(np.exp(logits - own)))
                weights += batch.target_weight[t]
        loss = model.compute_loss((UserBatch(*map(tf.constant, batch)), None))
        assert float(loss) == pytest.approx(total / weights, rel=1e-4)


def bias_at(model: RecentRetriever, stats: ItemStats, time: int) -> np.ndarray:
    """Of every item, by the latest statistics that are not after the time."""
    weight = next(v for v in model.trainable_variables if "stats_weight" in v.name).numpy()
    latest = max(row for row in range(len(stats.time)) if row == 0 or stats.time[row] <= time)
    return stats.item[latest] @ weight + model.item_tower.bias.numpy()[:, 0]


@EVERY
def test_scores_with_a_bias_are_logits(name):
    """The bias counts once, for the best interest and for every item, as of the request."""
    model, _ = the_model(name, "full", item_bias=True)
    ready, users = make_ready(make_config(name, "full")), np.array([4, 0, 7])
    plain = copy.copy(model)
    plain._stats_weight = None
    product = RecentScorer(ready.config, ready.prepared, plain).score(users)
    bias = bias_at(model, ready.prepared.stats, ready.prepared.as_of)
    assert np.ptp(bias) > 0.1
    logits = RecentScorer(ready.config, ready.prepared, model).score(users)
    np.testing.assert_allclose(logits, product / 0.7 + bias, rtol=1e-4, atol=1e-4)


@EVERY
def test_scorer_takes_the_best_of_the_users_interests(name):
    model, _ = the_model(name)
    ready = make_ready(make_config(name))
    prepared, users = ready.prepared, np.array([4, 0, 7, 8])
    scorer = RecentScorer(ready.config, prepared, model)
    scores = scorer.score(users)
    assert scorer.name == {"two_tower": "two_tower, last 7 events"}.get(name, name)
    vectors = model.item_tower(tf.range(prepared.corpus.num_items)).numpy()
    assert len(set(np.minimum(np.diff(prepared.log.offset)[users], L))) > 1  # short and long histories
    for row, user in enumerate(users):
        events = slice(*prepared.log.offset[user : user + 2])
        item = prepared.log.item[events][::-1][:L]
        age = (prepared.as_of - prepared.log.timestamp[events][::-1][: L + 1]) / DAY_S
        gap = np.append(np.diff(age), 0.0)[: len(item)]
        if len(age) > L:  # the gap of the oldest event read is to an event that is not
            gap[-1] = 0.0
        features = np.log1p(np.stack([age[:L], gap], 1))[None].astype(np.float32)
        made = model.interests(vectors[item][None], tf.ones([1, len(item)], tf.bool), features)
        real = made.vector.numpy()[0, made.is_real.numpy()[0]]
        np.testing.assert_allclose(scores[row], (real @ vectors.T).max(0), rtol=1e-3, atol=1e-4)
        np.testing.assert_allclose(scorer.score(users[row : row + 1])[0], scores[row], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "sections, said",
    [
        ({"model": ModelConfig(model="mind", profile=True)}, ["--profile=True", "--model=mind", "longretriever"]),
        ({"model": ModelConfig(model="comirec", num_layers=2)}, ["--num_layers=2", "two_tower"]),
        ({"baseline": BaselineConfig(num_capsules=3)}, ["--num_capsules=3", "--model=longretriever", "mind, comirec"]),
        ({"baseline": BaselineConfig(recent_length=0)}, ["--recent_length=0", "above 0"]),
        (
            {"model": ModelConfig(model="mind"), "baseline": BaselineConfig(uniform_negatives=9)},
            ["--uniform_negatives=9", "--loss=in_batch"],
        ),
        (
            {
                "model": ModelConfig(model="mind"),
                "train": TrainConfig(loss="in_batch"),
                "baseline": BaselineConfig(item_bias=True),
            },
            ["--item_bias", "--loss=full"],
        ),
        ({"model": ModelConfig(model="bert")}, ["--model='bert'", "two_tower, mind, comirec"]),
    ],
)
def test_flags_that_the_model_does_not_read_are_refused(sections, said):
    with pytest.raises(UserError) as caught:
        Config(**sections)
    assert all(text in str(caught.value) for text in said), caught.value


class Lost(Exception):
    """The machine went away."""


def final_weights(config: Config) -> dict[str, np.ndarray]:
    reader = tf.train.load_checkpoint(os.path.join(config.train.run_dir, "checkpoints", "final", "weights"))
    names = [name for name in reader.get_variable_to_shape_map() if name.endswith("VARIABLE_VALUE")]
    return {name: reader.get_tensor(name) for name in names}


def run_config(name: str, loss: str, negatives: int, tmp_path) -> Config:
    """A run on a world of two history embeddings, whose tables it writes."""
    log = block_world(num_users=53, num_items=97, events_per_user=61)
    names = [flag.removeprefix("--").split("=") for flag in write_tables(log, tmp_path)]
    paths = {key: value for key, value in names if key != "users"}
    capsules = {} if name == "two_tower" else {"num_capsules": 3}
    return Config(
        data=DataConfig(dataset="event_log", item_features=("brand",), window_days=14, **paths),
        model=ModelConfig(model=name, dim=16, ff_dim=32, svd_dim=8),
        train=TrainConfig(
            loss=loss,
            examples="snapshot",
            num_snapshots=6,
            snapshot_every_days=7,
            horizon_days=14,
            max_logits=9000,
            epochs=4,
            patience=4,
            learning_rate=0.02,
            run_dir=str(tmp_path / "whole"),
        ),
        baseline=BaselineConfig(recent_length=23, uniform_negatives=negatives, item_bias=loss == "full", **capsules),
    )


def with_train(config: Config, **train) -> Config:
    return dataclasses.replace(config, train=dataclasses.replace(config.train, **train))


@pytest.mark.slow
@pytest.mark.parametrize("name, loss, negatives", [("two_tower", "full", 0), ("mind", "in_batch", 32)])
def test_a_run_resumes_to_the_same_weights_and_beats_popularity(name, loss, negatives, tmp_path, monkeypatch):
    config = run_config(name, loss, negatives, tmp_path)
    run_lib.train(config)
    again = with_train(config, run_dir=str(tmp_path / "again"))
    save, saves = Checkpoints.save, []

    def lose(self):
        save(self)
        saves.append(1)
        if len(saves) == 3:
            raise Lost

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "save", lose)
        with pytest.raises(Lost):
            run_lib.train(with_train(again, checkpoint_every_s=1e-9))
    run_lib.train(again)
    whole, resumed = final_weights(config), final_weights(again)
    assert whole.keys() == resumed.keys() and len(whole) > 8
    for variable, value in whole.items():
        np.testing.assert_array_equal(resumed[variable], value, err_msg=variable)
    models = evaluate_run(config, "validation")["models"]
    ours = models[{"two_tower": "two_tower, last 23 events"}.get(name, name)]
    assert ours["all"]["recall@20"] > models["popularity"]["all"]["recall@20"] + 0.1
    with pytest.raises(UserError, match=f"--model={name}.*only --model=longretriever can be exported"):
        load_for_export(config)
