"""What tables may lie in (files, directories, globs, partitions, stores, text of all sorts), and what is refused."""

import bz2
import datetime
import decimal
import gzip
import os
import re
import uuid

import fsspec
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.feather as feather
import pyarrow.parquet as pq
import pytest

from longretriever_tf.common.errors import UserError
from longretriever_tf.config.config import Config, DataConfig
from longretriever_tf.datasets.event_log import delimited
from longretriever_tf.datasets.event_log.source import read_event_log
from longretriever_tf.datasets.load import load_log

NOW = 1_700_000_000
HEADER = "user_id,item_id,timestamp,category\n"
ROWS = "u1,i1,1600000000,tea\nu1,i2,1600000100,milk\nu2,i1,1600000200,tea\n"
FRAME = pd.DataFrame(
    {
        "user_id": ["u1", "u1", "u2"],
        "item_id": ["i1", "i2", "i1"],
        "timestamp": [1_600_000_000, 1_600_000_100, 1_600_000_200],
        "category": ["tea", "milk", "tea"],
    }
)


def read(path, **fields):
    return read_event_log(DataConfig(dataset="event_log", events=str(path), **fields), now=NOW)


def content(log):
    """All that a log holds, as plain values."""
    features = {name: column.tolist() for name, column in log.items.features.items()}
    arrays = (log.user_id, log.items.item_id, log.offset, log.item_row, log.timestamp, log.basket_id, log.weight)
    return {"features": features, "names": log.items.name.tolist(), "arrays": [array.tolist() for array in arrays]}


@pytest.fixture
def expected(tmp_path):
    """The log of `FRAME`, from the plainest file."""
    (tmp_path / "plain.csv").write_text(HEADER + ROWS)
    return content(read(tmp_path / "plain.csv"))


def test_the_plain_file_is_what_it_says(expected):
    assert expected["arrays"][:2] == [["u1", "u2"], ["i1", "i2"]]
    assert expected["features"] == {"category": ["tea", "milk"]}


TEXTS = {
    "events.tsv": ((HEADER + ROWS).replace(",", "\t").encode(), {}),
    "events.txt": ((HEADER + ROWS).replace(",", "|").encode(), {}),
    "semicolons.csv": ((HEADER + ROWS).replace(",", ";").encode(), {"delimiter": ";"}),
    "tabs": ((HEADER + ROWS).replace(",", "\t").encode(), {"delimiter": "\\t"}),
    "double.dat": ((HEADER + ROWS).replace(",", "::").encode(), {}),
    "sections.csv": ((HEADER + ROWS).replace(",", "§").encode(), {"delimiter": "§"}),
    "headless.dat": (ROWS.replace(",", "::").encode(), {"column_names": tuple(HEADER.strip().split(","))}),
    "marked.csv": (b"\xef\xbb\xbf" + (HEADER + ROWS).encode(), {}),
    "spaced.csv": ((HEADER.replace(",", " , ") + ROWS).encode(), {}),
    "windows.csv": ((HEADER + ROWS).replace("\n", "\r\n").encode(), {}),
    "utf16.csv": ((HEADER + ROWS).encode("utf-16"), {"encoding": "utf-16"}),
    "packed.csv.gz": (gzip.compress((HEADER + ROWS).encode()), {}),
    "twice.csv.gz": (gzip.compress(HEADER.encode()) + gzip.compress(ROWS.encode()), {}),
    "packed.tsv.bz2": (bz2.compress((HEADER + ROWS).replace(",", "\t").encode()), {}),
    "packed.csv.zst": (pa.compress((HEADER + ROWS).encode(), "zstd", asbytes=True), {}),
    "packed_but_not_named_so.csv": (gzip.compress((HEADER + ROWS).encode()), {}),
    "lines.jsonl": (FRAME.to_json(orient="records", lines=True).encode(), {}),
    "another_column_twice.csv": (
        "".join(f"{line},1,2\n" for line in (HEADER + ROWS).split()).replace(",1,2", ",x,x", 1).encode(),
        {},
    ),
}


@pytest.mark.parametrize("name", TEXTS)
def test_text_of_all_sorts(tmp_path, expected, name):
    data, fields = TEXTS[name]
    (tmp_path / name).write_bytes(data)
    assert content(read(tmp_path / name, **fields)) == expected


def test_arrow_files(tmp_path, expected):
    feather.write_feather(pa.Table.from_pandas(FRAME), str(tmp_path / "a.feather"))
    with pa.ipc.new_stream(str(tmp_path / "b.arrow"), pa.Table.from_pandas(FRAME).schema) as stream:
        stream.write_table(pa.Table.from_pandas(FRAME))
    FRAME.to_parquet(tmp_path / "parquet_without_an_ending")
    for name in ("a.feather", "b.arrow", "parquet_without_an_ending"):
        assert content(read(tmp_path / name)) == expected


def test_delimiters_of_several_characters_are_found_wherever_a_chunk_ends(tmp_path, monkeypatch):
    monkeypatch.setattr(delimited, "_CHUNK", 7)
    path = tmp_path / "events.dat"
    path.write_text("".join(f"u{n % 7}::{'i' * (n % 5)}{n % 3}:x::{NOW - n}::c{n % 3}:\n" for n in range(200)))
    frame = pd.read_csv(path, sep="::", engine="python", names=HEADER.strip().split(","))
    log = read(path, column_names=tuple(frame.columns), context="item_id")
    assert log.num_events == 200
    assert log.items.item_id.tolist() == sorted(frame.item_id.unique())


def test_what_spark_writes(tmp_path, expected):
    for kind in ("parquet", "csv"):
        folder = tmp_path / kind
        (folder / "_delta_log").mkdir(parents=True)
        (folder / "_delta_log" / "0.json").write_text("{}")
        (folder / "_SUCCESS").touch()
        (folder / ".part-0.crc").write_bytes(b"crc")
        for part in range(3):
            rows = FRAME.iloc[2 - part : 3 - part]
            if kind == "parquet":
                rows.to_parquet(folder / f"part-{part:05d}-c000.snappy.parquet")
            else:
                rows.to_csv(folder / f"part-{part:05d}.csv", index=False)
        if kind == "csv":
            (folder / "part-00003.csv").touch()  # of an empty partition
        for path in (folder, f"{folder}/", f"{folder}/part-*.{kind}", f"{tmp_path}/{kind}/*"):
            assert content(read(path)) == expected
        assert read(f"{folder}/part-0000[01]*").counts["rows"] == 2


def test_a_hive_partitioned_tree(tmp_path):
    for day, category in (("2020-09-13", "tea"), ("2020-09-14", "sweet%2Fsour"), ("x", "__HIVE_DEFAULT_PARTITION__")):
        folder = tmp_path / f"day={day}" / f"category={category}"
        folder.mkdir(parents=True)
        rows = FRAME.drop(columns="category").assign(item_id=FRAME.item_id + day)
        rows.to_parquet(folder / "part.parquet")
    log = read(tmp_path, item_features=("day",))
    assert log.counts["rows"] == 9
    of = dict(zip(log.items.item_id.tolist(), log.items.features["category"].tolist(), strict=True))
    assert (of["i12020-09-13"], of["i22020-09-14"], of["i1x"]) == ("tea", "sweet/sour", "")
    assert sorted(set(log.items.features["day"].tolist())) == ["2020-09-13", "2020-09-14", "x"]
    assert read(f"{tmp_path}/day=2020-09-1*").counts["rows"] == 6
    FRAME.assign(timestamp="soon").to_parquet(tmp_path / "day=x" / "part.parquet")
    FRAME.assign(timestamp="2020-09-13").to_parquet(tmp_path / "day=2020-09-13" / "part.parquet")
    with pytest.raises(UserError, match=r"'soon' in row 1 of day=x/part\.parquet"):
        read(f"{tmp_path}/*/*.parquet")


def test_stores_by_url(tmp_path, expected):
    FRAME.to_parquet(tmp_path / "events.parquet")
    with fsspec.open("memory://test_tables/events.csv", "w") as file:
        file.write(HEADER + ROWS)
    urls = (f"file://{tmp_path}/events.parquet", "memory://test_tables/events.csv", "memory://test_tables/*.csv")
    for url in (*urls, "memory://test_tables"):
        assert content(read(url)) == expected
    config = DataConfig(dataset="event_log", events="memory://test_tables", data_dir=str(tmp_path / "tfds"))
    assert load_log(config).num_events == 3


def test_a_directory_is_prepared_anew_when_a_part_changes_or_joins(tmp_path):
    folder = tmp_path / "parts"
    folder.mkdir()
    config = DataConfig(dataset="event_log", events=str(folder), data_dir=str(tmp_path / "tfds"))
    (folder / "a.csv").write_text(HEADER + ROWS)
    assert load_log(config).num_events == 3
    (folder / "b.csv").write_text(HEADER + ROWS.replace("u1", "u3"))
    assert load_log(config).counts == {"rows": 6, "same_basket": 0, "same_second": 1, "kept": 5}
    (folder / "b.csv").write_text(HEADER + "u3,i1,1600000007,tea\n")
    assert load_log(config).num_events == load_log(config).counts["kept"] == 4


MISTAKES = {
    "latin.csv": ((HEADER + ROWS.replace("u2,i1", "u2,thé")).encode("latin-1"), r"row 3 .*'item_id'.*--encoding="),
    "utf16.csv": ((HEADER + ROWS).encode("utf-16"), "UTF-16.*--encoding=utf-16"),
    "no_mark.csv": ((HEADER + ROWS).encode("utf-16-le"), "line 1 holds a zero byte"),
    "zero.csv": ((HEADER + ROWS + "u3,\0,1600000000,x\n").encode(), "line 5 holds a zero byte"),
    "empty.csv": (b"", "the file is empty"),
    "blank.csv": (b"\n\n", "the file is empty"),
    "header.csv": (HEADER.encode(), "no rows"),
    "header_alone.csv": (HEADER.strip().encode(), "no rows"),
    "short.csv": ((HEADER + ROWS + "u4,i1,5\n").encode(), "row 4 has 3 values instead of 4"),
    "long.csv": ((HEADER + "u4,i1,5,x,y\n" + ROWS).encode(), "row 1 has 5 values instead of 4"),
    "twice.csv": (b"user_id,item_id,timestamp,category,category\nu,i,1,a,a\n", "'category' .*is there 2 times"),
    "other.csv": ((HEADER + ROWS).replace(",", ";").encode(), "is the delimiter ';'"),
    "open_to_the_end.csv": ((HEADER + ROWS + 'u3,i1,7,"tea\n' + ROWS).encode(), "row 4 holds a quote"),
    "open_inside.csv": ((HEADER + ROWS + 'u3,"i1,7,tea\n' + ROWS + 'u3,"i4",7,tea\n').encode(), "row 4 holds a quote"),
    "open_till_another.csv": (
        (HEADER + ROWS + 'u3,i1,7,"tea\n' + ROWS + 'u4,i1,7,tea"\n' + ROWS).encode(),
        "row 4 .*look like rows of their own",
    ),
    "half.csv.gz": (gzip.compress((HEADER + ROWS * 999).encode())[:-9], "cannot be read: Truncated"),
    "none.csv.gz": ((HEADER + ROWS).encode(), "cannot be read"),
    "void.csv.gz": (gzip.compress(b""), "the file is empty"),
    "packed.csv.xz": (b"\xfd7zXZ", "expected .parquet, .csv.*--delimiter"),
    "list.json": (b'[{"user_id": 1}]', "cannot be read: JSON"),
    "words.txt": (b"words\nwithout\n", "none of the usual delimiters"),
    "no.parquet": (b"this is no parquet file", "cannot be read: Parquet magic"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_text_that_cannot_be_read_is_one_line(tmp_path, name):
    data, says = MISTAKES[name]
    (tmp_path / name).write_bytes(data)
    with pytest.raises(UserError) as error:
        read(tmp_path / name)
    assert re.search(says, str(error.value)) and name in str(error.value) and "\n" not in str(error.value)


def test_values_of_several_lines_and_plain_quotes(tmp_path):
    path = tmp_path / "events.csv"
    path.write_text(HEADER + ROWS + 'u3,i3,7,"two lines,\nwith, commas\n"\nu3,i4,8,"say ""hi"""\n')
    log = read(path)
    assert log.items.features["category"].tolist()[2:] == ["two lines,\nwith, commas\n", 'say "hi"']
    path.write_text(HEADER + 'u3,i3,7,"Weird Al" Yankovic\nu3,i4,8,5" pipe\n')
    with pytest.raises(UserError, match="row 1 holds a quote.*--noquotes"):
        read(path)
    assert read(path, quotes=False).items.features["category"].tolist() == ['"Weird Al" Yankovic', '5" pipe']


def typed(**columns):
    return pa.table({name: columns.get(name, FRAME[name]) for name in FRAME})


BYTES = [b"0123456789abcdef"] * 3
TYPES = {
    "list": ({"category": [["a"]] * 3}, "'category': .*list.*one plain value per row"),
    "struct": ({"category": [{"a": 1}] * 3}, "'category': .*struct"),
    "map": ({"category": pa.array([[("a", 1)]] * 3, pa.map_(pa.string(), pa.int64()))}, "'category': .*map"),
    "binary": ({"item_id": pa.array(BYTES)}, "'item_id': .*binary: bytes, not text"),
    "fixed": ({"item_id": pa.array(BYTES, pa.binary(16))}, r"'item_id': .*binary\[16\]: bytes, not text"),
    "clock": ({"timestamp": pa.array([1] * 3, pa.time32("s"))}, "'timestamp': .*time of day without its date"),
    "length": ({"timestamp": pa.array([1] * 3, pa.duration("s"))}, "'timestamp': .*duration"),
    "time": ({"user_id": pa.array([1] * 3, pa.timestamp("s"))}, "'user_id': .*a time is no id"),
    "zero": ({"item_id": ["a", "b\0c", "d"]}, r"'item_id': 'b.x00c' in row 2 holds a zero byte"),
    "broken": (
        {
            "category": pa.Array.from_buffers(
                pa.string(), 3, pa.array(["a"] * 3).buffers()[:2] + [pa.py_buffer(b"a\xe9b")]
            )
        },
        "'category': holds bytes that are not UTF-8",
    ),
    "bool": ({"timestamp": [True] * 3}, "'timestamp': 3 of 3 rows are not times"),
    "missing": ({"item_id": pa.nulls(3)}, "'item_id': 3 of 3 rows have no id"),
    "infinite": (
        {"timestamp": [1.0, float("inf"), float("nan")]},
        "'timestamp': 2 of 3 rows are not times.*inf in row 2",
    ),
    "rounded": ({"item_id": [1e17, 2.0, 3.0]}, "'item_id': 1e.17 is a float.*digits are lost"),
}


@pytest.mark.parametrize("name", TYPES)
def test_types_that_have_no_place_are_refused_by_name(tmp_path, name):
    columns, says = TYPES[name]
    pq.write_table(typed(**columns), tmp_path / f"{name}.parquet")
    with pytest.raises(UserError, match=says) as error:
        read(tmp_path / f"{name}.parquet")
    assert "\n" not in str(error.value) and f"{name}.parquet" in str(error.value)


def test_parquet_with_a_column_twice_or_broken_anywhere(tmp_path):
    path = tmp_path / "events.parquet"
    columns = [*(pa.array(FRAME[name]) for name in FRAME), pa.array(["x"] * 3)]
    pq.write_table(pa.Table.from_arrays(columns, names=[*FRAME, "category"]), path)
    with pytest.raises(UserError, match=r"'category' \(--context\) is there 2 times"):
        read(path)
    pq.write_table(pa.Table.from_arrays(columns, names=["\ufeffuser_id", "item_id ", *FRAME.columns[2:], "x"]), path)
    assert read(path).num_events == 3
    whole = path.read_bytes()
    for cut in (3, len(whole) // 2, len(whole) - 3):
        path.write_bytes(whole[:cut])
        with pytest.raises(UserError, match="cannot be read") as error:
            read(path)
        assert "\n" not in str(error.value)
    path.write_bytes(whole[:8] + b"\xff" * 50 + whole[58:])
    with pytest.raises(UserError, match="cannot be read"):
        read(path)


def test_places_without_a_table(tmp_path, monkeypatch):
    os.mkfifo(tmp_path / "pipe.csv")
    (tmp_path / "loop.csv").symlink_to("loop.csv")
    (tmp_path / "gone.csv").symlink_to("nowhere.csv")
    (tmp_path / "void").mkdir()
    (tmp_path / "hidden").mkdir()
    (tmp_path / "hidden" / "_SUCCESS").touch()
    (tmp_path / "zero").mkdir()
    (tmp_path / "zero" / "a.csv").touch()
    for name, says in {
        "pipe.csv": "pipe",
        "loop.csv": "symbolic links",
        "gone.csv": "no such file",
        "void": "holds no data files",
        "hidden": "holds no data files",
        "zero": "all its files are empty",
        "*.parquet": "no file matches",
    }.items():
        with pytest.raises(UserError, match=says):
            read(tmp_path / name)
    for url, says in {
        "s3://shop/x.csv": "package for this store is not installed.*s3fs",
        "shop://x.csv": "shop",
        "memory://nowhere.csv": "no such file",
    }.items():
        with pytest.raises(UserError, match=says) as error:
            read(url)
        assert "\n" not in str(error.value)
    (tmp_path / "shut.csv").write_text(HEADER + ROWS)

    def refuse(*args, **kwargs):
        raise PermissionError(13, "Permission denied", "shut.csv")

    monkeypatch.setattr("fsspec.implementations.local.LocalFileSystem.open", refuse)  # root may read everything
    with pytest.raises(UserError, match="no permission to read"):
        read(tmp_path / "shut.csv")


def test_movielens_as_grouplens_writes_it(tmp_path):
    (tmp_path / "ratings.dat").write_text("1::1193::5::978300760\n2::661::3::978302109\n1::661::4::978300761\n")
    (tmp_path / "movies.dat").write_bytes(
        '661::"Great Performances" Cats (1998)::Musical\n1193::Misérables, Les (1995)::Drama|Musical\n'.encode(
            "latin-1"
        )
    )
    log = read(
        tmp_path / "ratings.dat",
        column_names=("user_id", "item_id", "rating", "timestamp"),
        items=str(tmp_path / "movies.dat"),
        items_column_names=("item_id", "title", "category"),
        item_name_column="title",
        encoding="latin-1",
    )
    assert log.items.name.tolist() == ['"Great Performances" Cats (1998)', "Misérables, Les (1995)"]
    assert log.items.item_id[log.item_row].tolist() == [1193, 661, 661]
    with pytest.raises(UserError, match="row 1 has 4 values instead of 3"):
        read(tmp_path / "ratings.dat", column_names=("user_id", "item_id", "timestamp"), context="item_id")
    for encoding in ("klingon", "base64"):
        with pytest.raises(UserError, match=f"--encoding={encoding}: no encoding"):
            read(tmp_path / "ratings.dat", encoding=encoding)
    with pytest.raises(UserError, match="--delimiter"):
        Config(data=DataConfig(delimiter="\n"))


def test_a_file_of_a_directory_is_named_with_its_row(tmp_path):
    (tmp_path / "a.csv").write_text(HEADER + ROWS)
    for text, says in {
        "user_id,item_id,timestamp,category\nu7,i1,5,tea\nu7,i1,soon,tea\n": r"'soon' in row 2 of b\.csv",
        "user_id,item_id,timestamp\nu7,i1,1\n": r"b\.csv\): no column 'category'",
        "user_id,item_id,timestamp,category\nu7,i1,5\n": r"b\.csv\): row 1 has 3 values",
        "user_id,item_id,timestamp,category\nu7,i1,5,oil\n": r"item_id 'i1' has two values.*row 1 of b\.csv",
    }.items():
        (tmp_path / "b.csv").write_text(text)
        with pytest.raises(UserError, match=says):
            read(tmp_path)
    (tmp_path / "b.csv").unlink()
    (tmp_path / "README.md").write_text("words")
    with pytest.raises(UserError, match=r"README\.md.*name the data files by a glob"):
        read(tmp_path)


def test_files_of_different_types(tmp_path):
    FRAME.to_parquet(tmp_path / "a.parquet")
    FRAME.assign(item_id=[1, 2, 3]).to_parquet(tmp_path / "b.parquet")
    with pytest.raises(UserError, match=r"'item_id': is .*string in a\.parquet and int64 in b\.parquet"):
        read(tmp_path)
    numbers = FRAME.assign(item_id=np.array([1, 2, 3], np.int16))
    numbers.to_parquet(tmp_path / "a.parquet")
    numbers.assign(item_id=[4.0, 5.0, 6.0], category=None).to_parquet(tmp_path / "b.parquet")
    log = read(tmp_path)
    assert log.items.item_id.tolist() == [1, 2, 3, 4, 5, 6] and log.items.item_id.dtype == np.int64
    assert log.items.features["category"].tolist()[3:] == [""] * 3


ID_KINDS = {
    "int": [5, -7, 12346],
    "near_the_limits": [2**63 - 1, -(2**63), 0],
    "beyond_int64": np.array([2**64 - 1, 2**63, 3], np.uint64),
    "whole_floats": [12346.0, 7.0, -3.0],
    "halves": [1.5, 2.0, 1e22],
    "small_floats": np.array([0.1, 2.0, 7.25], np.float32),
    "decimals": [decimal.Decimal("12.50"), decimal.Decimal("7.00"), decimal.Decimal("0.10")],
    "whole_decimals": [decimal.Decimal("12.00"), decimal.Decimal("7.00"), decimal.Decimal("1.00")],
    "bools": [True, False, True],
    "zeros_in_front": ["007", "7", "07"],
    "digits": ["12346.0", "7", "8.000"],
    "spaces": [" a", "a ", "a b"],
    "unicode": ["żółw", "茶", "e\u0301"],
    "marks": ['say "hi"', "a,b;c|d::e\t", "two\nlines"],
    "words": ["NA", "nan", "None"],
    "uuids": [str(uuid.UUID(int=n * 10**30)) for n in (1, 2, 3)],
    "category": pd.Categorical(["b", "a", "b"]),
    "nullable": pd.array([3, 4, 5], "Int64"),
}


@pytest.mark.parametrize("kind", ID_KINDS)
@pytest.mark.parametrize("column", ["user_id", "item_id", "category"])
def test_csv_and_parquet_of_a_frame_are_one_log(tmp_path, kind, column):
    frame = FRAME.assign(item_id=["i1", "i2", "i3"]).assign(**{column: ID_KINDS[kind]})
    both_ways(tmp_path, frame)


@pytest.mark.parametrize("kind", [kind for kind in ID_KINDS if kind not in ("small_floats", "category", "nullable")])
def test_with_missing_values_too(tmp_path, kind):
    values = list(ID_KINDS[kind])[:2]
    column = pd.Series([*values, None], dtype=object if isinstance(values[0], (str, bool, decimal.Decimal)) else None)
    if kind in ("near_the_limits", "beyond_int64"):
        width = "Int64" if kind == "near_the_limits" else "UInt64"
        column = pd.array([*(int(value) for value in values), None], width)
    both_ways(tmp_path, FRAME.assign(item_id=["i1", "i2", "i3"], category=column))


_AS_OF_TIMES = pd.to_datetime(["2020-09-13 12:26:40.25", "2020-09-13 12:26:40.125", "2020-09-14 00:00:00.5"])
TIME_KINDS = {
    "seconds": [1_600_000_000, 1_600_000_001, 5],
    "fractions": [1_600_000_000.5, 1_600_000_000.25, 5.0],
    "decimals": [decimal.Decimal("1600000000.500"), decimal.Decimal("1600000000.250"), decimal.Decimal("5.000")],
    "naive": _AS_OF_TIMES,
    "nanoseconds": pd.to_datetime([1_600_000_000_000_000_002, 1_600_000_000_000_000_001, 5]),
    "zoned": _AS_OF_TIMES.tz_localize("Asia/Jakarta"),
    "dates": [datetime.date(2020, 9, 13), datetime.date(2020, 9, 12), datetime.date(2020, 9, 14)],
    "iso": ["2020-09-13T12:26:40.5Z", " 2020-09-13 14:26:40.25+02:00", "2020-09-14"],
    "number_text": ["1600000000", "1600000000.25 ", "5"],
}


@pytest.mark.parametrize("kind", TIME_KINDS)
def test_times_of_csv_and_parquet_are_the_same_and_in_order(tmp_path, kind):
    frame = FRAME.assign(timestamp=TIME_KINDS[kind], user_id="u", item_id=["z", "a", "m"], category="x")
    log = both_ways(tmp_path, frame)
    order = log.items.item_id[log.item_row].tolist()
    if kind in ("fractions", "decimals", "naive", "nanoseconds", "zoned", "iso", "number_text"):
        assert order.index("z") - order.index("a") == (-1 if kind == "number_text" else 1)  # within one second


@pytest.mark.parametrize(
    ("number", "says"),
    [
        (20200913, "YYYYMMDD, not seconds"),
        (2030091312, "YYYYMMDDHH, not"),
        (202009131226, "YYYYMMDDHHMM, not"),
        (20200913122640, "YYYYMMDDHHMMSS, not"),
        (202009, "YYYYMM, not"),
        (1_600_000_000_123, "milliseconds.*divide by 1,000,"),
        (1_600_000_000_123_456, "microseconds.*divide by 1,000,000,"),
        (1_600_000_000_123_456_789, "nanoseconds.*divide by 1,000,000,000,"),
    ],
)
def test_numbers_that_are_no_seconds_are_called_by_their_name(tmp_path, number, says):
    both_refuse(tmp_path, FRAME.assign(timestamp=number), f"3 of 3 rows .*{says}")
    if number in (202009, 2030091312):
        return
    mixed = FRAME.assign(timestamp=[1_600_000_000, number, 1_600_000_001])
    both_refuse(tmp_path, mixed, f"1 of 3 rows .*{says}.* in row 2")


def both_refuse(tmp_path, frame, says):
    frame.to_parquet(tmp_path / "frame.parquet", index=False)
    frame.to_csv(tmp_path / "frame.csv", index=False)
    for name in ("frame.parquet", "frame.csv"):
        with pytest.raises(UserError, match=says):
            read(tmp_path / name)


def both_ways(tmp_path, frame):
    frame.to_parquet(tmp_path / "frame.parquet", index=False)
    frame.to_csv(tmp_path / "frame.csv", index=False)
    frame.to_csv(tmp_path / "frame.tsv", index=False, sep="\t")
    logs = [read(tmp_path / name) for name in ("frame.parquet", "frame.csv", "frame.tsv")]
    for log in logs[1:]:
        assert content(log) == content(logs[0])
        assert log.user_id.dtype == logs[0].user_id.dtype and log.items.item_id.dtype == logs[0].items.item_id.dtype
    return logs[0]


def test_ids_are_integers_however_whole_numbers_are_written(tmp_path):
    (tmp_path / "events.csv").write_text(HEADER + "12346.0,7,5,1.0\n12346,7.0,6,1\n")
    log = read(tmp_path / "events.csv")
    assert (log.user_id.tolist(), log.items.item_id.tolist()) == ([12346], [7])
    assert log.items.features["category"].tolist() == ["1"]
    (tmp_path / "events.csv").write_text(HEADER + "12346.0,7,5,1.0\n12346,A7,6,1\n")
    assert read(tmp_path / "events.csv").items.item_id.tolist() == ["7", "A7"]
    (tmp_path / "events.csv").write_text(HEADER + "1.23E+15,7,5,x\n")
    with pytest.raises(UserError, match="'user_id': '1.23E.15' is a rounded number"):
        read(tmp_path / "events.csv")


def test_spaces_count_and_twins_are_told(tmp_path, caplog):
    (tmp_path / "events.csv").write_text(HEADER + "u,a ,5,x\nu,a,6,y\n")
    assert read(tmp_path / "events.csv").items.item_id.tolist() == ["a", "a "]
    assert "'a ' and 'a' are two values" in caplog.text
