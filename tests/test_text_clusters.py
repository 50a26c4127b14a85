"""--context=text_clusters:N: categories from what is written of items, or from any vectors of them."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
from trained import FLAGS, run_module
from worlds import START, make_log

from longretriever_tf.common.errors import UserError
from longretriever_tf.common.schema import DAY_S
from longretriever_tf.common.text import as_text
from longretriever_tf.config.check import num_clusters
from longretriever_tf.config.config import Config, DataConfig, load_config
from longretriever_tf.data.batches.prepared_data import load_saved, prepare
from longretriever_tf.data.catalogue import load_catalogue
from longretriever_tf.data.recipe.kmeans import plus_plus
from longretriever_tf.data.recipe.learned_context import cluster_context, with_trained_clusters
from longretriever_tf.data.recipe.text_vectors import split_words, vectorise
from longretriever_tf.data.window.build import build_window
from longretriever_tf.datasets.load import load_log, open_sharded_log
from longretriever_tf.datasets.log_identity import identify_log, identify_shards
from longretriever_tf.inspect_log import inspect_log
from longretriever_tf.retrieval.export.refresh import Catalogue, refresh_version
from longretriever_tf.retrieval.export.saved_model import load_extra

CUT = START + 100 * DAY_S
TITLES = ("green tea", "black tea leaves", "mint tea", "roasted walnut", "walnut halves", "salted walnut")


def text_log(future: int = 5, titles=TITLES, **texts):
    """Items "i0" to "i5" of three teas and three nuts; "i6" comes after the cut alone, and "i7" never."""
    user = np.repeat(np.arange(6), 6)
    item = np.tile(np.arange(6), 6)
    time = START + np.tile(np.arange(6), 6) * DAY_S
    user, item, time = np.append(user, [0, 0]), np.append(item, [6, future]), np.append(time, [CUT + 1, CUT + 2])
    ids = as_text(f"i{i}" for i in range(8))
    log = make_log(user, ids[item], time.tolist(), {"kind": ["thing"] * 8}, item_id=ids.tolist(), context="kind")
    named = dataclasses.replace(log.items, item_id=ids, name=as_text([*titles, "oolong tea", "chopped walnut"]))
    return dataclasses.replace(log, items=dataclasses.replace(named, texts=texts))


def clusters_of(log, context="text_clusters:2", columns=()) -> list[str]:
    made = cluster_context(log, context, CUT, 1, columns)
    assert made.context == context
    return made.items.features[context].tolist()


def test_items_of_alike_texts_share_a_cluster_that_their_words_name():
    teas, nuts = clusters_of(text_log())[:2], clusters_of(text_log())[3:5]
    assert len(set(teas)) == len(set(nuts)) == 1 and teas[0] != nuts[0]
    assert "tea" in teas[0].split(", ") and "walnut" in nuts[0].split(", ")
    # What has no event before the cut goes to the nearest centre, and moves no other.
    assert clusters_of(text_log())[6:] == [teas[0], nuts[0]]
    assert clusters_of(text_log(future=0)) == clusters_of(text_log())
    assert len(set(clusters_of(text_log(), "text_clusters:300"))) == 2, "as many as texts that differ by known words"
    assert len(set(clusters_of(text_log(), "text_clusters:auto"))) == 2


def test_columns_of_text_and_vectors_are_chosen_by_their_flags():
    vectors = np.zeros((8, 3), np.float32)
    vectors[[0, 3, 7], 0], vectors[[1, 2, 4, 5], 1] = (1.0, 2.0, 0.1), 1.0
    log = text_log(embedding=vectors)
    made = clusters_of(log)
    assert made[0] == made[3] == made[7] != made[1] == made[2] == made[4] == made[5]
    assert made[6] in made[:6], "an item without a vector goes with its like"
    assert any("tea" in name for name in made), "clusters of vectors are named by the items' names"
    bare = dataclasses.replace(log, items=dataclasses.replace(log.items, name=log.items.item_id))
    assert set(clusters_of(bare)) == {"cluster 0", "cluster 1"}
    blurb = as_text([f"made in {'Assam' if i % 2 else 'Delhi'}" for i in range(8)])
    by_blurb = clusters_of(text_log(blurb=blurb))
    assert by_blurb[::2] == [by_blurb[0]] * 4 and by_blurb[1::2] == [by_blurb[1]] * 4 and by_blurb[0] != by_blurb[1]
    assert clusters_of(text_log(blurb=blurb), columns=("kind",)) == ["thing"] * 8
    with pytest.raises(UserError, match="no column 'colour' of the items; columns: blurb, kind"):
        clusters_of(text_log(blurb=blurb), columns=("blurb", "colour"))
    with pytest.raises(UserError, match="the items have ids alone: name columns of text by --text_columns"):
        clusters_of(dataclasses.replace(bare, items=dataclasses.replace(bare.items, texts={})))
    with pytest.raises(UserError, match="blurb holds no word"):
        clusters_of(text_log(blurb=as_text(["", "12", "!"] + [""] * 5)))


def test_words_names_and_starts():
    assert split_words("ＴＥＡ 茶葉 x2, 500") == ["tea", "茶葉", "x2"] and split_words("日本茶の葉") == [
        "日本",
        "本茶",
        "茶の",
        "の葉",
    ]
    assert split_words("İSTANBUL istanbul") == ["istanbul", "istanbul"], "one word in both cases"
    assert split_words("كِتَاب") == ["كِتَاب"] and split_words("ขึ้น") == ["ขึ", "ึ้", "้น"], "marks belong to their letters"
    same = clusters_of(
        text_log(titles=("aa bb cc dd", "aa bb cc ee", "aa bb cc dd", "ff gg", "ff hh", "ff gg")), "text_clusters:4"
    )
    assert len(set(same)) == len(set(same[:6])) == 4, "clusters of the same first words have different names"
    texts = as_text([f"word{i} word{i + 1} word{i + 2}" for i in range(300)] + [""])
    fitted = np.arange(301) < 200
    vectors = vectorise(texts, fitted, 1)
    np.testing.assert_array_equal(vectors.rows, vectorise(texts, fitted, 1).rows)
    assert vectors.rows.shape[1] == 128 and "word150" in vectors.terms and "word250" not in vectors.terms
    lengths = np.linalg.norm(vectors.rows, axis=1)
    np.testing.assert_allclose(lengths[:200], 1, rtol=1e-5)
    assert (lengths[210:] == 0).all()
    alike = as_text([" ".join(f"word{i}" for i in range(first, first + 150)) for first in (0, 50)] * 20 + ["word3"])
    low_rank = vectorise(alike, np.arange(41) < 40, 1)
    assert low_rank.rows.shape[1] == 2, "directions beyond the rank of the texts are noise"
    np.testing.assert_array_equal(low_rank.rows, vectorise(alike, np.arange(41) < 40, 1).rows)
    rows = np.repeat(np.eye(4, dtype=np.float32), 50, axis=0)
    assert len(np.unique(plus_plus(rows, 4, np.random.default_rng(1)), axis=0)) == 4, "no center twice"


def test_a_corpus_inspect_and_another_table_take_the_clusters():
    config = Config(DataConfig(context="text_clusters:2", window_days=14))
    corpus = prepare(config, text_log(), CUT).corpus
    assert corpus.context == "text_clusters:2" and corpus.num_categories == 4
    name = dict(zip(corpus.item_id.tolist(), corpus.category_name[corpus.item_category].tolist(), strict=True))
    items = text_log().items
    renamed = dataclasses.replace(items, name=as_text(["walnut", *items.name[1:]]))
    made = with_trained_clusters(renamed, "kind", corpus).features["text_clusters:2"]
    assert made.tolist() == [name[f"i{i}"] for i in (0, 1, 2, 3, 4, 5, 1, 4)], "known items stay where they are"
    statistics = inspect_log(text_log(), config).statistics
    assert statistics["log"]["context"] == "text_clusters:2"
    assert {row["category"] for row in statistics["negatives"]["largest"]} == set(corpus.category_name[2:])


@pytest.mark.parametrize(
    "settings, words",
    [
        ({"context": "text_clusters:"}, "--context=text_clusters:: expected text_clusters: and a number above 0"),
        ({"context": "text_clusters:0"}, "--context=text_clusters:0: expected text_clusters:"),
        ({"text_columns": ("a",), "embedding_column": "b"}, "--text_columns=a with --embedding_column=b"),
        ({"embedding_column": "b", "dataset": "complete_journey"}, "--embedding_column=b names a column of your own"),
        ({"embedding_column": "item_id"}, "--embedding_column=item_id is a column of ids"),
    ],
)
def test_flags_that_cannot_be_are_named(settings, words):
    with pytest.raises(UserError, match=words):
        Config(DataConfig(**{"dataset": "event_log", "events": "e.csv", **settings}))
    assert num_clusters("text_clusters:300", 9) == 300 and num_clusters("text_clusters:x", 9) == 0


def write_tables(directory) -> tuple[str, ...]:
    """Events of 40 users and 24 items with ids of text; the items have a title, a blurb, vectors and no category."""
    rng = np.random.default_rng(3)
    ids = np.array([f"sku é{i:02d}" for i in range(26)])
    user = np.repeat(np.arange(40), 30)
    item = rng.integers(0, 12, len(user)) * 2 + user % 2
    time = START + rng.integers(0, 120 * DAY_S, len(user))
    events = pd.DataFrame({"user_id": [f"u{u:02d}" for u in user], "item_id": ids[item], "timestamp": time})
    events.to_csv(directory / "events.csv", index=False)
    things = ["green tea", "black tea", "walnut", "hazelnut"]
    items = pd.DataFrame(
        {
            "item_id": ids,
            "title": [f"{things[i % 4]} {'fine' if i % 3 else 'coarse'}" for i in range(26)],
            "blurb": [None if i == 3 else f"a {things[i % 4].split()[-1]} of lot {i}" for i in range(26)],
            "brand": [f"b{i % 2}" for i in range(26)],
            "vector": [[float(i % 4 == k) for k in range(4)] for i in range(26)],
        }
    )
    items.to_parquet(directory / "items.parquet")
    kept = [f for f in FLAGS if "_features" not in f and f != "--profile"]
    return *(f"--{name}={directory}/{name}.{end}" for name, end in (("events", "csv"), ("items", "parquet"))), *kept


def spec_of(directory, **settings) -> DataConfig:
    return DataConfig(
        **{
            **{"dataset": "event_log", "events": f"{directory}/events.csv", "items": f"{directory}/items.parquet"},
            **{"data_dir": f"{directory}/tfds", "context": "text_clusters:4", "window_days": 14.0},
            **settings,
        }
    )


@pytest.mark.parametrize("flag", ["--text_columns=title,blurb", "--embedding_column=vector"])
def test_a_prepared_log_has_the_clusters_of_its_tables_in_memory_and_from_disk(tmp_path, flag):
    tables = write_tables(tmp_path)[:2]
    done = run_module(
        "prepare", "--dataset=event_log", *tables, flag, "--context=text_clusters:4", "--num_shards=3",
        f"--output={tmp_path}/log", "--item_features=brand",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    name, _, value = flag[2:].partition("=")
    chosen = tuple(value.split(",")) if name == "text_columns" else value
    spec = spec_of(tmp_path, item_features=("brand",), **{name: chosen})
    tables_config = Config(spec)
    log, data = load_log(spec), dataclasses.replace(DataConfig(), data=f"{tmp_path}/log", context="text_clusters:4")
    assert list(log.items.features) == ["brand"] and list(log.items.texts) == value.split(",")
    disk_config = dataclasses.replace(tables_config, data=dataclasses.replace(data, window_days=14.0))
    sharded = open_sharded_log(disk_config.data)
    assert identify_log(log, spec).fingerprint == identify_shards(sharded).fingerprint
    layout = build_window(disk_config, sharded, 1)
    cut = np.load(layout.path("corpus.npz"))["cut"]
    memory = prepare(tables_config, log, int(cut)).corpus
    again = prepare(disk_config, load_log(disk_config.data), int(cut)).corpus
    with np.load(layout.path("corpus.npz")) as disk:
        for made in (memory, again):
            np.testing.assert_array_equal(made.item_category, disk["item_category"])
    assert memory.category_name.tolist() == again.category_name.tolist() and memory.num_categories == 6
    assert list(memory.feature_values) == ["brand"]


def test_a_vector_that_is_none_is_named(tmp_path):
    write_tables(tmp_path)
    items = pd.read_parquet(tmp_path / "items.parquet")
    for vector, words in (("[1, x]", "has '\\[1, x\\]', which is no vector"), ("[1, 2]", "has 2 numbers and item")):
        items.vector = [vector if i == 7 else "[1, 0.5, -2e1]" for i in range(len(items))]
        items.to_csv(tmp_path / "items.csv", index=False)
        with pytest.raises(UserError, match=f"--embedding_column=vector: item sku é07 {words}"):
            load_log(spec_of(tmp_path, items=f"{tmp_path}/items.csv", embedding_column="vector"))
    with pytest.raises(UserError, match=r"no column 'vectors' \(--embedding_column\)"):
        load_log(spec_of(tmp_path, embedding_column="vectors"))
    with pytest.raises(UserError, match="column 'vector': its values are of type list"):
        load_log(spec_of(tmp_path, text_columns=("vector",)))


def test_from_tables_to_an_export_and_on_to_new_items(tmp_path):
    """Text ids, no category: train, export with the items that nobody took, refresh with a new item."""
    flags = (*write_tables(tmp_path), f"--data_dir={tmp_path}/tfds", "--context=text_clusters:4")
    run, export = f"--run_dir={tmp_path}/run", f"--export_dir={tmp_path}/export"
    texts = "--text_columns=title,blurb"
    for name, given in (
        ("train", (*flags, texts, "--item_name_column=title", "--interest_epochs=1", "--score_weights_users=0")),
        ("export", (export, "--catalogue=all", "--nocheck")),
    ):
        done = run_module(name, run, *given)
        assert done.returncode == 0, done.stderr
    corpus = load_saved(f"{tmp_path}/run")[0]
    names = set(corpus.category_name[2:].tolist())
    assert len(names) == 4 and any("tea" in name.split(", ") for name in names) and corpus.feature_values == {}
    rest = load_catalogue(f"{tmp_path}/run")
    assert sorted(rest.item_id.tolist()) == ["sku é24", "sku é25"] and set(rest.features) == {"text_clusters:4"}

    def cluster_in(corpus) -> dict[str, str]:
        return dict(zip(corpus.item_id.tolist(), corpus.category_name[corpus.item_category].tolist(), strict=True))

    exported = cluster_in(load_extra(f"{tmp_path}/export/1"))
    assert exported["sku é24"] == exported["sku é00"] and exported["sku é25"] == exported["sku é01"]
    items = pd.read_parquet(tmp_path / "items.parquet").drop(columns=["brand", "vector"])
    new = pd.DataFrame({"item_id": ["a new nut"], "title": ["walnut whole"], "blurb": ["walnut of lot"]})
    pd.concat([items, new]).to_parquet(tmp_path / "new.parquet")
    config = load_config(f"{tmp_path}/run")
    assert config.data.text_columns == ("title", "blurb")
    source = refresh_version(config, f"{tmp_path}/export/1", Catalogue(f"{tmp_path}/new.parquet")).source
    refreshed = cluster_in(source.corpus)
    assert refreshed["a new nut"] == exported["sku é02"]
    assert {item: refreshed[item] for item in exported} == exported
