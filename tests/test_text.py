"""Text at the width of each value, from a table to a corpus on disk; and names that placeholders have too."""

import dataclasses
import pathlib

import numpy as np
import pandas as pd
import pytest
from worlds import START, make_log

from longretriever_tf.common.schema import DAY_S
from longretriever_tf.common.text import as_text, code_text, find_rows, is_text, pack_text, unpack_text
from longretriever_tf.config.config import DataConfig
from longretriever_tf.data.corpus import encode_log, fit_corpus, load_corpus, save_corpus
from longretriever_tf.data.recipe.history_embedding import item_keys
from longretriever_tf.datasets.build_log import fill_missing_context
from longretriever_tf.datasets.event_log.source import read_item_table
from longretriever_tf.datasets.load import load_log
from longretriever_tf.retrieval.fingerprint import fingerprint_items

LONG = "x" * 200_000
"""As fixed-width text in a column of 300 values: 240 MB."""


def arrays_of(value) -> list[np.ndarray]:
    """Every array in a dataclass, dictionary or array."""
    if dataclasses.is_dataclass(value):
        value = vars(value)
    if isinstance(value, dict):
        return [array for part in value.values() for array in arrays_of(part)]
    return [value] if isinstance(value, np.ndarray) else []


@pytest.mark.parametrize("where", ["item_id", "user_id", "title", "category", "brand", "age"])
def test_one_long_value_widens_no_other(tmp_path, where):
    rows = np.arange(600)
    events = pd.DataFrame({"user_id": [f"u{row % 30}" for row in rows], "item_id": [f"i{row % 300}" for row in rows]})
    events["timestamp"] = START + rows * DAY_S // 4
    items = pd.DataFrame({"item_id": [f"i{row}" for row in range(300)]})
    items = items.assign(title="tea", category=[f"c{row % 5}" for row in range(300)], brand="b")
    users = pd.DataFrame({"user_id": [f"u{row}" for row in range(30)], "age": "old"})
    for table in (events, items, users):
        if where in table:
            first = table[where] == table[where][0]
            table.loc[first & (table.index == 0) if first.all() else first, where] = LONG
    paths = {name: str(tmp_path / f"{name}.parquet") for name in ("events", "items", "users")}
    for name, table in (("events", events), ("items", items), ("users", users)):
        table.to_parquet(paths[name])
    columns = {"item_name_column": "title", "item_features": ("brand",), "user_features": ("age",)}
    log = load_log(DataConfig(dataset="event_log", data_dir=str(tmp_path / "tfds"), **paths, **columns))
    corpus = fit_corpus(log, START + 10**9)
    save_corpus(corpus, str(tmp_path / "corpus.npz"))
    kept = load_corpus(str(tmp_path / "corpus.npz"))
    for array in [*arrays_of(log), *arrays_of(corpus), *arrays_of(kept)]:
        assert array.nbytes < 100_000, array.dtype
    known = {"item_id": kept.item_id, "title": kept.item_name, "category": kept.category_name, "user_id": log.user_id}
    known |= {"brand": kept.feature_values["brand"], "age": kept.profile_values["age"]}
    assert LONG in known[where].tolist()
    assert (tmp_path / "corpus.npz").stat().st_size < 50_000


def test_a_corpus_is_read_as_it_was_written_and_so_is_an_older_one(tmp_path):
    log = make_log(
        ["a", "a", "b"],
        ["007", "t\u00e9", "x\u0000"],
        [START, START + 1, START + 2],
        {"category": ["(unknown)", "", "c"], "brand.end": ["b", "", "(unknown)"], "brand": ["1", "2", "3"]},
        profile={"age": ["old", ""]},
    )
    made = fit_corpus(log, START + 9)
    save_corpus(made, str(tmp_path / "new.npz"))
    packed = dict(np.load(tmp_path / "new.npz"))
    wide = {name: values.astype(str) if is_text(values) else values for name, values in unpack_text(packed).items()}
    wide = {name.replace("values.names", "values/names"): values for name, values in wide.items()}
    np.savez(tmp_path / "old.npz", **wide)  # what was written before there was `pack_text`
    new, old = (load_corpus(str(tmp_path / name)) for name in ("new.npz", "old.npz"))
    for field in dataclasses.fields(made):
        first, second = getattr(made, field.name), getattr(new, field.name)
        for mine, its in zip(arrays_of(first) or [first], arrays_of(second) or [second], strict=True):
            np.testing.assert_array_equal(mine, its, field.name)
    assert old.category_name.tolist() == new.category_name.tolist()
    assert old.feature_values["brand.end"].tolist() == new.feature_values["brand.end"].tolist()
    assert old.item_id.tolist() == ["", "(unknown)", *(raw.rstrip("\0") for raw in new.item_id[2:].tolist())]
    wide_ids = dataclasses.replace(made, item_id=made.item_id.astype(str))
    plain = dataclasses.replace(made, item_id=as_text(wide_ids.item_id))
    assert fingerprint_items(wide_ids) == fingerprint_items(plain)  # exports of before keep their fingerprint
    assert item_keys(wide_ids.item_id).tolist() == item_keys(plain.item_id).tolist()


def test_a_column_may_be_called_names(tmp_path):
    made = fit_corpus(make_log(["a"], ["x"], [START], {"category": ["c"], "names": ["1"]}), START + 9)
    save_corpus(made, str(tmp_path / "corpus.npz"))
    kept = load_corpus(str(tmp_path / "corpus.npz")).feature_values
    assert {name: values.tolist() for name, values in kept.items()} == {"names": ["", "(unknown)", "1"]}


def test_names_that_placeholders_have_too_are_names():
    log = make_log(
        [1, 1, 1, 2],
        ["(unknown)", "a", "b", "c"],
        [START, START + 1, START + 2, START + 3],
        {"category": ["(unknown)", "(missing)", "", "(unknown)"], "brand": ["", "(unknown)", "x", "x"]},
    )
    log = dataclasses.replace(log, items=fill_missing_context(log.items, log.context))  # as loading does
    corpus = fit_corpus(log, START + 9)
    name = dict(zip(corpus.item_id[2:].tolist(), corpus.category_name[corpus.item_category[2:]].tolist(), strict=True))
    assert name == {"(unknown)": "(unknown)", "a": "(missing)", "b": "((missing))", "c": "(unknown)"}
    assert (corpus.item_category[2:] >= 2).all() and (corpus.item_feature[2:] >= 2).all()
    assert corpus.find_items(as_text(["(unknown)", "", "a"])).tolist() == [
        corpus.item_id.tolist().index("(unknown)", 2),
        1,
        corpus.item_id.tolist().index("a"),
    ]
    assert len(encode_log(log, corpus).item) == 4


def write(directory: pathlib.Path, **tables: dict) -> dict[str, str]:
    for name, columns in tables.items():
        pd.DataFrame(columns).to_parquet(directory / f"{name}.parquet")
    return {name: str(directory / f"{name}.parquet") for name in tables}


def test_tables_whose_ids_differ_in_type_are_joined_as_text(tmp_path):
    paths = write(
        tmp_path,
        events={"user_id": [7, 8, 8], "item_id": ["7", "007", "x"], "timestamp": [START] * 3},
        items={"item_id": ["7", "007", "x"], "category": ["c", "d", "c"]},
        users={"user_id": ["7", "007"], "age": ["old", "young"]},
    )
    log = load_log(DataConfig(dataset="event_log", data_dir=f"{tmp_path}/t", user_features=("age",), **paths))
    assert log.user_id.tolist() == [7, 8] and log.profile["age"].tolist() == ["old", ""]  # 7 is "7" and not "007"
    assert log.items.item_id.tolist() == ["007", "7", "x"]
    ids = [int(raw) for raw in (-(2**63), 2**63 - 1, 7)]
    paths = write(
        tmp_path,
        events={"user_id": ids, "item_id": ids, "timestamp": [START] * 3},
        items={"item_id": ["07", *map(str, ids)], "category": ["c"] * 4},
    )
    log = load_log(DataConfig(dataset="event_log", data_dir=f"{tmp_path}/t", **paths))
    assert log.items.item_id.tolist() == sorted(["07", *map(str, ids)]) and log.user_id.tolist() == sorted(ids)
    assert log.num_events == 3
    table = read_item_table(DataConfig(dataset="event_log", items=paths["items"]))
    assert table.item_id.tolist() == log.items.item_id.tolist()


def test_ids_that_differ_by_a_backslash_alone_are_two(tmp_path):
    odd = ["a\\b", "a/b", "a b", "a\\/b", "A\\B"]
    paths = write(tmp_path, events={"user_id": odd, "item_id": odd, "timestamp": [START] * 5, "category": ["c"] * 5})
    log = load_log(DataConfig(dataset="event_log", data_dir=f"{tmp_path}/t", **paths))
    assert log.user_id.tolist() == log.items.item_id.tolist() == sorted(odd) and log.num_events == 5


def test_coding_and_finding():
    values, row = code_text(as_text(["b", "", "b", "\u00e9"]))
    assert values.tolist() == ["", "b", "\u00e9"] and row.tolist() == [1, 0, 1, 2]
    assert find_rows(np.array([5, -(2**63), 0]), np.array([0, 1, -(2**63)])).tolist() == [2, -1, 1]
    assert find_rows(as_text([]), as_text(["a"])).tolist() == [-1]
    assert unpack_text(pack_text({"a": as_text([]), "a.end": as_text(["x"])}))["a.end"].tolist() == ["x"]
