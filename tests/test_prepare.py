"""`prepare` writes the log that is read in memory, whatever the tables are and however they are cut into pieces."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest
from trained import run_module

from longretriever_tf.common.errors import UserError
from longretriever_tf.common.text import as_text
from longretriever_tf.config.config import DataConfig
from longretriever_tf.datasets.event_log.source import read_event_log
from longretriever_tf.datasets.load import load_log
from longretriever_tf.datasets.log_identity import identify_log, identify_shards
from longretriever_tf.datasets.preparation import pieces, run
from longretriever_tf.datasets.sharded_log import ShardedLog

NUM_ITEMS, NUM_USERS = 23, 17
ITEM_TEXTS = ("007", "7", "07", "(unknown)", 'say "hi"', "a,b;c", "日本", *(f"sku {i:03d}" for i in range(16)))


def _events(num_events: int, is_text: bool, seed: int = 0) -> pd.DataFrame:
    """Events with ties, baskets that restart, weights, and categories that belong to items."""
    rng = np.random.default_rng(seed)
    item, user = rng.integers(0, NUM_ITEMS, num_events), rng.zipf(1.4, num_events) % NUM_USERS
    frame = pd.DataFrame(
        {
            "who": [f"u {u:02d}" for u in user] if is_text else user - 5,
            "what": [ITEM_TEXTS[i] for i in item] if is_text else item * 3 - 9,
            "when": 1_600_000_000 + rng.integers(0, 40, num_events) * 3_600 * 7,
            "receipt": rng.integers(0, 30, num_events),
            "stars": rng.integers(1, 9, num_events) / 2,
            "did": [f"a {u % 3}" if is_text else u % 3 for u in rng.integers(0, 5, num_events)],
            "category": [f"c{i % 4}" if i % 7 else None for i in item],
            "brand": [f"{i % 3}" for i in item],
            "label": [f"item {i}" for i in item],
        }
    )
    if is_text:
        frame["receipt"] = ["" if r == 3 else f"r{r}" for r in frame["receipt"]]
    return frame


COLUMNS = {"user_column": "who", "item_column": "what", "timestamp_column": "when"}
EVERYTHING = {
    **COLUMNS,
    "basket_column": "receipt",
    "weight_column": "stars",
    "action_column": "did",
    "item_features": ("brand",),
    "item_name_column": "label",
}


def _write(frame: pd.DataFrame, folder, form: str, num_files: int) -> str:
    folder.mkdir()
    for number, part in enumerate(np.array_split(np.arange(len(frame)), num_files)):
        path = folder / f"part-{number}.{form}"
        if form == "parquet":
            frame.iloc[part].to_parquet(path, row_group_size=40)
        else:
            frame.iloc[part].to_csv(path, index=False)
    return str(folder)


def _assert_same(spec: DataConfig, directory: str, monkeypatch, num_shards: int) -> ShardedLog:
    """Prepares the spec in pieces of 50 rows and compares it with the log in memory."""
    monkeypatch.setattr(pieces, "PIECE_ROWS", 50)
    said = run.prepare_log(spec, directory, num_shards, run.in_processes(1))
    assert said.startswith("prepared: ")
    memory, disk = load_log(spec), ShardedLog(directory)
    whole = load_log(DataConfig(data=directory))
    for field in ("user_id", "offset", "item_row", "timestamp", "weight"):
        np.testing.assert_array_equal(getattr(whole, field), getattr(memory, field), field)
        assert getattr(whole, field).dtype == getattr(memory, field).dtype
    assert (whole.actions, whole.action is None) == (memory.actions, memory.action is None)
    if memory.action is not None:
        np.testing.assert_array_equal(whole.action, memory.action)
    np.testing.assert_array_equal(whole.basket_id >= 0, memory.basket_id >= 0)
    assert whole.items.item_id.tolist() == memory.items.item_id.tolist()
    assert whole.items.name.tolist() == memory.items.name.tolist()
    assert {n: c.tolist() for n, c in whole.items.features.items()} == {
        n: c.tolist() for n, c in memory.items.features.items()
    }
    assert {n: c.tolist() for n, c in whole.profile.items()} == {n: c.tolist() for n, c in memory.profile.items()}
    assert (whole.context, whole.counts) == (memory.context, memory.counts)
    here, there = identify_shards(disk), identify_log(memory, spec)
    assert here.fingerprint == there.fingerprint and here.num_events == there.num_events
    assert here.num_items_without_events == there.num_items_without_events
    return disk


@pytest.mark.parametrize("num_shards", [1, 5])
@pytest.mark.parametrize("form", ["parquet", "csv", "csv.gz"])
@pytest.mark.parametrize("is_text", [False, True], ids=["integers", "text"])
def test_events_with_everything(tmp_path, monkeypatch, is_text, form, num_shards):
    events = _write(_events(400, is_text), tmp_path / "log", form, 3)
    spec = DataConfig(dataset="event_log", data_dir=str(tmp_path / "tfds"), events=events, **EVERYTHING)
    disk = _assert_same(spec, str(tmp_path / "out"), monkeypatch, num_shards)
    assert disk.num_shards == num_shards


def test_three_tables_with_unknown_items_and_users(tmp_path, monkeypatch):
    frame = _events(300, is_text=True)
    events = _write(frame[["who", "what", "when", "receipt"]], tmp_path / "log", "parquet", 2)
    items = frame[["what", "category", "brand"]].drop_duplicates("what")[4:]
    items.to_csv(tmp_path / "items.csv", index=False)
    users = pd.DataFrame({"who": ["u 00", "u 03", "nobody"], "age": ["old", None, "new"]})
    users.to_parquet(tmp_path / "users.parquet")
    spec = DataConfig(
        dataset="event_log",
        data_dir=str(tmp_path / "tfds"),
        events=events,
        items=str(tmp_path / "items.csv"),
        users=str(tmp_path / "users.parquet"),
        user_features=("age",),
        item_features=("brand",),
        basket_column="receipt",
        **COLUMNS,
    )
    disk = _assert_same(spec, str(tmp_path / "out"), monkeypatch, 3)
    assert disk.manifest.counts["unknown_item"] > 0 and disk.manifest.counts["users_without_events"] >= 1


@pytest.mark.parametrize("long_baskets", ["cut", "keep"])
def test_baskets_that_last_too_long(tmp_path, monkeypatch, long_baskets):
    events = _write(_events(400, is_text=False), tmp_path / "log", "parquet", 2)
    spec = DataConfig(
        dataset="event_log", data_dir=str(tmp_path / "tfds"), events=events, long_baskets=long_baskets, **EVERYTHING
    )
    disk = _assert_same(spec, str(tmp_path / "out"), monkeypatch, 4)
    assert disk.manifest.counts["long_baskets"] > 0


def test_a_refused_basket_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(pieces, "PIECE_ROWS", 50)
    events = _write(_events(400, is_text=False), tmp_path / "log", "parquet", 2)
    spec = DataConfig(dataset="event_log", events=events, long_baskets="refuse", **EVERYTHING)
    with pytest.raises(UserError, match=r"the longest begins in row \d+ of part-\d.parquet: basket \d+ of who"):
        run.prepare_log(spec, str(tmp_path / "out"), 2, run.in_processes(1))
    with pytest.raises(UserError, match="the longest begins in row"):
        read_event_log(spec)


def test_times_within_a_second_and_dates(tmp_path, monkeypatch):
    frame = _events(200, is_text=True)
    frame["when"] = pd.to_datetime(frame["when"] * 10**9 + np.arange(len(frame)) % 5 * 10**8)
    events = _write(frame, tmp_path / "log", "parquet", 2)
    spec = DataConfig(dataset="event_log", data_dir=str(tmp_path / "tfds"), events=events, **COLUMNS)
    _assert_same(spec, str(tmp_path / "out"), monkeypatch, 3)


def test_clusters_without_a_category_column(tmp_path, monkeypatch):
    events = _write(_events(200, is_text=True).drop(columns="category"), tmp_path / "log", "csv", 2)
    spec = DataConfig(
        dataset="event_log", data_dir=str(tmp_path / "tfds"), events=events, context="clusters:3", **COLUMNS
    )
    assert _assert_same(spec, str(tmp_path / "out"), monkeypatch, 2).context == ""


def test_another_context_column(tmp_path, monkeypatch):
    events = _write(_events(200, is_text=False), tmp_path / "log", "parquet", 2)
    spec = DataConfig(dataset="event_log", data_dir=str(tmp_path / "tfds"), events=events, **EVERYTHING)
    _assert_same(spec, str(tmp_path / "out"), monkeypatch, 2)
    asked = DataConfig(data=str(tmp_path / "out"), context="brand")
    log = load_log(asked)
    assert log.context == "brand" and "" not in log.items.features["brand"].tolist()
    assert identify_shards(ShardedLog(asked.data, "brand")).fingerprint == identify_log(log, asked).fingerprint
    with pytest.raises(UserError, match="--context='colour' is not a column of the items"):
        load_log(DataConfig(data=str(tmp_path / "out"), context="colour"))


def test_an_embedded_log(tmp_path, monkeypatch):
    from worlds import crowded_world

    log = crowded_world()
    monkeypatch.setattr("longretriever_tf.datasets.load.load_log", lambda config: log)
    run.prepare_log(DataConfig(), str(tmp_path / "out"), 3, run.in_processes(1))
    disk = ShardedLog(str(tmp_path / "out"))
    assert identify_shards(disk).fingerprint == identify_log(log, DataConfig()).fingerprint


MISTAKES = {
    "an id is missing": (lambda f: f.assign(who=f.who.where(f.index != 350)), r"1 of \d+ rows have no id.*part-2"),
    "a time is no time": (lambda f: f.assign(when=f.when.astype(str).where(f.index != 5, "noon")), "are not times"),
    "a weight is no number": (lambda f: f.assign(stars=f.stars.where(f.index != 399, -1)), "not numbers above 0"),
    "two values of an item": (
        lambda f: f.assign(category=f.category.where(f.index != 398, "other")),
        "has two values.*part-2",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_in_the_tables_is_named_and_leaves_no_log(tmp_path, monkeypatch, mistake):
    monkeypatch.setattr(pieces, "PIECE_ROWS", 50)
    change, words = MISTAKES[mistake]
    frame = change(_events(400, is_text=True))
    frame["category"] = frame["category"].fillna("none")
    spec = DataConfig(dataset="event_log", events=_write(frame, tmp_path / "log", "csv", 3), **EVERYTHING)
    with pytest.raises(UserError, match=words):
        run.prepare_log(spec, str(tmp_path / "out"), 2, run.in_processes(1))
    with pytest.raises(UserError, match="is no prepared log"):
        ShardedLog(str(tmp_path / "out"))


@pytest.mark.parametrize(
    ("second", "words"),
    [
        ({"what": ["a"]}, "is int64 in one.parquet and large_string in two.parquet; write all files with one type"),
        ({"kind": [1.5]}, "one.parquet writes whole numbers with decimals .7.0., and two.parquet has values"),
        ({"when": ["2024-01-01"]}, "one.parquet holds numbers and two.parquet dates; write all files in one way"),
    ],
)
def test_files_that_do_not_make_one_column_are_refused(tmp_path, second, words):
    first = {"who": [1], "what": [3], "when": [1_600_000_000], "kind": [7.0]}
    (tmp_path / "log").mkdir()
    pd.DataFrame(first).to_parquet(tmp_path / "log" / "one.parquet")
    pd.DataFrame({**first, "what": [4], **second}).to_parquet(tmp_path / "log" / "two.parquet")
    spec = DataConfig(dataset="event_log", events=str(tmp_path / "log"), context="kind", **COLUMNS)
    with pytest.raises(UserError, match=words):
        run.prepare_log(spec, str(tmp_path / "out"), 2, run.in_processes(1))


def _flags(events: str, output, *more: str) -> list[str]:
    named = [f"--{name}={','.join(v) if isinstance(v, tuple) else v}" for name, v in EVERYTHING.items()]
    return ["--dataset=event_log", f"--events={events}", *named, f"--output={output}", *more]


def test_the_command(tmp_path):
    events = _write(_events(400, is_text=True), tmp_path / "log", "parquet", 3)
    done = run_module("prepare", *_flags(events, tmp_path / "out", "--num_shards=4", "--num_workers=2"))
    assert "400" not in done.stderr and f"prepared: {tmp_path / 'out'} (" in done.stdout
    assert f"--data={tmp_path / 'out'}" in done.stdout
    assert sorted(os.listdir(tmp_path / "out")) == [".lock", "items.npz", "log", "manifest.json"]
    again = run_module("prepare", *_flags(events, tmp_path / "out", "--num_shards=4"))
    assert "nothing to do" in again.stdout
    other = run_module("prepare", *_flags(events, tmp_path / "out", "--num_shards=5"))
    assert other.returncode == 2 and "--num_shards: 4 there, 5 here" in other.stderr
    other = run_module("prepare", *_flags(events, tmp_path / "out", "--num_shards=4", "--context=brand"))
    assert other.returncode == 2 and "--context: '' there, 'brand' here" in other.stderr
    inspected = run_module("inspect_log", f"--data={tmp_path / 'out'}", f"--output={tmp_path / 'life'}")
    assert "events" in inspected.stdout


def test_a_killed_command_goes_on(tmp_path):
    events = _write(_events(3_000, is_text=True), tmp_path / "log", "csv", 40)
    command = [sys.executable, "-m", "longretriever_tf.prepare"]
    command += _flags(events, tmp_path / "out", "--num_shards=20", "--num_workers=1")
    work = tmp_path / "out" / "work"
    for what in ("portion-", "shard-"):  # a kill within each pass
        child = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        while child.poll() is None:
            if work.is_dir() and sum(name.startswith(what) for name in os.listdir(work)) >= 3:
                child.send_signal(signal.SIGKILL)
                child.wait()
            time.sleep(0.002)
    done = run_module("prepare", *_flags(events, tmp_path / "out", "--num_shards=20", "--num_workers=1"))
    assert "prepared: " in done.stdout or "nothing to do" in done.stdout
    whole = run_module("prepare", *_flags(events, tmp_path / "uninterrupted", "--num_shards=20"))
    assert "prepared: " in whole.stdout
    manifests = [json.loads((tmp_path / name / "manifest.json").read_text()) for name in ("out", "uninterrupted")]
    assert manifests[0] == manifests[1]


def test_a_directory_of_something_else_is_left_alone(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("mine")
    events = _write(_events(20, is_text=True), tmp_path / "log", "csv", 1)
    refused = run_module("prepare", *_flags(events, tmp_path / "out"))
    assert refused.returncode == 2 and "is not empty and no prepared log" in refused.stderr
    assert (tmp_path / "out" / "thesis.txt").read_text() == "mine"


def test_the_disk_fills(tmp_path):
    events = _write(_events(3_000, is_text=True), tmp_path / "log", "csv", 4)
    flags = _flags(events, tmp_path / "out", "--num_workers=1")
    limited = f'ulimit -f 40; exec {sys.executable} -m longretriever_tf.prepare "$@"'
    failed = subprocess.run(["bash", "-c", limited, "_", *flags], capture_output=True, text=True)
    assert failed.returncode == 2 and failed.stderr.strip().splitlines()[-1].startswith("error: cannot write")
    assert "Traceback" not in failed.stderr
    assert "prepared: " in run_module("prepare", *flags).stdout


def test_prepared_and_tables_do_not_go_together(tmp_path):
    refused = run_module("inspect_log", f"--data={tmp_path}", "--events=a.csv")
    assert refused.returncode == 2 and "leave one of the two out" in refused.stderr


def test_text_of_numbers_only_in_some_files(tmp_path, monkeypatch):
    (tmp_path / "log").mkdir()
    for number, ids in enumerate((["7", "8"], ["x", "07"])):
        frame = pd.DataFrame({"who": ids, "what": ids, "when": [1_600_000_000, 1_600_100_000], "category": ["1", "2"]})
        frame.to_csv(tmp_path / "log" / f"{number}.csv", index=False)
    frame["receipt"] = as_text(["1", "2"])
    spec = DataConfig(dataset="event_log", data_dir=str(tmp_path / "d"), events=str(tmp_path / "log"), **COLUMNS)
    disk = _assert_same(spec, str(tmp_path / "out"), monkeypatch, 2)
    assert disk.items.item_id.tolist() == ["07", "7", "8", "x"]
