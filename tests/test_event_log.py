"""A user's own tables: what they become, and what each mistake is answered."""

import datetime
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from longretriever_tf.common.errors import UserError
from longretriever_tf.config.config import DataConfig
from longretriever_tf.datasets import accounts
from longretriever_tf.datasets.event_log.source import read_event_log
from longretriever_tf.datasets.load import load_log
from longretriever_tf.datasets.preparation.run import in_processes, prepare_log
from longretriever_tf.datasets.splits import global_time_cuts

NOW = 1_700_000_000
EVENTS = {
    "user_id": [7, 7, 3, 7, 3],
    "item_id": [20, 10, 10, 20, 30],
    "timestamp": [500, 100, 300, 200, 100],
    "category": ["tea", "milk", "milk", "tea", None],
}


@pytest.fixture(params=["parquet", "csv", "csv.gz"])
def write(request, tmp_path):
    """Writes a table in each format; returns its path."""

    def write_table(columns, name="events"):
        path = str(tmp_path / f"{name}.{request.param}")
        frame = pd.DataFrame(columns)
        if request.param == "parquet":
            frame.to_parquet(path)
        else:
            frame.to_csv(path, index=False)
        return path

    return write_table


ROOT = Path(__file__).resolve().parent.parent


def read(events, **fields):
    return read_event_log(DataConfig(dataset="event_log", events=events, **fields), now=NOW)


def histories_of(log):
    """{user id: [(timestamp, item id)]}."""
    item = log.items.item_id[log.item_row].tolist()
    return {
        user: list(zip(log.timestamp[start:stop].tolist(), item[start:stop], strict=True))
        for user, start, stop in zip(log.user_id.tolist(), log.offset[:-1], log.offset[1:], strict=True)
    }


def test_events_alone(write):
    log = read(write(EVENTS))
    assert histories_of(log) == {3: [(100, 30), (300, 10)], 7: [(100, 10), (200, 20), (500, 20)]}
    assert log.items.item_id.tolist() == [10, 20, 30]
    assert log.items.features["category"].tolist() == ["milk", "tea", ""]
    assert log.items.name.tolist() == ["10", "20", "30"]
    assert log.user_id.dtype == log.items.item_id.dtype == np.int64
    assert log.basket_id.tolist() == [-1] * 5
    assert log.weight.tolist() == [1.0] * 5


def test_three_tables_with_baskets_and_weights(write):
    events = write(
        {
            "who": ["a", "a", "b", "a", "a"],
            "what": [2, 1, 2, 2, 3],
            "when": [90, 80, 70, 95, 10],
            "order": ["x", "x", "x", "x", None],
            "stars": [1, 2, 3, 4.5, 5],
        }
    )
    items = write(
        {
            "what": [3, 1, 2, 2, 9],
            "aisle": ["A", "B", "C", "C", "D"],
            "brand": [None, "5", "six", "six", "7"],
            "label": ["three", "one", None, "two", "nine"],
        },
        "items",
    )
    users = write({"who": ["b", "zed"], "age": ["old", "young"]}, "users")
    log = read(
        events,
        items=items,
        users=users,
        user_column="who",
        item_column="what",
        timestamp_column="when",
        basket_column="order",
        weight_column="stars",
        item_features=("brand",),
        item_name_column="label",
        user_features=("age",),
        context="aisle",
    )
    # "x" of a and "x" of b are two baskets; a's moves to 80 and holds item 2 once, its weights added
    assert histories_of(log) == {"a": [(10, 3), (80, 1), (80, 2)], "b": [(70, 2)]}
    assert log.weight.tolist() == [5.0, 2.0, 5.5, 3.0]
    assert log.basket_id[0] == -1
    assert log.basket_id[1] == log.basket_id[2] != log.basket_id[3] >= 0
    assert log.context == "aisle"
    assert log.items.item_id.tolist() == [1, 2, 3, 9]
    assert {name: column.tolist() for name, column in log.items.features.items()} == {
        "aisle": ["B", "C", "A", "D"],
        "brand": ["5", "six", "", "7"],
    }
    assert log.items.name.tolist() == ["one", "two", "three", "nine"]
    assert log.profile["age"].tolist() == ["", "old"]


def test_ids_that_only_look_like_numbers_stay_text(tmp_path):
    path = tmp_path / "events.csv"
    path.write_text("user_id,item_id,timestamp,category\n007,1,10,NA\n7,1,20,NA\n")
    log = read(str(path))
    assert log.user_id.tolist() == ["007", "7"]
    assert log.items.item_id.tolist() == [1]
    assert log.items.features["category"].tolist() == ["NA"]  # a value, not a hole


def test_ids_are_text_if_either_table_has_text(write):
    items = write({"item_id": ["10", "20", "30", "x"], "category": list("abcd")}, "items")
    log = read(write(EVENTS), items=items)
    assert histories_of(log)[3] == [(100, "30"), (300, "10")]


@pytest.mark.parametrize(
    "times",
    [
        ["1970-01-02 00:00:07", "1970-01-02T00:00:07Z", "1970-01-02T02:00:07+02:00", "1970-01-02T00:00:07.9"],
        ["86407"] * 4,
        [86407] * 4,
        [86407.5] * 4,
    ],
)
def test_times_mean_utc_seconds(write, times):
    log = read(write({"user_id": [1, 2, 3, 4], "item_id": [1] * 4, "timestamp": times, "category": ["a"] * 4}))
    assert log.timestamp.tolist() == [86407] * 4


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
@pytest.mark.parametrize("zone", [None, "Asia/Jakarta"])
def test_parquet_datetimes(tmp_path, unit, zone):
    times = pd.Series(pd.to_datetime(["1970-01-02 07:00:07"] * 2)).astype(f"datetime64[{unit}]").dt.tz_localize(zone)
    path = str(tmp_path / "events.parquet")
    pd.DataFrame({"user_id": [1, 2], "item_id": [1, 1], "timestamp": times, "category": ["a", "a"]}).to_parquet(path)
    seconds = 86407 + (7 * 3600 if zone is None else 0)
    assert read(path).timestamp.tolist() == [seconds] * 2


def changed(**columns):
    return {**EVENTS, **columns}


IN_FUTURE = NOW + 2 * 86400


@pytest.mark.parametrize(
    ("columns", "says"),
    [
        (
            {"user": [1], "item_id": [1], "timestamp": [1], "category": ["a"]},
            ["'user_id' (--user_column)", "columns present: user, item_id, timestamp, category"],
        ),
        (changed(timestamp=["500", "100", "soon", "200", "100"]), ["'timestamp'", "'soon' in row 3", "ISO 8601"]),
        (
            changed(timestamp=["2020-01-01", "2020-01-32", "", "2020-01-01", "2020-01-01"]),
            ["2 of 5", "'2020-01-32' in row 2"],
        ),
        (changed(timestamp=[500, -4, 300, 200, 100]), ["1 of 5", "before 1970", "-4 in row 2"]),
        (changed(timestamp=[10**9, 10**9, 0, 10**9, 0]), ["2 of 5", "missing time", "leave them out", "row 3"]),
        (changed(timestamp=[1_600_000_000_000] * 5), ["looks like milliseconds", "1600000000000 in row 1"]),
        (changed(timestamp=[500, IN_FUTURE, 300, IN_FUTURE + 1, 100]), ["2 of 5", "future", f"{IN_FUTURE} in row 2"]),
        (changed(timestamp=[20240131] * 5), ["YYYYMMDD", "20240131 in row 1"]),
        (changed(category=["tea", "milk", "milk", "coffee", "x"]), ["item_id 20", "'tea'", "'coffee'", "row 4"]),
        (changed(user_id=[7, None, 3, None, 3]), ["'user_id'", "2 of 5 rows have no id", "row 2"]),
        (changed(item_id=["a", "b", "", "a", "c"]), ["'item_id'", "1 of 5 rows", "row 3"]),
        ({name: [] for name in EVENTS}, ["no rows"]),
    ],
)
def test_mistakes_in_the_events(write, columns, says):
    path = write(columns)
    with pytest.raises(UserError) as error:
        read(path)
    message = re.sub(r"'(-?\d+)' in row", r"\1 in row", str(error.value))  # CSV numbers are shown as the text they are
    for text in [path, *says]:
        assert text in message


@pytest.mark.parametrize(("weights", "says"), [([1, 0, 1, 1, 1], "row 2"), ([1, 1, "much", 1, 1], "'much' in row 3")])
def test_weights_must_be_positive_numbers(tmp_path, weights, says):
    path = str(tmp_path / "events.csv")
    pd.DataFrame(changed(weight=weights)).to_csv(path, index=False)
    with pytest.raises(UserError, match=f"1 weights are not numbers above 0.*{says}"):
        read(path, weight_column="weight")


def test_items_table_with_two_contexts_for_an_item(write):
    items = write({"item_id": [10, 20, 30, 20], "category": ["a", "b", "c", "z"]}, "items")
    with pytest.raises(UserError, match=r"item_id 20 has two values, 'b' and 'z' \(row 4\)"):
        read(write(EVENTS), items=items)


def test_events_of_unknown_items_are_left_out_loudly(write, caplog):
    items = write({"item_id": [10, 30], "category": ["a", "b"]}, "items")
    log = read(write(EVENTS), items=items)
    assert histories_of(log) == {3: [(100, 30), (300, 10)], 7: [(100, 10)]}
    assert "2 of 5 events are left out" in caplog.text
    assert "(item 20, for one)" in caplog.text
    only = write({"item_id": [77], "category": ["a"]}, "items")
    with pytest.raises(UserError, match=r"none of the items.*\(item 20, for one\)"):
        read(write(EVENTS), items=only)


def hard_frame(size=401, seed=3):
    """Ties of all sorts: fractions of seconds, baskets, items twice, weights whose sums depend on their order."""
    rng = np.random.default_rng(seed)
    item = rng.integers(0, 9, size)
    return pd.DataFrame(
        {
            "user_id": [f"u{n}" for n in rng.integers(0, 5, size)],
            "item_id": item,
            "timestamp": 1_600_000_000 + rng.integers(0, 40, size) + rng.choice([0, 0.25, 0.5], size),
            "receipt": rng.choice(["1", "2", "3", None], size),
            "weight": rng.lognormal(0, 5, size),
            "category": [f"c{i % 3}" for i in item],
            "name": [f"item {i}{mark}" for i, mark in zip(item, rng.choice(["", " ", "!"], size), strict=True)],
        }
    )


@pytest.mark.parametrize(
    "fields", [{}, {"basket_column": "receipt"}, {"basket_column": "receipt", "weight_column": "weight"}]
)
def test_the_order_of_rows_and_files_never_counts(tmp_path, fields):
    frame = hard_frame()
    logs = []
    for seed in range(3):
        folder = tmp_path / str(seed)
        folder.mkdir()
        shuffled = frame.sample(frac=1, random_state=seed)
        for part, start in enumerate(range(0, len(frame), 150)):
            shuffled.iloc[start : start + 150].to_csv(folder / f"{part}.csv", index=False)
        logs.append(read(str(folder), item_name_column="name", **fields))
    for log in logs[1:]:
        assert log.counts == logs[0].counts
        assert log.items.name.tolist() == logs[0].items.name.tolist()
        for name in ("offset", "item_row", "timestamp", "basket_id", "weight"):
            assert getattr(log, name).tobytes() == getattr(logs[0], name).tobytes()


def test_what_lies_within_a_second_keeps_its_order_through_the_prepared_records(tmp_path):
    rng = np.random.default_rng(5)
    millisecond = np.sort(rng.choice(30_000, 600, replace=False))
    item = rng.permutation(600)
    frame = pd.DataFrame(
        {
            "user_id": 1,
            "item_id": item,
            "timestamp": pd.to_datetime(1_600_000_000_000 + millisecond, unit="ms"),
            "category": "x",
        }
    )
    frame.sample(frac=1, random_state=1).to_parquet(tmp_path / "events.parquet")
    config = DataConfig(dataset="event_log", events=str(tmp_path / "events.parquet"), data_dir=str(tmp_path / "tfds"))
    for _ in ("prepared", "read back"):
        log = load_log(config)
        assert log.items.item_id[log.item_row].tolist() == item.tolist()
        assert log.timestamp.tolist() == (1_600_000_000 + millisecond // 1000).tolist()


def test_columns_keep_their_order_in_a_process_that_reads_prepared_records(tmp_path):
    """By this order checkpoints hold the tables of the columns."""
    ids = [f"u{n}" for n in range(4)]
    columns = {name: ["a", "b", "a", "b"] for name in ("size", "brand", "maker", "colour", "aisle")}
    pd.DataFrame({"user_id": ids, "item_id": ["i1", "i2", "i3", "i1"], "timestamp": [5, 6, 7, 8]}).to_parquet(
        tmp_path / "events.parquet"
    )
    items = pd.DataFrame({"item_id": ["i1", "i2", "i3"], "category": "x", **{k: v[:3] for k, v in columns.items()}})
    items.to_parquet(tmp_path / "items.parquet")
    pd.DataFrame({"user_id": ids, **columns}).to_parquet(tmp_path / "users.parquet")
    fields = {name: str(tmp_path / f"{name}.parquet") for name in ("events", "items", "users")}
    fields |= {"item_features": tuple(columns), "user_features": tuple(columns), "data_dir": str(tmp_path / "tfds")}
    code = "from longretriever_tf.config.config import DataConfig\n"
    code += "from longretriever_tf.datasets.load import load_log\n"
    code += f"log = load_log(DataConfig(dataset='event_log', **{fields!r}))\n"
    code += "print(*log.items.features, *log.profile)"
    log = load_log(DataConfig(dataset="event_log", **fields))
    assert list(log.items.features) == ["category", *columns] and list(log.profile) == list(columns)
    read = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert read.stdout.splitlines()[-1].split() == [*log.items.features, *log.profile]


RECEIPTS = {  # receipt 1 of user a on three days, half an hour each; receipt 2 once; b's receipt 1 once
    "user_id": ["a"] * 7 + ["b"],
    "item_id": [1, 2, 1, 3, 1, 2, 4, 1],
    "timestamp": [1000, 2800, 90_000, 91_800, 9_000_000, 9_001_800, 500, 400],
    "category": ["x"] * 8,
    "receipt": [1, 1, 1, 1, 1, 1, 2, 1],
}


def test_receipt_numbers_that_restart_are_parted(write):
    path = write(RECEIPTS)
    log = read(path, basket_column="receipt")
    assert histories_of(log) == {
        "a": [(500, 4), (1000, 1), (1000, 2), (90_000, 1), (90_000, 3), (9_000_000, 1), (9_000_000, 2)],
        "b": [(400, 1)],
    }
    assert len(set(log.basket_id.tolist())) == 5
    counts = {name: log.counts[name] for name in ("baskets", "long_baskets", "cut_baskets", "longest_basket_s")}
    assert counts == {"baskets": 3, "long_baskets": 1, "cut_baskets": 3, "longest_basket_s": 9_000_800}
    assert (log.counts["same_basket"], log.counts["kept"]) == (0, 8)

    kept = read(path, basket_column="receipt", long_baskets="keep")
    assert histories_of(kept)["a"] == [(500, 4), (1000, 1), (1000, 2), (1000, 3)]
    assert (kept.counts["same_basket"], kept.counts["kept"]) == (3, 5)
    with pytest.raises(
        UserError,
        match=r"'receipt': 1 of 3 baskets span more than 24 hours, the longest 104 days: .*basket 1 of user_id 'a'",
    ):
        read(path, basket_column="receipt", long_baskets="refuse")
    assert "cut_baskets" not in read(path, basket_column="receipt", max_basket_hours=2501).counts


@pytest.mark.parametrize("column", [["same"] * 5, [None] * 5, list("vwxyz")])
def test_basket_columns_that_say_little(write, column):
    events = {**EVENTS, "timestamp": [500, 100, 300, 200, 100], "basket": column}
    log = read(write(events), basket_column="basket")
    assert log.num_events == log.counts["kept"] and accounts.adds_up(log.counts)
    if column[0] == "same":  # one basket of each user, within a day: one time
        assert histories_of(log) == {3: [(100, 10), (100, 30)], 7: [(100, 10), (100, 20)]}
    else:
        assert histories_of(log) == {3: [(100, 30), (300, 10)], 7: [(100, 10), (200, 20), (500, 20)]}


def test_every_row_is_accounted_for(write):
    frame = hard_frame()
    items = write({"item_id": [0, 1, 2, 3, 4, 77], "category": list("abcdef")}, "items")
    users = write({"user_id": ["u0", "u9"], "age": ["old", "young"]}, "users")
    events = write(
        {
            **frame.to_dict("list"),
            "user_id": ["gone" if i == 8 else u for i, u in zip(frame.item_id, frame.user_id, strict=True)],
        }
    )
    log = read(events, items=items, users=users, user_features=("age",), basket_column="receipt")
    counts = log.counts
    unknown = int((frame.item_id > 4).sum())
    known = frame[frame.item_id <= 4].assign(second=lambda f: f.timestamp.astype(int))
    loose = known[known.receipt.isna()]
    assert counts["rows"] == len(frame) and counts["unknown_item"] == unknown
    assert counts["same_second"] == len(loose) - len(loose.drop_duplicates(["user_id", "item_id", "second"]))
    in_basket = known[known.receipt.notna()]
    assert counts["same_basket"] == len(in_basket) - len(in_basket.drop_duplicates(["user_id", "item_id", "receipt"]))
    assert counts["kept"] == log.num_events
    assert counts["rows"] == sum(counts.get(name, 0) for name in ("unknown_item", "same_basket", "same_second", "kept"))
    assert (counts["users_left_out"], counts["users_without_events"]) == (1, 1)
    assert accounts.describe(counts).startswith(
        f"401 rows read = {unknown} left out, whose item is not in the items table + "
    )


def test_files_that_are_no_tables(tmp_path):
    with pytest.raises(UserError, match="--events=FILE"):
        read("")
    with pytest.raises(UserError, match=r"--events=nowhere.csv: no such file"):
        read("nowhere.csv")
    for name, text, says in [
        ("a.csv", "", "the file is empty"),
        ("a.parquet", "PAR?", "cannot be read"),
        ("a.xlsx", "x", r"expected .parquet, .csv"),
        ("b.csv", "user_id,item_id,timestamp,category\n1,2,3\n", "row 1 has 3 values instead of 4"),
    ]:
        path = tmp_path / name
        path.write_text(text)
        with pytest.raises(UserError, match=f"(?s){says}"):
            read(str(path))
    with pytest.raises(UserError, match="give both"):
        read("a.csv", users="users.csv")


def test_the_clock_bounds_the_future(tmp_path):
    path = str(tmp_path / "events.csv")
    soon = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(days=3)
    pd.DataFrame({**EVENTS, "timestamp": [soon.isoformat()] * 5}).to_csv(path, index=False)
    with pytest.raises(UserError, match="5 of 5 rows lie in the future"):
        read_event_log(DataConfig(dataset="event_log", events=path))


def test_foursquare_jakarta():
    path = Path(__file__).parents[2] / "shared/data/foursquare_jakarta/interactions.parquet"
    if not path.exists():
        pytest.skip(f"the optional real log {path.name} of Foursquare does not lie next to the repository")
    log = read(str(path), user_column="user", item_column="item")
    assert (log.num_users, len(log.items.item_id)) == (6206, 8826)
    assert log.num_events == 378_559 - 4_858  # less the exact duplicates
    assert len(set(log.items.features["category"])) == 312


@pytest.mark.parametrize("as_text", [False, True], ids=["int64", "text"])
def test_a_log_that_is_read_as_if_it_had_ended_earlier(tmp_path, as_text):
    """--skip_last_days: windows of one log that follow each other and share no event; nobody and nothing is lost."""
    random = np.random.default_rng(5)
    day = 86_400
    events = pd.DataFrame(
        {
            "user_id": random.integers(0, 9, 400),
            "item_id": random.integers(0, 30, 400),
            "timestamp": NOW - 300 * day + random.integers(0, 200 * day, 400),
            "category": "all",
        }
    )
    last = int(events["timestamp"].max())
    events.loc[0, "timestamp"] = last - 56 * day  # on the border: it is of the later window
    if as_text:
        events["user_id"] = "u" + events["user_id"].astype(str)
        events["item_id"] = "i" + events["item_id"].astype(str)
    path = str(tmp_path / "events.parquet")
    events.to_parquet(path)

    def load(days):
        config = DataConfig(dataset="event_log", events=path, data_dir=str(tmp_path), skip_last_days=days)
        return load_log(config)

    whole, cut = load(0.0), load(56.0)
    keep = whole.timestamp < last - 56 * day
    assert 0 < keep.sum() < whole.num_events and not keep[whole.timestamp == last - 56 * day].any()
    for name in ("item_row", "timestamp", "weight", "basket_id"):
        np.testing.assert_array_equal(getattr(cut, name), getattr(whole, name)[keep])
    np.testing.assert_array_equal(cut.event_user(), whole.event_user()[keep])
    np.testing.assert_array_equal(cut.user_id, whole.user_id)
    np.testing.assert_array_equal(cut.items.item_id, whole.items.item_id)
    assert accounts.adds_up(cut.counts) and cut.counts["last_days"] == whole.num_events - cut.num_events
    assert "in the days that --skip_last_days skips" in accounts.describe(cut.counts)
    windows = [global_time_cuts(log.timestamp, 28.0).window_of("test") for log in (whole, load(28.0), cut)]
    assert windows[1][1] <= windows[0][0] and windows[2][1] <= windows[1][0]
    with pytest.raises(UserError, match="--skip_last_days=400 leaves no event: the log spans"):
        load(400.0)


def test_a_prepared_log_skips_no_days(tmp_path):
    with pytest.raises(UserError, match="--skip_last_days=28 is of a log that is read from its tables"):
        load_log(DataConfig(data=str(tmp_path), skip_last_days=28.0))
    with pytest.raises(UserError, match="--skip_last_days=28: prepare writes the whole log"):
        prepare_log(DataConfig(skip_last_days=28.0), str(tmp_path / "out"), 1, in_processes(1))
    assert not (tmp_path / "out").exists()


def test_a_log_without_categories_is_told_how_to_make_some(write):
    """The error names what is there, and the flag that makes categories; the ids are text, as people's are."""
    path = write({"user_id": ["u1"], "item_id": ["i/1"], "timestamp": [100], "shelf": ["a"]})
    with pytest.raises(UserError) as caught:
        read(path)
    words = ("no column 'category' (--context)", "columns present: user_id, item_id, timestamp, shelf", "clusters:auto")
    assert all(word in str(caught.value) for word in words)
    with pytest.raises(UserError, match="no column 'when'") as caught:
        read(path, context="shelf", timestamp_column="when")
    assert "clusters" not in str(caught.value)
