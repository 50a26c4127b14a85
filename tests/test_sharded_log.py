"""A log in shards on disk is the log in memory, and says what is wrong with its files."""

import os

import numpy as np
import pytest
from sharded import write_log

from longretriever_tf.common.errors import UserError
from longretriever_tf.common.text import as_text
from longretriever_tf.datasets import sharded_log
from longretriever_tf.datasets.log import ItemTable, LifelongLog
from longretriever_tf.datasets.log_identity import fingerprint_log
from longretriever_tf.datasets.sharded_log import ShardedLog


def _log(is_text: bool, num_users: int = 9) -> LifelongLog:
    rng = np.random.default_rng(3)
    lengths = rng.integers(0, 12, num_users)
    ids = as_text([f"ü {i:02d}'" for i in range(num_users)]) if is_text else np.arange(num_users, dtype=np.int64) - 4
    item_id = as_text([f"0{i}" for i in range(5)]) if is_text else np.arange(5, dtype=np.int64)
    time = [np.sort(rng.integers(0, 1000, n)) for n in lengths]
    return LifelongLog(
        user_id=ids,
        profile={"a/b": as_text(["x", ""] * num_users)[:num_users]},
        offset=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        item_row=rng.integers(0, 5, lengths.sum()).astype(np.int32),
        timestamp=np.concatenate(time).astype(np.int64),
        basket_id=np.full(lengths.sum(), -1, np.int64),
        weight=rng.random(lengths.sum()).astype(np.float32),
        items=ItemTable(item_id, {"category": as_text("aabbb")}, as_text(map(str, item_id))),
        context="category",
        counts={"rows": int(lengths.sum())},
    )


@pytest.mark.parametrize("is_text", [False, True])
@pytest.mark.parametrize("num_shards", [1, 4, 20])
def test_shards_make_the_log(tmp_path, is_text, num_shards):
    log = _log(is_text)
    write_log(str(tmp_path), log, num_shards)
    stored = ShardedLog(str(tmp_path))
    whole = stored.read_whole()
    assert fingerprint_log(whole) == fingerprint_log(log) == stored.manifest.fingerprint
    for field in ("user_id", "offset", "item_row", "timestamp", "basket_id", "weight"):
        np.testing.assert_array_equal(getattr(whole, field), getattr(log, field))
        assert getattr(whole, field).dtype == getattr(log, field).dtype
    assert whole.profile["a/b"].tolist() == log.profile["a/b"].tolist()
    assert (whole.counts, whole.context) == (log.counts, log.context)
    assert (stored.num_users, stored.num_events) == (log.num_users, log.num_events)
    assert (stored.first, stored.last) == (log.timestamp.min(), log.timestamp.max())


def test_shards_hold_about_as_many_events_each():
    sizes = np.random.default_rng(0).zipf(1.5, 3000).clip(max=500)
    bounds = sharded_log.split_users(sizes, 16)
    events = np.add.reduceat(sizes, bounds[:-1])
    assert bounds[0] == 0 and bounds[-1] == len(sizes) and events.sum() == sizes.sum()
    assert np.abs(events - sizes.sum() / 16).max() <= sizes.max()


def _tear(path: str) -> None:
    with open(path, "rb+") as file:
        file.truncate(os.path.getsize(path) // 2)


@pytest.mark.parametrize(
    ("break_it", "words"),
    [
        (lambda path, _: os.remove(path), "cannot be read"),
        (lambda path, _: _tear(path), "damaged"),
        (lambda path, other: os.replace(other, path), "belongs to another build"),
    ],
    ids=["missing", "torn", "of another build"],
)
@pytest.mark.parametrize("name", ["log/shard-00001-of-00003.npz", "items.npz"])
def test_a_file_that_does_not_belong_is_named(tmp_path, break_it, words, name):
    log, directory, other = _log(is_text=True), str(tmp_path / "here"), str(tmp_path / "other")
    write_log(directory, log, 3)
    write_log(other, log, 3, build="c")
    break_it(os.path.join(directory, name), os.path.join(other, name))
    with pytest.raises(UserError, match=words) as error:
        ShardedLog(directory).read_whole()
    assert name in str(error.value) and "prepare" in str(error.value)


def test_a_directory_without_a_manifest_says_how_to_make_one(tmp_path):
    with pytest.raises(UserError, match="is no prepared log.*longretriever prepare --output="):
        ShardedLog(str(tmp_path))
