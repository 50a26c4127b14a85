"""The order of an epoch follows from what examples ask, not from who else is there or where they lie."""

import dataclasses

import numpy as np
import pytest
from worlds import START, block_world

from longretriever_tf.common.schema import DAY_S
from longretriever_tf.common.text import as_text
from longretriever_tf.config.config import Config, ModelConfig, TrainConfig
from longretriever_tf.data.batches.examples import held_out_users
from longretriever_tf.data.batches.in_context import plan_epoch
from longretriever_tf.data.batches.order import combine, mix, shuffled_rows, sort_keys, user_keys
from longretriever_tf.data.batches.prepared_data import prepare, prepare_examples
from longretriever_tf.models.baselines.examples import build_user_examples

CONFIG = Config(
    model=ModelConfig(svd_dim=4), train=TrainConfig(snapshot_every_days=9, num_snapshots=8, horizon_days=14)
)


def columns_of(examples, rows):
    return {field.name: getattr(examples, field.name)[rows] for field in dataclasses.fields(examples)}


def test_scrambling_is_that_of_splitmix64():
    # The first outputs of the published generator for the seeds 0 and 1234567.
    assert mix(np.array([0, 1234567])).tolist() == [0xE220A8397B1DCDAF, 6457827717110365317]
    assert len(np.unique(mix(np.arange(100_000)))) == 100_000


def test_keys_are_of_the_raw_id_alone():
    text, numbers = as_text(["ü 1", "a", ""]), np.array([7, -1, 2**62])
    for ids in (text, numbers):
        np.testing.assert_array_equal(user_keys(ids)[[2, 0]], user_keys(ids[[2, 0]]))
        assert len(set(user_keys(ids).tolist())) == 3
    assert user_keys(text)[1] == 3405396810240292928  # BLAKE2b of b"a", the same in every process
    np.testing.assert_array_equal(user_keys(numbers.astype(np.int32)[:2]), user_keys(numbers[:2]))


@pytest.mark.parametrize("seeds", [(1, 0), (1, 1), (2**32 - 1, 7, 3)])
def test_rows_keep_their_order_whoever_else_is_there(seeds):
    ids = combine(np.arange(5000), np.arange(5000) % 2 == 0)
    order = shuffled_rows(ids, *seeds)
    assert sorted(order.tolist()) == list(range(5000)) and abs(np.corrcoef(order, np.arange(5000))[0, 1]) < 0.05
    some = np.flatnonzero(np.arange(5000) % 3 == 1)
    np.testing.assert_array_equal(some[shuffled_rows(ids[some], *seeds)], order[np.isin(order, some)])
    assert (shuffled_rows(ids, *seeds, 1) != order).mean() > 0.9
    assert len(np.unique(sort_keys(ids, *seeds))) == 5000


def test_every_example_has_an_id_of_its_own():
    prepared = prepare(CONFIG, block_world(), START + 130 * DAY_S)
    examples = prepare_examples(CONFIG, prepared)[0]
    assert len(np.unique(examples.id)) == len(examples) > 500
    users = build_user_examples(CONFIG, prepared.log, prepared.stats.time)
    assert len(np.unique(users.id)) == len(users) > 100


def test_an_epoch_is_the_same_however_the_rows_lie():
    prepared = prepare(CONFIG, block_world(), START + 130 * DAY_S)
    examples, offset = prepare_examples(CONFIG, prepared)[0], prepared.corpus.category_offset
    shuffle = np.random.default_rng(0).permutation(len(examples))
    plan = plan_epoch(CONFIG, examples, offset, 1)
    other = plan_epoch(CONFIG, dataclasses.replace(examples, **columns_of(examples, shuffle)), offset, 1)
    np.testing.assert_array_equal(shuffle[other.rows], plan.rows)
    np.testing.assert_array_equal(np.stack([other.start, other.stop]), np.stack([plan.start, plan.stop]))


def test_each_user_is_held_out_or_not_whoever_else_is_there():
    config = Config(train=TrainConfig(cut="none", validation_users=0.3))
    ids = as_text(range(4000))
    is_held_out = held_out_users(config, ids)
    assert 0.27 < is_held_out.mean() < 0.33
    np.testing.assert_array_equal(held_out_users(config, ids[::7]), is_held_out[::7])
    assert not held_out_users(CONFIG, ids).any()
