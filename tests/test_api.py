"""The Python API: what README shows, on a tiny log of text ids; histories, exports and mistakes, in DataFrames."""

import dataclasses
import os
import pathlib
import shutil
import subprocess
import sys

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from command_server import run_command
from documents import ROOT, fences
from worlds import block_world

import longretriever_tf as lr
from longretriever_tf.common.locks import hold_lock
from longretriever_tf.config.config import Config, load_config, to_json
from longretriever_tf.datasets.frames import frame_path

SMALL = {
    "recipe": "compact",
    "num_snapshots": 3,
    "max_logits": 600,
    "batch_size": 32,
    "dim": 16,
    "num_heads": 2,
    "ff_dim": 32,
    "svd_dim": 8,
    "interest_epochs": 1,
}


@pytest.fixture(scope="module")
def frames() -> tuple[pd.DataFrame, pd.DataFrame]:
    """Events and items with text ids, in README's columns."""
    log = block_world(num_users=31, num_items=61, events_per_user=41)
    sku = np.array([f"sku-{item}" for item in log.items.item_id], object)
    events = pd.DataFrame(
        {
            "user_id": [f"u{user}" for user in np.repeat(log.user_id, np.diff(log.offset))],
            "item_id": sku[log.item_row],
            "timestamp": pd.to_datetime(log.timestamp, unit="s"),
            "till": 1,
        }
    )
    return events, pd.DataFrame({"item_id": sku, **log.items.features})


@pytest.fixture(scope="module")
def first(frames, tmp_path_factory) -> tuple[lr.Model, pathlib.Path, str]:
    """README's block as it stands, in a folder of its own; only sizes are added. The model, the folder, the output."""
    folder = tmp_path_factory.mktemp("readme")
    for name, frame in zip(("orders", "catalogue"), frames, strict=True):
        frame.to_parquet(folder / f"{name}.parquet")
    (block,) = [fence.text for fence in fences(ROOT / "README.md") if "lr.train(" in fence.text]
    block = block.replace("/data/", "").replace('run_dir="runs/first"', f'run_dir="runs/first", **{SMALL}')
    block = block.replace('.export("exports/first")', '.export("exports/first", check=False)')  # other tests replay
    code = f"{block}\nprint(repr(model))\n"
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, env=env, capture_output=True, text=True, timeout=1800
    )
    assert done.returncode == 0, done.stderr
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        yield lr.load("runs/first"), folder, done.stdout


@pytest.fixture(scope="module")
def export(first) -> lr.Model:
    return lr.load("exports/first")


def test_the_readme_block_trains_evaluates_recommends_and_exports(first, frames):
    model, folder, said = first
    assert "longretriever, as served" in said and "all recall@100" in said and "<longretriever, run runs/first>" in said
    assert (folder / "exports/first/1/saved_model.pb").exists() and model.run_dir == "runs/first"
    kept = pd.read_parquet(folder / frame_path("runs/first", "events"))
    assert list(kept) == ["user_id", "item_id", "timestamp"] and len(kept) == len(
        frames[0]
    )  # what no flag names is left
    assert load_config("runs/first").data.item_column == "item_id"


def test_tuned_baselines_leave_their_settings_with_the_run(first):
    model, folder, _ = first
    table = model.evaluate(baselines="all", max_users=5)
    assert {"EASE", "TIFU-kNN", "longretriever, as served"} <= set(table.index)
    assert (folder / "runs/first/baseline_settings.json").exists() and not (folder / "baseline_settings.json").exists()


def test_a_run_and_its_export_recommend_the_same(first, export, frames):
    model, _, _ = first
    assert (export.run_dir, export.export_dir) == ("", "exports/first")
    mine, theirs = (one.recommend("u1003", k=7) for one in (model, export))
    assert list(mine) == ["item_id", "category", "score", "interest_rank"] and len(mine) == 7
    assert mine.item_id.str.startswith("sku-").all()
    pd.testing.assert_frame_equal(mine, theirs, rtol=1e-4)
    interests = export.interests("u1003", num_interests=2, top_interests=4)
    assert len(interests) == 2 and interests.num_events.dtype == np.int64
    assert str(interests.last_event.dtype).startswith("datetime64")
    events, _ = frames
    seen = set(events.item_id[events.user_id == "u1003"])
    assert not set(export.recommend("u1003", goal="novel").item_id) & seen


def test_a_history_as_a_frame_is_read_as_the_log_is(export, frames):
    events, _ = frames
    history = events[events.user_id == "u1005"].sample(frac=1, random_state=1)  # in any order
    cut = pd.Timestamp(export._open().corpus.cut, unit="s")
    of_log = export.recommend("u1005", k=9)
    pd.testing.assert_frame_equal(of_log, export.recommend(history, k=9, as_of=cut))
    texts = history.assign(timestamp=history.timestamp.astype(str))[["item_id", "timestamp"]]
    pd.testing.assert_frame_equal(of_log, export.recommend(texts, k=9, as_of=str(cut)))
    later = export.recommend(history, k=9)  # as of its last event, after the cut
    assert later.score.tolist() != of_log.score.tolist()
    assert len(export.recommend(history.iloc[:0], k=3)) == 3  # a new user


def test_frames_are_written_once_and_another_log_is_refused(frames, tmp_path):
    events, items = frames
    run_dir = str(tmp_path / "run")
    config = lr.Config(events, items, run_dir=run_dir, **SMALL)
    assert repr(config).startswith("Config(events=<1,271 rows>, items=<61 rows>, dataset='event_log'")
    config.write_frames()
    before = os.stat(frame_path(run_dir, "events")).st_mtime_ns
    lr.Config(events.copy(), items, run_dir=run_dir).write_frames()
    assert os.stat(frame_path(run_dir, "events")).st_mtime_ns == before  # or the log would be read anew
    pq.write_table(pq.read_table(frame_path(run_dir, "items")), frame_path(run_dir, "items"), compression="gzip")
    lr.Config(events, items, run_dir=run_dir).write_frames()  # the same table, as another pyarrow may write it
    assert pq.read_metadata(frame_path(run_dir, "items")).row_group(0).column(0).compression == "GZIP"
    with hold_lock(run_dir, "busy"), pytest.raises(lr.UserError, match="in use by another training"):
        lr.Config(events[:1000], items, run_dir=run_dir).write_frames()
    shutil.copy(frame_path(run_dir, "items"), tmp_path / "items.parquet")
    (tmp_path / "run" / "config.json").write_text("{}")
    with pytest.raises(lr.UserError, match=r"whose events are others than this DataFrame of 1,000 rows.*load\("):
        lr.Config(events[:1000], items[:9], run_dir=run_dir).write_frames()
    kept = pathlib.Path(frame_path(run_dir, "items")).read_bytes()
    assert (
        kept == (tmp_path / "items.parquet").read_bytes()
        and os.stat(frame_path(run_dir, "events")).st_mtime_ns == before
    )


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"windw_days": 7}, ["windw_days=7", "no such setting", "window_days"]),
        ({"window_days": "7"}, ["window_days='7'", "a number"]),
        ({"epochs": 1.5}, ["epochs=1.5", "a whole number"]),
        ({"item_bias": 1}, ["item_bias=1", "True or False"]),
        ({"item_features": 3}, ["item_features=3", "a list of names"]),
        ({"run_dir": 3}, ["run_dir=3", "text"]),
        ({"dim": 7}, ["--dim=7", "--num_heads=4"]),
        ({"recipe": "best"}, ["recipe='best'", "compact"]),
        ({"replay_share": 0.5}, ["--replay_share=0.5", "with --warm_start"]),
        ({"warm_start": "runs/nowhere"}, ["runs/nowhere"]),
        ({"dataset": "complete_journey"}, ["dataset='complete_journey' with events"]),
        ({"users": 3}, ["users: expected a DataFrame", "int"]),
        (
            {"user_column": "shopper"},
            ["events: the DataFrame has no column 'shopper'", "user_column", "item_id, timestamp"],
        ),
        ({"item_features": ["colour"]}, ["items: the DataFrame has no column 'colour'", "item_features"]),
    ],
)
def test_a_wrong_setting_is_named_at_once(frames, settings, words):
    with pytest.raises(lr.UserError) as caught:
        lr.Config(*frames, **settings) if "users" not in settings else lr.Config(*frames, 3)
    assert all(word in str(caught.value) for word in words), caught.value


def test_an_update_has_the_settings_of_the_run_that_it_goes_on_from(frames, tmp_path):
    earlier = lr.Config(*frames, run_dir=str(tmp_path / "one"), dim=32, epochs=7, interest_epochs=5, window_days=3)
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "config.json").write_text(to_json(earlier.settings))
    update = lr.Config(frames[0], run_dir=str(tmp_path / "two"), warm_start=tmp_path / "one", interest_epochs=2)
    assert (update.settings.model.dim, update.settings.data.window_days) == (32, 3)
    assert (update.settings.train.epochs, update.settings.train.interest_epochs) == (1, 2)
    assert update.settings.data.events == frame_path(str(tmp_path / "two"), "events")
    assert update.settings.data.items == frame_path(str(tmp_path / "one"), "items")
    assert str(tmp_path / "two") in update.settings.data.data_dir
    anew = lr.Config(frames[0], recipe="compact", warm_start=tmp_path / "one", context="clusters:3")
    assert anew.settings.train.epochs == 1 and anew.settings.data.items == ""


def test_a_wrong_frame_is_named_at_once(frames):
    events, items = frames
    with pytest.raises(lr.UserError, match="items without events"):
        lr.Config(items=items)
    days = events.assign(timestamp=pd.to_datetime(events.timestamp, unit="s").dt.to_period("D"))
    with pytest.raises(lr.UserError, match="column 'timestamp': .* of type period.*to_timestamp"):
        lr.Config(days, items)
    with pytest.raises(lr.UserError, match="no column 'category', which context names; .*clusters:auto"):
        lr.Config(events)
    mixed = events.assign(item_id=[1, *events.item_id[1:]])
    for frame, words in (
        (events.set_index("user_id"), r"'user_id' is its index: give events.reset_index\(\)"),
        (events.iloc[:0], "events: the DataFrame has no rows"),
        (pd.concat([events, events[["item_id"]]], axis=1), "2 columns named 'item_id'"),
        (mixed, r"column 'item_id': .* one type \(they are int, str\); .*astype\(str\)"),
    ):
        with pytest.raises(lr.UserError, match=words):
            lr.Config(frame, items)
    with pytest.raises(lr.UserError, match="train takes a Config, not DataFrame"):
        lr.train(events)


def test_a_wrong_question_is_named(export, frames):
    events, _ = frames
    history = events[events.user_id == "u1003"]
    for ask, words in (
        (lambda: export.recommend("nobody"), r"user='nobody' is not in the log, which has 31 users \(u1000, "),
        (
            lambda: export.recommend("u1003", goals="novel"),
            "goals='novel': a request has no such option; it has k, num_int",
        ),
        (lambda: export.recommend("u1003", goal="old"), "`goal` must be one of all, novel"),
        (lambda: export.recommend("u1003", k=0), "k=0: expected 1 or more"),
        (lambda: export.recommend("u1003", k=1_000_000), "`k` must be at most 10000"),
        (lambda: export.recommend("u1003", as_of="soon"), "as_of='soon' is not a time"),
        (lambda: export.recommend("u1003", profile={"age": "3"}), "profile=.*the log knows"),
        (lambda: export.recommend(events), "history: the DataFrame holds 31 users in 'user_id'"),
        (lambda: export.recommend(history.drop(columns="item_id")), "history: the DataFrame has no column 'item_id'"),
        (lambda: export.recommend(history.assign(item_id=b"tea")), "history, column 'item_id': .* bytes, not text"),
        (lambda: export.recommend(history.assign(timestamp="soon")), "history, column 'timestamp': .* are not times"),
        (lambda: export.evaluate(), "'exports/first' is an export, which is evaluated with its run"),
        (lambda: export.export("exports/second"), "'exports/first' is an export already"),
        (lambda: lr.load("runs/first").evaluate(max_users=-1), "max_users=-1: expected a whole number"),
        (lambda: lr.load("runs/first").evaluate("train"), "split='train': expected one of validation, test"),
        (lambda: lr.load("runs"), "'runs' is neither a run directory nor an export"),
    ):
        with pytest.raises(lr.UserError, match=words):
            ask()


def test_a_run_of_the_commands_is_opened_and_one_of_the_api_by_commands(trained, first):
    rows = lr.load(trained.run_dir).evaluate(baselines="none", max_users=9)
    assert rows.index[0] == "longretriever, as served" and rows.index.name == "validation, 9 users"
    assert 0 < rows.loc["longretriever", "all recall@100"] <= 1
    model, folder, _ = first
    ask = ["-m", "longretriever_tf.recommend", "--export_dir=exports/first", "--user=u1003", "--k=1"]
    done = run_command(ask, folder, 600)
    assert done.returncode == 0, done.stderr
    assert model.recommend("u1003", k=1).item_id[0] in done.stdout.split("merged list")[1]


def test_the_package_is_cheap_to_import_and_keeps_its_names():
    code = """
import sys, longretriever_tf as lr
assert not {"tensorflow", "pandas", "numpy"} & set(sys.modules), "the package"
assert {"Config", "Model", "UserError", "load", "train"} <= set(dir(lr))
lr.Config, lr.UserError
assert "tensorflow" not in sys.modules, "its API"
import importlib
command = importlib.import_module("longretriever_tf.train")  # a command of that name
assert command.main and lr.train.__module__ == "longretriever_tf.api"
try:
    lr.trian
except AttributeError as error:
    assert "trian" in str(error)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr


def test_every_flag_is_an_argument_of_one_name():
    names = [setting.name for section in dataclasses.fields(Config) for setting in dataclasses.fields(section.type)]
    assert len(names) == len(set(names)) and "run_dir" in names
