"""Histories searched once and kept are those that a batch searches."""

import numpy as np
import pytest
import tensorflow as tf
from worlds import START, block_world, crowded_world

from longretriever_tf.common.schema import DAY_S
from longretriever_tf.config.config import Config, ModelConfig, TrainConfig
from longretriever_tf.data.batches.examples import Examples
from longretriever_tf.data.batches.in_context import BatchSource
from longretriever_tf.data.batches.prepared_data import Prepared, prepare, prepare_examples
from longretriever_tf.data.batches.token_cache import CachedTokens, SearchedHistories, kept_bytes

CUT = START + 130 * DAY_S


def make_world(log, model: dict, **train) -> tuple[Config, Prepared, Examples]:
    train = {
        "examples": "snapshot",
        "snapshot_every_days": 9,
        "num_snapshots": 8,
        "horizon_days": 14,
        "batch_size": 13,
        **train,
    }
    config = Config(model=ModelConfig(**{"max_length": 7, "svd_dim": 4, **model}), train=TrainConfig(**train))
    prepared = prepare(config, log, CUT)
    return config, prepared, prepare_examples(config, prepared)[0]


@pytest.mark.parametrize(
    "model, train",
    [
        ({}, {}),
        ({"max_events": 5, "history_events": 9}, {}),
        ({"subsequence": "events"}, {"examples": "event"}),
    ],
    ids=["items", "items of a short history", "events"],
)
def test_kept_batches_are_searched_batches(model, train):
    config, prepared, examples = make_world(crowded_world(seed=3, num_users=41), model, **train)
    kept = BatchSource(config, prepared, examples)
    without = Config(model=config.model, train=TrainConfig(**{**vars(config.train), "materialise_gb": 0.0}))
    searched = BatchSource(without, prepared, examples)
    assert isinstance(kept.histories, CachedTokens) and isinstance(searched.histories, SearchedHistories)
    pairs = list(zip(kept.make_dataset(0), searched.make_dataset(0), strict=True))
    assert sum(len(left.category) for left, _ in pairs) == len(examples)
    for left, right in pairs:
        np.testing.assert_allclose(left.features, right.features, rtol=1e-6, atol=1e-6)
        rest = (tf.nest.flatten(batch._replace(features=0)) for batch in (left, right))
        for one, other in zip(*rest, strict=True):
            np.testing.assert_array_equal(one, other)
    assert max(len(left.token_item[0]) for left, _ in pairs) > 4


def test_kept_tokens_fill_no_more_than_was_said():
    config, prepared, examples = make_world(block_world(), {})
    kept = BatchSource(config, prepared, examples).histories
    filled = kept.item.numpy().nbytes + kept.features.numpy().nbytes
    assert filled == kept_bytes(config, examples) == (1 + int(examples.length.sum())) * 80  # 19 features and the item
    budget = TrainConfig(**{**vars(config.train), "materialise_gb": (filled - 1) / 1e9})
    small = BatchSource(Config(model=config.model, train=budget), prepared, examples)
    assert isinstance(small.histories, SearchedHistories)


def test_rows_of_no_history_read_nothing():
    features = np.eye(4, dtype=np.float32)
    features[0] = 0  # the padding row
    kept = CachedTokens(np.array([1, 1, 2]), np.array([0, 1, 2]), np.array([0, 5, 6, 7], np.int32), features)
    item, features = kept.read(tf.constant([0, 2, 1], tf.int64))
    assert item.numpy().tolist() == [[0, 0], [6, 7], [5, 0]]
    assert features.numpy()[1].tolist() == [[0, 0, 1, 0], [0, 0, 0, 1]]
    empty = kept.read(tf.constant([0], tf.int64))
    assert empty.item.shape == (1, 0) and empty.features.shape == (1, 0, 4)
