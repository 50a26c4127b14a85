"""Vectors for an index of one's own: what Parquet and `interest_embeddings` say, searched outside, is the own list."""

import dataclasses
import importlib.util
import json
import os
import sys

import numpy as np
import pyarrow.parquet as pq
import pytest
import tensorflow as tf
from trained import run_module
from worlds import START, block_world

from longretriever_tf.common import schema
from longretriever_tf.common.errors import UserError
from longretriever_tf.config.config import Config, DataConfig, ModelConfig
from longretriever_tf.data.corpus import fit_corpus
from longretriever_tf.datasets.log import LifelongLog
from longretriever_tf.models.build import build_models
from longretriever_tf.retrieval.export.vectors import require_vectors_dir, write_vectors
from longretriever_tf.retrieval.export.version_dirs import versions
from longretriever_tf.retrieval.fingerprint import Fingerprint
from longretriever_tf.retrieval.multi_context import MultiContextRetriever
from longretriever_tf.retrieval.request_options import default_columns
from longretriever_tf.retrieval.signatures import make_signatures

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "..", "benchmarks"))
import outside_index

CONFIG = Config(
    data=DataConfig(dataset="event_log"),
    model=ModelConfig(dim=6, num_heads=2, ff_dim=11, svd_dim=3, temperature=0.25),
)
K = 29


def with_text_ids(log: LifelongLog) -> LifelongLog:
    """The same log with text ids: leading zeros, other alphabets, in the same order."""
    ids = np.array([f"{number:05d} thé 茶" for number in log.items.item_id], object)
    return dataclasses.replace(log, items=dataclasses.replace(log.items, item_id=ids))


class World:
    """Untrained towers over a small log, their vectors on disk, and the answers of their signatures."""

    def __init__(self, log: LifelongLog, directory) -> None:
        self.corpus = fit_corpus(log, START + 120 * schema.DAY_S)
        rng = np.random.default_rng(1)
        svd = rng.standard_normal([self.corpus.num_items, 3]).astype(np.float32)
        models = build_models(CONFIG, self.corpus, svd)
        for variable in models.retriever.trainable_variables:  # biases and the repeat term begin at 0
            variable.assign_add(0.3 * rng.standard_normal(variable.shape).astype(np.float32))
        item, category = (np.zeros([n, 3], np.float32) for n in (self.corpus.num_items, self.corpus.num_categories))
        item[:, 0] = rng.random(len(item))
        arrays = {"item_stats": item, "category_stats": category, "taste_rows": np.stack([svd, svd])}
        self.model = MultiContextRetriever(CONFIG, self.corpus, models.retriever, models.interest, arrays)
        self.signatures = make_signatures(self.model, CONFIG.retrieval)
        self.directory = directory / "vectors"
        self.said = write_vectors(str(self.directory), self.model.index, self.corpus, Fingerprint("t", "i", 7))
        start, stop = log.offset[5:7]
        past = log.timestamp[start:stop] < self.corpus.cut
        ids = log.items.item_id[log.item_row[start:stop][past]]
        self.columns = default_columns(CONFIG.retrieval, self.model.item_id_dtype) | {
            "history_item_id": tf.constant([ids.tolist()], self.model.item_id_dtype),
            "history_timestamp": tf.constant(log.timestamp[start:stop][past][None]),
            "request_timestamp": tf.constant([self.corpus.cut], tf.int64),
            **{name: tf.constant([""]) for name in self.model.profile_names},
            **{name: tf.constant([5]) for name in ("num_interests", "top_interests")},
            "k": tf.constant([K]),
        }

    def ask(self, signature: str, **options) -> dict[str, np.ndarray]:
        """The row of the request."""
        answer = self.signatures[signature](**self.columns | options)
        return {name: value.numpy()[0] for name, value in answer.items()}


@pytest.fixture(scope="module", params=["int64", "text"])
def world(request, tmp_path_factory) -> World:
    log = block_world(num_users=23, num_items=83)
    return World(log if request.param == "int64" else with_text_ids(log), tmp_path_factory.mktemp(request.param))


def texts(values: np.ndarray) -> list:
    return [value.decode() if isinstance(value, bytes) else value for value in values.tolist()]


def test_the_tables_hold_every_item_once_sorted_by_category(world):
    items = pq.read_table(world.directory / "items.parquet")
    categories = pq.read_table(world.directory / "categories.parquet").to_pylist()
    assert items["item_id"].to_pylist() == world.corpus.item_id[2:].tolist()
    names = world.corpus.category_name[world.corpus.item_category[2:]].tolist()
    assert items["category"].to_pylist() == names
    for one in categories:
        inside = names[one["first_row"] : one["first_row"] + one["num_items"]]
        assert inside == [one["category"]] * names.count(one["category"])
    vectors, bias = world.model.index.rows(tf.range(2, world.corpus.num_items))
    assert items.schema.field("vector").type.list_size == 6
    assert np.array_equal(np.array(items["vector"].to_pylist(), np.float32), vectors)
    assert np.array_equal(items["bias"].to_numpy(), bias) and bias.numpy().std() > 0
    manifest = json.loads((world.directory / "manifest.json").read_text())
    assert (manifest["dim"], manifest["num_items"], manifest["num_categories"]) == (6, len(names), len(categories))
    assert (manifest["towers"], manifest["items"], manifest["statistics_as_of"]) == ("t", "i", 7)
    assert f"{len(names)} items" in world.said


def test_exact_search_outside_gives_the_own_list(world):
    """No category of this world holds more items than are searched for, so the log-partition is exact as well."""
    own, answer = world.ask("serving_default"), world.ask("interest_embeddings")
    novel = world.ask("interest_embeddings", goal=tf.constant(["novel"]))
    assert np.array_equal(novel["embedding"], answer["embedding"])
    assert not np.allclose(novel["log_share"], answer["log_share"])
    assert answer["num_interests_drawn"] == 5 and np.abs(answer["subsequence_boost"]).max() > 0.01
    for name in ("interest_category", "subsequence_item_id"):
        answer[name] = np.vectorize(lambda one: one.decode() if isinstance(one, bytes) else one, otypes=[object])(
            answer[name]
        )
    items = outside_index.read_items(str(world.directory))
    found = outside_index.retrieve(items, outside_index.Exact(items), answer)
    assert items.item_id[found][:K].tolist() == texts(own["item_id"])[: own["num_valid"]]
    bare = outside_index.retrieve(items, outside_index.Exact(items), answer, has_repeats=False)
    assert bare.tolist() != found.tolist()


def test_a_vector_is_that_of_its_category(world):
    """`user_embeddings` answers for one named category what `interest_embeddings` answers for the chosen ones."""
    answer = world.ask("interest_embeddings")
    history = ("history_item_id", "history_timestamp", "history_weight", "request_timestamp")
    given = {name: world.columns[name] for name in (*history, *world.model.profile_names)}
    signature = world.signatures["user_embeddings"]
    for number, category in enumerate(answer["interest_category"]):
        one = signature(**given, category=tf.constant([category]))
        np.testing.assert_allclose(answer["embedding"][number], one["embedding"].numpy()[0], rtol=1e-5, atol=1e-6)
        width = one["subsequence_boost"].shape[1]
        boost = answer["subsequence_boost"][number]
        np.testing.assert_allclose(boost[:width], one["subsequence_boost"].numpy()[0], rtol=1e-5, atol=1e-6)
        assert not boost[width:].any()


def test_fewer_interests_than_asked_for_are_padded_by_zeros(world):
    few = world.ask("interest_embeddings", num_interests=tf.constant([9]), top_interests=tf.constant([9]))
    assert few["num_interests_drawn"] == 7 and len(few["embedding"]) == 9  # the world has seven categories
    for name in ("embedding", "log_share", "subsequence_boost"):
        assert not few[name][7:].any() and np.isfinite(few[name]).all()
    assert texts(few["interest_category"])[7:] == ["", ""]


def test_whoever_has_no_history_gets_vectors_and_shares(world):
    """Their subsequences are 0 wide."""
    empty = {name: world.columns[name][:, :0] for name in ("history_item_id", "history_timestamp")}
    answer = world.ask("interest_embeddings", **empty)
    assert answer["num_interests_drawn"] == 5 and answer["embedding"].any(axis=1).all()
    assert (answer["log_share"] < 0).all() and not answer["subsequence_boost"].any()


def test_an_older_set_is_replaced_and_anything_else_refused(world, tmp_path):
    target = tmp_path / "vectors"
    write_vectors(str(target), world.model.index, world.corpus, Fingerprint("old", "i", 7))
    write_vectors(str(target), world.model.index, world.corpus, Fingerprint("new", "i", 7))
    assert json.loads((target / "manifest.json").read_text())["towers"] == "new"
    assert sorted(os.listdir(tmp_path)) == ["vectors"]
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    (tmp_path / "log").mkdir()
    (tmp_path / "log" / "manifest.json").write_text("{}")
    (tmp_path / "file").write_text("mine")
    for name, words in (("mine", "notes.txt"), ("log", "manifest.json"), ("file", "file")):
        with pytest.raises(UserError, match=words):
            write_vectors(str(tmp_path / name), world.model.index, world.corpus, Fingerprint("new", "i", 7))
    assert (tmp_path / "mine" / "notes.txt").read_text() == (tmp_path / "file").read_text() == "mine"
    with pytest.raises(UserError, match="--export_dir=.*lies in it"):
        require_vectors_dir(str(tmp_path / "exports"), str(tmp_path / "exports" / "longretriever"))
    require_vectors_dir(str(tmp_path / "exports" / "vectors"), str(tmp_path / "exports"))


@pytest.mark.parametrize(("kind", "package"), [("faiss_hnsw", "faiss"), ("qdrant_local", "qdrant_client")])
def test_indexes_that_people_have_find_the_same(world, kind, package):
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed: it is no requirement of this package")
    answer = world.ask("interest_embeddings")
    items = outside_index.read_items(str(world.directory))
    index, exact = outside_index.KINDS[kind](items), outside_index.Exact(items)
    for number, category in enumerate(texts(answer["interest_category"])):
        query = np.append(answer["embedding"][number], np.float32(1))
        found, score = index.search(category, query)
        wanted, wanted_score = exact.search(category, query)
        assert found.tolist() == wanted.tolist()
        np.testing.assert_allclose(score, wanted_score, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_the_command_writes_vectors_that_its_export_knows(trained, tmp_path):
    flags = f"--run_dir={trained.run_dir}", f"--export_dir={tmp_path}/export", "--nocheck"
    done = run_module("export", *flags, f"--vectors={tmp_path}/vectors")
    assert done.returncode == 0, done.stderr
    assert f"{tmp_path}/vectors: vectors of" in done.stdout.splitlines()[-1]
    items = pq.read_table(tmp_path / "vectors" / "items.parquet")
    model = tf.saved_model.load(f"{tmp_path}/export/1")
    answer = model.signatures["item_embeddings"](item_id=tf.constant(items["item_id"].to_pylist(), tf.int64))
    assert np.array_equal(np.array(items["vector"].to_pylist(), np.float32), answer["embedding"])
    assert np.array_equal(items["bias"].to_numpy(), answer["bias"])
    stamped = json.loads((tmp_path / "export" / "1" / "assets.extra" / "fingerprint.json").read_text())
    manifest = json.loads((tmp_path / "vectors" / "manifest.json").read_text())
    names = ("towers", "items", "statistics_as_of", "generation")
    assert {name: manifest[name] for name in names} == {name: stamped[name] for name in names}
    (items,) = (flag for flag in trained.flags if flag.startswith("--items="))
    done = run_module("refresh", *flags, items, f"--vectors={tmp_path}/vectors")
    assert done.returncode == 0, done.stderr
    stamped = json.loads((tmp_path / "export" / "2" / "assets.extra" / "fingerprint.json").read_text())
    manifest = json.loads((tmp_path / "vectors" / "manifest.json").read_text())
    assert {name: manifest[name] for name in names} == {name: stamped[name] for name in names}
    done = run_module("export", *flags, f"--vectors={tmp_path}")
    assert done.returncode == 2 and "lies in it" in done.stderr
    assert versions(str(tmp_path / "export")) == [1, 2]
