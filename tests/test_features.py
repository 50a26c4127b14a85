"""Numbers of items and times of requests as features: how they are read, binned, stored and refused; ids are text.

`test_warm_start` has them in a run, its export, a refresh and an update.
"""

import dataclasses
import datetime
import pathlib

import numpy as np
import pandas as pd
import pytest
from trained import run_module
from worlds import START, make_log

from longretriever_tf.api.settings import Config as ApiConfig
from longretriever_tf.common.errors import UserError
from longretriever_tf.common.schema import DAY_S, FIRST_KNOWN
from longretriever_tf.common.text import as_text
from longretriever_tf.config.config import Config, DataConfig, ModelConfig, TrainConfig
from longretriever_tf.data.batches.in_context import BatchSource
from longretriever_tf.data.batches.prepared_data import prepare, prepare_examples
from longretriever_tf.data.corpus import load_corpus
from longretriever_tf.data.number_bins import name_bins
from longretriever_tf.data.window.build import build_window
from longretriever_tf.datasets.load import load_log, open_sharded_log
from longretriever_tf.datasets.log_identity import identify_log, identify_shards
from longretriever_tf.inspect_log import inspect_log

ITEMS = 30


def write_tables(directory: pathlib.Path, **columns) -> DataConfig:
    """Events of 20 users over 120 days, and an items table with these columns; text ids."""
    rng = np.random.default_rng(3)
    ids = np.array([f"sku é{i:02d}" for i in range(ITEMS)])
    user = np.repeat(np.arange(20), 40)
    events = pd.DataFrame({"user_id": [f"u{u:02d}" for u in user], "item_id": ids[rng.integers(0, ITEMS, len(user))]})
    events["timestamp"] = START + rng.integers(0, 120 * DAY_S, len(user))
    events.to_csv(directory / "events.csv", index=False)
    items = pd.DataFrame({"item_id": ids, "category": [f"c{i % 3}" for i in range(ITEMS)], **columns})
    items.to_csv(directory / "items.csv", index=False)
    paths = {"events": f"{directory}/events.csv", "items": f"{directory}/items.csv", "data_dir": f"{directory}/tfds"}
    return DataConfig(dataset="event_log", **paths, numeric_features=("price",), numeric_bins=4, window_days=14.0)


def price(i: int) -> str:
    """A number in one of many spellings; none for every tenth item."""
    return ["", f"{i}", f"{i}.0", f"{i}e0", "nan"][0 if i % 10 == 0 else 4 if i == 11 else 1 + i % 3]


def test_a_log_in_memory_and_in_shards_have_the_same_numbers_and_bins(tmp_path):
    spec = write_tables(tmp_path, price=[price(i) for i in range(ITEMS)])
    log = load_log(spec)
    expected = [np.nan if i % 10 == 0 or i == 11 else float(i) for i in range(ITEMS)]
    np.testing.assert_array_equal(log.items.numbers["price"], expected)
    assert list(log.items.features) == ["category"]
    tables = (f"--events={spec.events}", f"--items={spec.items}", "--numeric_features=price", "--dataset=event_log")
    done = run_module("prepare", *tables, f"--output={tmp_path}/log", "--num_shards=2")
    assert done.returncode == 0, done.stderr
    data = DataConfig(data=f"{tmp_path}/log", window_days=14.0, numeric_bins=4)
    sharded = open_sharded_log(data)
    assert identify_log(log, spec).fingerprint == identify_shards(sharded).fingerprint
    changed = dataclasses.replace(log.items, numbers={"price": log.items.numbers["price"] * 2})
    assert identify_log(dataclasses.replace(log, items=changed), spec).fingerprint != sharded.manifest.fingerprint
    on_disk, other = (build_window(Config(dataclasses.replace(data, numeric_bins=bins)), sharded, 1) for bins in (4, 3))
    corpus = load_corpus(on_disk.path("corpus.npz"))
    memory = prepare(Config(spec), log, corpus.cut).corpus
    np.testing.assert_array_equal(memory.item_feature, corpus.item_feature)
    assert memory.feature_edges["price"].tolist() == corpus.feature_edges["price"].tolist()
    assert memory.feature_values["price"].tolist() == corpus.feature_values["price"].tolist()
    assert len(corpus.feature_edges["price"]) == 3
    assert other.key != on_disk.key and len(load_corpus(other.path("corpus.npz")).feature_edges["price"]) == 2
    with pytest.raises(UserError, match=f"--numeric_features=weight: --data={tmp_path}/log was prepared with --num"):
        open_sharded_log(dataclasses.replace(data, numeric_features=("weight",)))


@pytest.mark.parametrize(
    "columns, words",
    [
        (
            {3: "cheap"},
            "column 'price': 1 of 30 values are no finite numbers, the first is 'cheap' in row 4; --numeric",
        ),
        ({3: "inf", 5: "1,5"}, "column 'price': 2 of 30 values are no finite numbers, the first is 'inf' in row 4"),
        (dict.fromkeys(range(ITEMS), ""), "none of the 30 items with an event before the training cut has a number"),
    ],
)
def test_what_is_no_number_is_named(tmp_path, columns, words):
    spec = write_tables(tmp_path, price=[columns.get(i, str(i)) for i in range(ITEMS)])
    with pytest.raises(UserError, match=words):
        prepare(Config(spec), load_log(spec), START + 90 * DAY_S)


def test_two_prices_of_an_item_are_named_unless_they_are_one_number(tmp_path):
    spec = write_tables(tmp_path, price=[str(i) for i in range(ITEMS)])
    events = pd.read_csv(spec.events)
    events["category"], events["price"] = "c", "7"
    events.loc[1, "price"] = "7.0"
    events.to_csv(spec.events, index=False)
    spec = dataclasses.replace(spec, items="")
    assert set(load_log(spec).items.numbers["price"].tolist()) == {7.0}
    item = events.item_id[1]
    events.loc[1, "price"] = "8"
    events.to_csv(spec.events, index=False)
    with pytest.raises(UserError, match=f"column 'price': item_id '{item}' has two values, '7.0' and '8.0'|'8.0' and"):
        load_log(spec)


def test_a_constant_column_is_one_bin_and_a_warning(tmp_path, caplog):
    spec = write_tables(tmp_path, price=["3"] * ITEMS)
    corpus = prepare(Config(spec), load_log(spec), START + 90 * DAY_S).corpus
    assert corpus.feature_values["price"][FIRST_KNOWN:].tolist() == ["any number"]
    assert "all items have the number 3.0, which tells nothing of them" in caplog.text


def test_an_edge_belongs_to_the_bin_above_it():
    names = name_bins(np.array([-1e300, 1.5, np.nan, 2.0, 1e300]), np.array([1.5, 2.0]))
    assert names.tolist() == ["below 1.5", "1.5 to 2.0", "", "from 2.0", "from 2.0"]


@pytest.mark.parametrize(
    "data, model, words",
    [
        ({"item_features": ("price",)}, {}, "--numeric_features=price is named by --item_features too: a column is a"),
        ({"context": "price"}, {}, "--numeric_features=price is named by --context too"),
        ({"dataset": "complete_journey"}, {}, "--numeric_features=price names columns of your own tables"),
        ({"numeric_bins": 1}, {}, "--numeric_bins=1: expected at least 2"),
        ({}, {"request_features": ("hour", "moon")}, "--request_features=hour,moon: expected hour, weekday or both, "),
        ({}, {"request_features": ("hour", "hour")}, "each once, not 'hour'"),
        ({}, {"timezone_offset_hours": 2.0}, "--timezone_offset_hours=2 is read with --request_features alone"),
        ({}, {"request_features": ("hour",), "model": "mind"}, "is not read by --model=mind but by longretriever"),
    ],
)
def test_settings_that_cannot_be_are_named(data, model, words):
    with pytest.raises(UserError, match=words):
        Config(
            DataConfig(**{"dataset": "event_log", "events": "e", "numeric_features": ("price",), **data}),
            ModelConfig(**model),
        )


def test_data_frames_and_the_report_have_the_numbers(tmp_path):
    spec = write_tables(
        tmp_path,
        price=[price(i) for i in range(ITEMS)],
        depth=np.arange(ITEMS) / 7,
        shelf=np.arange(ITEMS) % 4,
        colour=["red"] * ITEMS,
    )
    tables = (f"--events={spec.events}", f"--items={spec.items}", "--numeric_features=price", "--numeric_bins=4")
    flags = ("--dataset=event_log", *tables, f"--data_dir={tmp_path}/tfds", "--window_days=14", "--noplots")
    done = run_module("inspect_log", *flags, f"--output={tmp_path}/out")
    assert done.returncode == 0, done.stderr
    numbers = done.stdout.partition("NUMBERS")[2]
    lines = [line.split() for line in numbers.splitlines()]
    assert ["price", "26", "13%", "1", "7.25", "15.5", "22.75", "29"] in lines, numbers
    for line in ("price: read, in 4 bins", "depth: --numeric_features=depth", "shelf: --item_features=shelf"):
        assert line in numbers
    assert "colour" not in numbers
    events, items = pd.read_csv(spec.events), pd.read_csv(spec.items)
    config = ApiConfig(events, items, numeric_features=["price"], run_dir=f"{tmp_path}/run")
    assert config._tables["items"].column_names == ["price", "category", "item_id"]
    with pytest.raises(UserError, match="items: the DataFrame has no column 'weight', which numeric_features names"):
        ApiConfig(events, items, numeric_features=["weight"], run_dir=f"{tmp_path}/run")


def test_the_report_says_where_times_have_no_hour():
    log = make_log([1, 1, 2], [1, 2, 1], [DAY_S, 100 * DAY_S, 50 * DAY_S], {"category": ["a", "b"]})
    for days, features in ((True, ("hour",)), (False, ("hour",)), (True, ("weekday",))):
        config = Config(model=ModelConfig(request_features=features))
        report = inspect_log(log if days else dataclasses.replace(log, timestamp=log.timestamp + 7), config)
        assert ("--request_features=hour is the same for all" in report.text) == (days and features == ("hour",))


@pytest.mark.parametrize("kind", ["event", "snapshot"])
def test_examples_have_the_local_time_of_their_event_or_snapshot(kind):
    rng = np.random.default_rng(1)
    user, item = np.repeat(np.arange(20), 30), rng.integers(0, 12, 600)
    ids = as_text(f"i{i}" for i in range(12))
    times = START + rng.integers(0, 60 * DAY_S, 600)
    log = make_log(as_text(f"u{u}" for u in user), ids[item], times, {"category": ["a", "b"] * 6}, item_id=ids)
    features, hours = ("weekday", "hour"), -3.5
    model = ModelConfig(request_features=features, timezone_offset_hours=hours, svd_dim=0, user_context=False)
    train = TrainConfig(examples=kind, snapshot_every_days=3, num_snapshots=9, horizon_days=7)
    config = Config(model=model, train=train)
    prepared = prepare(config, log, START + 60 * DAY_S)
    source = BatchSource(config, prepared, prepare_examples(config, prepared)[0])
    plan, zone = source.plan(0), datetime.timezone(datetime.timedelta(hours=hours))
    seen = set()
    for number, batch in enumerate(source.make_dataset(0)):
        rows = plan.rows[plan.start[number] : plan.stop[number]]
        local = [datetime.datetime.fromtimestamp(time, zone) for time in source.examples.time[rows].tolist()]
        expected = [[one.weekday() + FIRST_KNOWN, one.hour + FIRST_KNOWN] for one in local]
        assert batch.profile.numpy().tolist() == expected
        seen |= set(map(tuple, expected))
    assert len(seen) > (100 if kind == "event" else 3)
