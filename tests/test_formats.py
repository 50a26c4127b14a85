"""Published logs as they are published: each format on small made files of its exact layout, in memory and on disk."""

import dataclasses
import json

import numpy as np
import published
import pytest
from trained import run_module

from longretriever_tf.common.errors import UserError
from longretriever_tf.config.config import DataConfig
from longretriever_tf.config.formats import FORMATS, with_format
from longretriever_tf.datasets.event_log.source import read_event_log
from longretriever_tf.datasets.preparation.run import in_processes, prepare_log
from longretriever_tf.datasets.sharded_log import ShardedLog

EVENTS = published.made_events()


def read_spec(name: str, folder, **given) -> DataConfig:
    """The settings of a format on made files."""
    files = published.WRITERS[name](folder, EVENTS)
    return with_format(DataConfig(), {"format": name.removesuffix("_csv"), **files, **given})


def test_every_format_has_its_files_here():
    assert {name.removesuffix("_csv") for name in published.WRITERS} == set(FORMATS) == set(published.LOGS)


@pytest.mark.parametrize("name", published.WRITERS)
def test_a_format_is_read_as_it_is_published(name, tmp_path):
    spec = read_spec(name, tmp_path)
    log = read_event_log(spec)
    user_id, item_id, category = published.LOGS[name.removesuffix("_csv")]
    user, item = np.repeat(log.user_id, np.diff(log.offset)).tolist(), log.items.item_id[log.item_row].tolist()
    if name == "tmall":  # days without a year
        days = {(user_id(e.user), item_id(e.item), (e.second - published.START) // 86_400) for e in EVENTS}
        first = np.datetime64("2014-05-11", "s").astype(np.int64)
        assert set(zip(user, item, ((log.timestamp - first) // 86_400).tolist(), strict=True)) == days
    else:
        second = published.taobao_second if name == "taobao" else lambda event: event.second
        expected = {(user_id(e.user), item_id(e.item), second(e)) for e in EVENTS}
        assert set(zip(user, item, log.timestamp.tolist(), strict=True)) == expected
    named = dict(zip(log.items.item_id.tolist(), log.items.features[log.context].tolist(), strict=True))
    assert named == {item_id(row): category(row) for row in range(published.NUM_ITEMS)}
    assert set(log.profile) == set(spec.user_features) and bool(spec.users) == bool(spec.user_features)
    assert log.counts.get("other_action", 0) == {"taobao": 5, "kuairand": len(EVENTS), "lastfm_1k": 1}.get(name, 0)
    output = str(tmp_path / "prepared")
    prepare_log(spec, output, 2, in_processes(1))
    stored = ShardedLog(output).read_whole()
    for field in ("user_id", "offset", "item_row", "timestamp"):
        np.testing.assert_array_equal(getattr(stored, field), getattr(log, field), field)
    assert stored.counts == log.counts and stored.items.name.tolist() == log.items.name.tolist()


def test_a_flag_that_is_given_wins(tmp_path):
    log = read_event_log(read_spec("movielens_1m", tmp_path, context="genres", user_features=("gender",)))
    assert log.context == "genres" and set(log.items.features["genres"]) == {"G0|Drama", "G1|Drama", "G2|Drama"}
    assert set(log.profile) == {"gender"}


def test_a_runs_own_settings_stay_when_it_is_read_back(tmp_path):
    spec = read_spec("kuairand", tmp_path, context="author_id")
    assert with_format(spec, {"window_days": 7.0}) == dataclasses.replace(spec, window_days=7.0)


@pytest.mark.parametrize(
    ("name", "given", "words"),
    [
        ("movielens_1m", {"items": ""}, ("--format=movielens_1m needs --items=movies.dat",)),
        ("taobao", {"events": ""}, ("--format=taobao needs --events=UserBehavior.csv",)),
        ("taobao", {"users": "users.csv"}, ("--format=taobao has no users table", "users.csv")),
        ("taobao", {"dataset": "movielens"}, ("--format=taobao with --dataset=movielens",)),
    ],
)
def test_what_a_format_needs_is_named(name, given, words, tmp_path):
    with pytest.raises(UserError) as caught:
        read_spec(name, tmp_path, **given)
    assert all(word in str(caught.value) for word in words)


@pytest.mark.parametrize(
    ("name", "other", "words"),
    [
        ("retailrocket", "kuairand", ("log_standard_", "visitorid", "--format=retailrocket expects events.csv")),
        ("taobao", "yoochoose", ("yoochoose-clicks.dat", "4 values instead of 5", "expects UserBehavior.csv")),
        ("movielens_1m", "movielens_25m", ("ratings.csv", "expects ratings.dat")),
        ("amazon_2023", "movielens_25m", ("ratings.csv", "parent_asin", "expects <category>.jsonl.gz")),
    ],
)
def test_the_file_of_another_log_is_named(name, other, words, tmp_path):
    spec = read_spec(name, tmp_path)
    (tmp_path / "other").mkdir()
    events = published.WRITERS[other](tmp_path / "other", EVENTS)["events"]
    with pytest.raises(UserError) as caught:
        read_event_log(dataclasses.replace(spec, events=events))
    assert all(word in str(caught.value) for word in words), caught.value


@pytest.mark.parametrize(
    ("name", "old", "new", "words"),
    [
        ("tmall", ",511,", ",1399,", ("time_stamp", "month and day")),
        ("retailrocket", "\n15", "\nx5", ("'timestamp'", "count of time")),
        ("taobao", f"pv,{published.taobao_second(EVENTS[0])}", "pv,never", ("row 6", "'never'")),
    ],
)
def test_a_bad_value_is_named_by_its_row_in_the_file(name, old, new, words, tmp_path):
    spec = read_spec(name, tmp_path)
    with open(spec.events, encoding="utf-8") as file:
        text = file.read()
    assert old in text
    lines = text.replace(old, new, 1).splitlines(keepends=True)
    with open(spec.events, "w", encoding="utf-8") as file:
        file.writelines(lines[-5:] + lines[:-5] if name == "taobao" else lines)  # rows that do not count come first
    with pytest.raises(UserError) as caught:
        read_event_log(spec)
    assert all(word in str(caught.value) for word in words), caught.value


def test_an_item_of_two_categories_takes_the_first_in_the_alphabet(tmp_path):
    """Published files cannot be mended; on disk and in memory alike."""
    spec = read_spec("taobao", tmp_path)
    with open(spec.events, "a", encoding="utf-8") as file:
        file.write(f"100,7,49,pv,{published.TAOBAO_START + 7}\n")
    prepare_log(spec, str(tmp_path / "prepared"), 1, in_processes(1))
    for log in (read_event_log(spec), ShardedLog(str(tmp_path / "prepared")).read_whole()):
        assert log.items.features["category"][0] == "49"


def test_by_the_commands(tmp_path):
    """Text ids and gzipped JSON lines: looked at, prepared on disk, and the flags of a wrong name refused."""
    files = published.amazon_2023(tmp_path, EVENTS)
    flags = ("--format=amazon_2023", *(f"--{name}={path}" for name, path in files.items()), "--window_days=14")
    done = run_module("inspect_log", *flags, f"--data_dir={tmp_path}", f"--output={tmp_path}/inspect", "--noplots")
    assert done.returncode == 0, done.stderr
    log = json.loads((tmp_path / "inspect" / "life.json").read_text())["log"]
    assert (log["users"], log["items"], log["events"]) == (published.NUM_USERS, published.NUM_ITEMS, len(EVENTS))
    done = run_module("prepare", *flags, f"--output={tmp_path}/prepared")
    assert done.returncode == 0 and f"{len(EVENTS):,} events" in done.stdout, done.stderr
    done = run_module("prepare", "--format=netflix", *flags[1:], f"--output={tmp_path}/prepared")
    assert done.returncode == 2 and "netflix" in done.stderr and "amazon_2023" in done.stderr


@pytest.mark.slow
def test_training_on_a_published_log_of_text_ids(tmp_path):
    files = published.lastfm_1k(tmp_path, EVENTS)
    small = ("--dim=8", "--num_heads=2", "--ff_dim=16", "--svd_dim=4", "--batch_size=64", "--history_folds=2")
    few = ("--epochs=1", "--interest_epochs=0", "--interest=paper", "--examples=snapshot", "--num_snapshots=2")
    flags = ("--format=lastfm_1k", *(f"--{name}={path}" for name, path in files.items()), "--window_days=14", *small)
    done = run_module("train", *flags, *few, "--cut=test", f"--data_dir={tmp_path}/tfds", f"--run_dir={tmp_path}/run")
    assert done.returncode == 0, done.stderr
    config = json.loads((tmp_path / "run" / "config.json").read_text())["data"]
    assert (config["format"], config["context"], config["item_column"]) == ("lastfm_1k", "artist", "track_id")


def test_a_value_that_no_published_file_holds_names_the_file_that_is_expected(tmp_path):
    path = tmp_path / "buys.csv"
    path.write_text("client,sku,bought at,shelf\ncl-1,SKU/3x,2024-02-23 04:38:24,aisle 4\n")
    with pytest.raises(UserError, match=r"are not times .* in row 1 \(--format=yoochoose expects yoochoose-clicks.dat"):
        read_event_log(with_format(DataConfig(), {"format": "yoochoose", "events": str(path)}))


@pytest.mark.parametrize(
    ("name", "target", "actions"),
    [
        ("taobao", "buy", ("buy", "cart", "fav", "pv")),
        ("tmall", "2", ("0", "1", "2", "3")),
        ("retailrocket", "addtocart", ("addtocart", "view")),
    ],
)
def test_actions_are_read_where_a_flag_asks_for_them(name, target, actions, tmp_path):
    plain, spec = read_spec(name, tmp_path), read_spec(name, tmp_path, target_actions=(target,))
    assert plain.action_column == "" and spec.action_column == FORMATS[name].action_column
    log = read_event_log(spec)
    assert log.actions.name == actions and 0 < log.is_target.sum() < log.num_events
    assert log.num_events >= read_event_log(plain).num_events
    assert log.counts.get("other_action", 0) == (2 if name == "taobao" else 0)  # rows of the wrong years alone
    output = str(tmp_path / "prepared")
    prepare_log(spec, output, 2, in_processes(1))
    stored = ShardedLog(output).read_whole()
    assert stored.actions == log.actions and stored.action.tolist() == log.action.tolist()
