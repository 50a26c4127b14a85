"""The training window from shards is the window in memory, to the bit, for any number of shards and processes."""

import dataclasses
import glob
import mmap
import os
import resource
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from sharded import write_log
from worlds import block_world

from longretriever_tf.common.errors import UserError
from longretriever_tf.common.text import as_text
from longretriever_tf.config.actions import Actions
from longretriever_tf.config.config import Config, ModelConfig, TrainConfig
from longretriever_tf.config.data import DataConfig
from longretriever_tf.data.batches.in_context import BatchSource
from longretriever_tf.data.batches.interests import InterestSource
from longretriever_tf.data.batches.prepared_data import example_history_embeddings, prepare, prepare_examples
from longretriever_tf.data.batches.tables import training_cut, training_cuts
from longretriever_tf.data.window import build, packed
from longretriever_tf.data.window.build import build_window
from longretriever_tf.data.window.layout import COUNTED, EXAMPLES, layout_of
from longretriever_tf.data.window.packed import PackedFile, write_packed
from longretriever_tf.data.window.sources import WindowInterestSource, WindowSource
from longretriever_tf.data.window.window import EXAMPLE_ROWS, RowReader, Window, open_window

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def make_config(model=None, **train) -> Config:
    train = {"snapshot_every_days": 9, "num_snapshots": 8, "horizon_days": 14, "batch_size": 13, **train}
    asked = {"action_column": "action", "target_actions": ("buy",), "dataset": "event_log"}
    return Config(
        data=DataConfig(window_days=10, **(asked if (model or {}).get("action_counts") else {})),
        model=ModelConfig(**{"max_length": 7, "svd_dim": 4, **(model or {})}),
        train=TrainConfig(materialise_gb=0, **train),
    )


def world(is_text: bool = False, num_users: int = 41):
    log = block_world(num_users=num_users, num_items=60, events_per_user=40)
    return dataclasses.replace(log, user_id=as_text(f"ü {i:03d}" for i in range(log.num_users))) if is_text else log


def with_actions(log):
    """Every third event is a purchase; views weigh less."""
    action = (np.arange(log.num_events) * 7 % 3).astype(np.int16)
    return dataclasses.replace(log, action=action, actions=Actions(("buy", "cart", "view"), (1.0, 0.5, 0.25), ("buy",)))


def make_window(directory, log, config, num_shards, num_workers=1) -> Window:
    stored = write_log(str(directory), log, num_shards)
    return open_window(build_window(config, stored, num_workers), stored.num_users)


def assert_same(one, other) -> None:
    """Dataclasses or batches of the same values and types."""
    for name, value in vars(one).items():
        np.testing.assert_equal(getattr(other, name), value, name)
        assert getattr(value, "dtype", None) == getattr(getattr(other, name), "dtype", None), name


def assert_same_batches(source, other, epoch: int) -> int:
    count = 0
    for one, two in zip(source.make_dataset(epoch), other.make_dataset(epoch), strict=True):
        for left, right in zip(tf.nest.flatten(one), tf.nest.flatten(two), strict=True):
            assert left.dtype == right.dtype and left.shape == right.shape
            assert left.numpy().tobytes() == right.numpy().tobytes()
        count += 1
    return count


IN_BATCH = ({"repeat_term": False, "item_stats": False}, {"loss": "in_batch", "small_category": 13})
KINDS = {
    "both": ({}, {}),
    "event": ({}, {"examples": "event"}),
    "snapshot": ({"subsequence": "events"}, {"examples": "snapshot"}),
    "in_batch": IN_BATCH,
    "mixed": (IN_BATCH[0], {**IN_BATCH[1], "in_context": False}),
    "folds": ({}, {"history_folds": 3, "cross_fit_items": True}),
    "short": ({"history_events": 9}, {}),
    "no context token": ({"user_context": False}, {}),
    "actions": ({"action_counts": True}, {}),
    "held out": ({}, {"cut": "none", "validation_users": 0.3}),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("num_shards", [1, 3])
def test_a_window_from_shards_is_the_one_in_memory(tmp_path, kind, num_shards):
    model, train = KINDS[kind]
    config, log = make_config(model, **train), world(is_text=kind == "event")
    log = with_actions(log) if kind == "actions" else log
    prepared = prepare(config, log, training_cut(config, training_cuts(config, log.timestamp)))
    window = make_window(tmp_path, log, config, num_shards)
    assert_same(prepared.corpus, window.corpus)
    assert_same(prepared.stats, window.stats)
    for name in ("item_svd", "history_embedding_rows"):
        assert getattr(window, name).tobytes() == getattr(prepared, name).tobytes(), name
    examples, snapshots = prepare_examples(config, prepared)
    embeddings = example_history_embeddings(config, prepared, snapshots)
    source = BatchSource(config, prepared, examples)
    interest = InterestSource(prepared, snapshots, embeddings, config.train.seed, config.model.history_events)
    from_disk, interest_from_disk = WindowSource(config, window), WindowInterestSource(config, window)
    assert from_disk.num_rows == source.num_rows > 300 and interest_from_disk.num_rows == interest.num_rows > 22
    interest.batch_size = interest_from_disk.batch_size = 11
    for epoch in (0, 1):
        count = assert_same_batches(source, from_disk, epoch)
        assert count == from_disk.num_batches() > 10
        assert assert_same_batches(interest, interest_from_disk, epoch) == interest_from_disk.num_batches() > 1
        plan = source.plan(epoch)
        if config.train.in_context:
            np.testing.assert_array_equal(
                from_disk.batch_categories(epoch), examples.category[plan.rows[plan.start]].astype(np.int64)
            )


def test_resuming_gives_the_rest_of_the_epoch(tmp_path):
    source = WindowSource(make_config(), make_window(tmp_path, world(), make_config(), 2))
    whole, rest = list(source.make_dataset(1)), list(source.make_dataset(1, 5))
    for one, two in zip(whole[5:], rest, strict=True):
        np.testing.assert_array_equal(one.features, two.features)


def test_a_process_that_stops_in_the_middle_of_an_epoch_ends(tmp_path):
    """Threads of many datasets would still read while Python shuts down."""
    build_window(make_config(), write_log(str(tmp_path), world(), 3), 1)
    code = (
        "import sys; sys.path[:0] = ['tests']\n"
        "from test_window import *\n"
        "from longretriever_tf.datasets.sharded_log import ShardedLog\n"
        f"stored = ShardedLog({str(tmp_path)!r})\n"
        "source = WindowSource(make_config(), open_window(build_window(make_config(), stored, 1), 41))\n"
        "iterators = [iter(source.make_dataset(0)) for _ in range(4)]\n"
        "for iterator in iterators:\n"
        "    next(iterator)\n"
        "raise ValueError('stopped')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert "stopped" in done.stderr and done.returncode == 1


def test_more_shards_than_users_leave_some_empty(tmp_path):
    config, log = make_config(), world(num_users=7)
    few, many = make_window(tmp_path / "a", log, config, 1), make_window(tmp_path / "b", log, config, 12)
    assert any(not len(shard["events"]) for shard in many.shards)
    assert assert_same_batches(WindowSource(config, few), WindowSource(config, many), 0) > 3


def test_processes_make_the_window_that_one_makes(tmp_path):
    config, log = make_config(), world()
    one, two = (make_window(tmp_path / str(n), log, config, 3, num_workers=n) for n in (1, 2))
    for mine, theirs in zip(one.shards, two.shards, strict=True):
        for name, values in mine.arrays.items():
            assert values.tobytes() == theirs[name].tobytes(), name


def test_windows_of_other_settings_lie_beside_each_other(tmp_path):
    stored = write_log(str(tmp_path), world(), 2)
    first, same = make_config(), make_config(batch_size=7, learning_rate=0.1, epochs=9)
    others = [make_config({"svd_dim": 5}), make_config(seed=2), make_config(horizon_days=15), make_config(cut="test")]
    layouts = [build_window(config, stored, 1) for config in (first, same, *others)]
    assert layouts[0] == layouts[1] and len({layout.directory for layout in layouts}) == 5
    other_log = write_log(str(tmp_path), world(num_users=40), 2, build="c")
    assert layout_of(first, other_log).directory not in {layout.directory for layout in layouts}


def test_only_what_is_missing_or_torn_is_made_again(tmp_path, monkeypatch):
    config, stored = make_config(), write_log(str(tmp_path), world(), 4)
    layout, made = layout_of(config, stored), []
    make = build.Worker.make

    def stop_at(part, shard):
        def make_or_stop(self, stage, k):
            if (stage, k) == (part, shard):
                raise KeyboardInterrupt
            made.append((stage, k))
            return make(self, stage, k)

        monkeypatch.setattr(build.Worker, "make", make_or_stop)

    stop_at(COUNTED, 2)
    with pytest.raises(KeyboardInterrupt):
        build_window(config, stored, 1)
    stop_at(EXAMPLES, 3)
    with pytest.raises(KeyboardInterrupt):
        build_window(config, stored, 1)
    path = layout.path(EXAMPLES, "shard-00001-of-00004")
    with open(path, "rb+") as file:
        file.truncate(os.path.getsize(path) // 2)
    made.clear()
    stop_at(EXAMPLES, -1)
    build_window(config, stored, 1)
    assert made == [(EXAMPLES, 1), (EXAMPLES, 3)]
    assert sorted(os.listdir(layout.directory)) == sorted(
        [".lock", "config.json", "corpus.npz", "examples", "tables", "vocabulary", "window.json"]
    )


@pytest.mark.parametrize("num_workers", [1, 2])
def test_a_shard_that_is_missing_is_named(tmp_path, num_workers):
    stored = write_log(str(tmp_path), world(), 3)
    os.remove(tmp_path / "log" / "shard-00001-of-00003.npz")
    with pytest.raises(UserError, match="shard-00001-of-00003.npz") as error:
        build_window(make_config(), stored, num_workers)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("part", [EXAMPLES, "tables"])
def test_a_finished_window_that_is_torn_says_what_to_delete(tmp_path, part):
    config, stored = make_config(), write_log(str(tmp_path), world(), 2)
    layout = build_window(config, stored, 1)
    path = layout.path(part, "shard-00001-of-00002") if part == EXAMPLES else layout.path(part)
    with open(path, "rb+") as file:
        file.truncate(os.path.getsize(path) - 64)
    with pytest.raises(UserError, match=f"{path} is damaged.*delete {layout.directory} and run the same command again"):
        open_window(build_window(config, stored, 1), stored.num_users)


def test_a_disk_that_fills_leaves_nothing_half_written(tmp_path):
    """A limit on the size of files stands for a full disk."""
    config, stored = make_config(), write_log(str(tmp_path), world(), 2)
    code = (
        "import sys, resource; sys.path[:0] = ['tests']\n"
        "from test_window import *\n"
        "from longretriever_tf.datasets.sharded_log import ShardedLog\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))\n"
        "try:\n"
        f"    build_window(make_config(), ShardedLog({str(tmp_path)!r}), 1)\n"
        "except UserError as error:\n"
        "    print('REFUSED', error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert "REFUSED cannot write" in done.stdout and "windows" in done.stdout, done.stderr
    directory = layout_of(config, stored).directory
    names = [name for _, _, names in os.walk(directory) for name in names if "aside" in name]
    assert not names and not os.path.exists(os.path.join(directory, "window.json"))
    assert open_window(build_window(config, stored, 1), stored.num_users).shards


def test_many_files_may_be_open():
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, 900), hard))
        packed.allow_open_files(400)
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == min(1312, hard if hard > 0 else 1312)
        packed.allow_open_files(3)
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] >= 900
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.skipif(not packed.CAN_ADVISE, reason="this system cannot be told what will be read")
def test_the_disk_is_asked_for_all_that_a_batch_reads_and_for_nothing_else(tmp_path, monkeypatch):
    """A batch that waited for the disk row by row, or had it read ahead of each row, was several times as slow."""
    window, called = make_window(tmp_path, world(), make_config(), 3), []

    def listen(name):
        heard = getattr(os, name)
        monkeypatch.setattr(os, name, lambda *args: (called.append((name, *args)), heard(*args))[1])

    listen("pread")
    listen("posix_fadvise")
    for source in (WindowSource(make_config(), window), WindowInterestSource(make_config(), window)):
        batches, chosen = list(source.make_dataset(0)), np.array([3, 1]) % source.num_batches()
        again = source.make_dataset(0, numbers=chosen)
        for number, batch in zip(chosen, again, strict=True):
            tf.nest.map_structure(np.testing.assert_array_equal, batch, batches[number])
    handles = {shard.handle for shard in window.shards}
    assert {call[1] for call in called if call[-1] == os.POSIX_FADV_RANDOM} == handles
    asked, read = set(), set()
    for name, handle, *args in called:
        if handle in handles and args[-1] != os.POSIX_FADV_RANDOM:
            start, size = args[:2] if name == "posix_fadvise" else args[::-1]
            pages = {(handle, page) for page in range(start // mmap.PAGESIZE, -(-(start + size) // mmap.PAGESIZE))}
            (read if name == "pread" and size else asked).update(pages if size else ())
            assert read <= asked
    assert read == asked and len(read) > 30


def test_a_file_that_is_cut_short_while_it_is_read_is_an_error(tmp_path):
    window = make_window(tmp_path, world(), make_config(), 1)
    reader = RowReader(window.shards, EXAMPLE_ROWS)
    assert len(reader.read(np.arange(5))["profile"]) == 5
    with open(glob.glob(f"{window.directory}/examples/*")[0], "rb+") as file:
        file.truncate(4096)
    with pytest.raises(UserError, match="training window were cut short"):
        reader.read(np.arange(reader.base[-1]))


@pytest.mark.parametrize("kind", ["missing", "torn", "foreign", "other"])
def test_packed_files_are_whole_or_refused(tmp_path, kind):
    path = str(tmp_path / "a" / "file")
    arrays = {
        "x": np.arange(5, dtype=np.int32),
        "none": np.zeros((0, 3), np.float32),
        "y": np.array([(1, (2, 3))], "i8, (2,)f4"),
    }
    write_packed(path, arrays, {"k": 1})
    file = PackedFile(path, {"k": 1}, "cure")
    for name, array in arrays.items():
        assert file[name].dtype == array.dtype and file[name].tobytes() == array.tobytes()
        assert file[name].shape == array.shape
    file.release()
    assert file["x"].tolist() == [0, 1, 2, 3, 4]
    if kind == "missing":
        os.remove(path)
    elif kind == "torn":
        with open(path, "rb+") as torn:
            torn.truncate(100)
    elif kind == "foreign":
        with open(path, "wb") as foreign:
            foreign.write(b"PK" * 99)
    with pytest.raises(UserError, match=path):
        PackedFile(path, {"k": 2 if kind == "other" else 1}, "cure")
    assert not packed.is_whole(path, {"k": 2 if kind == "other" else 1})
