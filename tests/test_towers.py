"""Both towers against numpy, sum by sum: no embedding, switch or draw may be left out unnoticed."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf
from worlds import block_world

from longretriever_tf.common import schema
from longretriever_tf.config.config import Config, DataConfig, ModelConfig, TrainConfig
from longretriever_tf.data.batches.prepared_data import Prepared, prepare
from longretriever_tf.models.build import Models, build_models
from longretriever_tf.models.stateless_dropout import StatelessRng
from longretriever_tf.models.towers import UserInputs

ROWS, TOKENS = 3, 5
TINY = ModelConfig(dim=8, num_heads=2, ff_dim=16, svd_dim=4, max_length=7, profile=True, item_id=True)


@pytest.fixture(scope="module")
def prepared() -> Prepared:
    log = block_world(num_users=13, num_items=41, num_categories=5, events_per_user=23)
    return prepare(Config(DataConfig(), TINY), log, int(log.timestamp.max()) - 14 * schema.DAY_S)


def build(prepared: Prepared, seed: int = 1, shake: bool = True, **changes) -> Models:
    config = Config(DataConfig(), dataclasses.replace(TINY, **changes), TrainConfig(seed=seed))
    models = build_models(config, prepared.corpus, prepared.item_svd)
    rng = np.random.default_rng(11)
    for variable in models.retriever.variables if shake else ():
        variable.assign(rng.normal(0, 0.5, variable.shape))
    return models


@dataclasses.dataclass(frozen=True)
class Asked:
    """Inputs of the user tower: no row and no column like another."""

    vectors: np.ndarray
    is_real: np.ndarray
    features: np.ndarray
    category: np.ndarray
    profile: np.ndarray
    history_embedding: np.ndarray

    def call(self, tower, random: StatelessRng | None = None):
        parts = (self.vectors, self.is_real, self.features, self.category, self.profile, self.history_embedding)
        return tower(UserInputs(*map(tf.constant, parts)), random)


@pytest.fixture(scope="module")
def asked() -> Asked:
    rng = np.random.default_rng(5)
    return Asked(
        rng.normal(size=[ROWS, TOKENS, TINY.dim]).astype(np.float32),
        np.arange(TOKENS)[None] < np.array([[5], [2], [0]]),
        rng.normal(size=[ROWS, TOKENS, 19]).astype(np.float32),
        np.array([2, 3, 4], np.int32),
        np.array([[2], [3], [schema.UNKNOWN]], np.int32),
        rng.normal(size=[ROWS, TINY.svd_dim]).astype(np.float32),
    )


class Recorder(tf.keras.layers.Layer):
    """Stands for the encoder: keeps what it is given, and gives it back."""

    def call(self, x, mask, cls_only, random=None):
        del random
        self.tokens, self.mask, self.cls_only = x.numpy(), mask.numpy(), cls_only
        return x[:, :1] if cls_only else x


def test_tokens_are_the_sums_of_the_paper(prepared, asked):
    """Eq. 1's input: [CLS] with the category, profile tokens, the history's token, behaviors; position and type
    added."""
    tower = build(prepared).retriever.user_tower
    tower._encoder = recorder = Recorder()
    asked.call(tower)
    position, kind = tower._position.numpy(), tower._type.numpy()
    features = (asked.features - tower.feature_mean.numpy()) * tower.feature_scale.numpy()
    for row in range(ROWS):
        history = asked.history_embedding[row] @ tower._embed_history.kernel.numpy() + tower._embed_history.bias.numpy()
        expected = [
            tower._cls.numpy()[0] + kind[0] + tower.category_table.numpy()[asked.category[row]],
            tower.profile_tables[0].numpy()[asked.profile[row, 0]] + kind[1],
            history + kind[2],
        ]
        for at in range(TOKENS):
            own = features[row, at] @ tower._embed_features.kernel.numpy() + tower._embed_features.bias.numpy()
            expected.append((asked.vectors[row, at] + own) * asked.is_real[row, at] + kind[3])
        np.testing.assert_allclose(recorder.tokens[row], expected + position[: len(expected)], rtol=1e-5, atol=1e-5)
        assert recorder.mask[row].tolist() == [True] * 3 + asked.is_real[row].tolist()
    assert not recorder.cls_only  # the repeat term reads every token


def test_repeat_logits_are_a_network_of_state_and_features(prepared, asked):
    tower = build(prepared).retriever.user_tower
    tower._encoder = recorder = Recorder()
    repeat_logit = asked.call(tower).repeat_logit.numpy()
    features = (asked.features - tower.feature_mean.numpy()) * tower.feature_scale.numpy()
    read = np.concatenate([recorder.tokens[:, 3:], features], 2)
    hidden = np.maximum(read @ tower._copy_hidden.kernel.numpy() + tower._copy_hidden.bias.numpy(), 0)
    expected = (hidden @ tower._copy.kernel.numpy() + tower._copy.bias.numpy())[:, :, 0] * asked.is_real
    np.testing.assert_allclose(repeat_logit, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("normalize", [False, True])
def test_item_vectors_are_sums_of_embeddings(prepared, normalize):
    tower, corpus = build(prepared, normalize=normalize).retriever.item_tower, prepared.corpus
    every = np.arange(corpus.num_items, dtype=np.int32)
    expected = tower.category_table.numpy()[corpus.item_category]
    for f, table in enumerate(tower.feature_tables):
        expected = expected + table.numpy()[corpus.item_feature[:, f]]
    expected = expected + tower.id_table.numpy() + prepared.item_svd @ tower._project.kernel.numpy()
    if normalize:
        expected = expected / np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(tower(every), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("part", ["profile", "history_embedding", "category", "features", "vectors"])
def test_every_input_reaches_the_embedding(prepared, asked, part):
    tower = build(prepared).retriever.user_tower
    value = getattr(asked, part)
    changed = value - 1 if value.dtype.kind == "i" else value[..., ::-1]  # a norm does not see what is added to all
    other = dataclasses.replace(asked, **{part: changed})
    before, after = (one.call(tower).embedding.numpy() for one in (asked, other))
    assert (np.abs(before[:2] - after[:2]).max(1) > 1e-4).all()


def test_without_draws_nothing_is_dropped(prepared, asked):
    """At inference neither dropout nor unknown ids: rates change nothing, and the same call gives the same."""
    plain, rates = (build(prepared, **changes).retriever for changes in ({}, {"dropout": 0.9, "unknown_rate": 0.9}))
    np.testing.assert_array_equal(asked.call(plain.user_tower).embedding, asked.call(rates.user_tower).embedding)
    items = np.arange(prepared.corpus.num_items, dtype=np.int32)
    np.testing.assert_array_equal(plain.item_tower(items), rates.item_tower(items))
    drawn = asked.call(rates.user_tower, StatelessRng(1, tf.constant(0))).embedding.numpy()
    assert np.abs(drawn - asked.call(rates.user_tower).embedding.numpy()).max() > 1e-3
    assert np.abs(rates.item_tower(items, StatelessRng(1, tf.constant(0))) - rates.item_tower(items)).max() > 1e-3


def initial(models: Models) -> list[np.ndarray]:
    return [v.numpy() for model in (models.retriever, models.interest) for v in model.trainable_variables]


def test_initial_weights_are_a_function_of_the_seed(prepared):
    first, again, other = (initial(build(prepared, seed, shake=False)) for seed in (1, 1, 2))
    for a, b in zip(first, again, strict=True):
        np.testing.assert_array_equal(a, b)
    drawn = [(a, b) for a, b in zip(first, other, strict=True) if a.std() > 0]  # the others start at a constant
    assert len(drawn) > len(first) / 3
    for a, b in drawn:
        assert np.abs(a - b).max() > 1e-4
    tables = [a for a in first if a.std() > 0 and a.shape == first[0].shape]
    assert all(np.abs(a - b).max() > 1e-4 for i, a in enumerate(tables) for b in tables[:i])  # none like another
