"""Another catalogue under the same towers: who comes, goes and moves, and that nothing else changes."""

import dataclasses
import os
import shutil
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import reference
import tensorflow as tf
from trained import run_module

from longretriever_tf.common import schema
from longretriever_tf.common.errors import UserError
from longretriever_tf.config.config import Config, DataConfig, to_json
from longretriever_tf.data.batches.prepared_data import load_saved
from longretriever_tf.datasets.load import load_log
from longretriever_tf.datasets.log import ItemTable
from longretriever_tf.models.build import load_for_export, load_models
from longretriever_tf.retrieval.export.log_of_today import Catalogue
from longretriever_tf.retrieval.export.publish import publish
from longretriever_tf.retrieval.export.refresh import refresh_corpus, refresh_version
from longretriever_tf.retrieval.export.saved_model import extra_config_dir, load_extra
from longretriever_tf.retrieval.export.version_dirs import versions
from longretriever_tf.retrieval.fingerprint import fingerprint_towers, read_fingerprint
from longretriever_tf.retrieval.request_options import default_columns
from longretriever_tf.serving.server.warmup import replay

NEW, GONE, MOVED, ALTERED = 900, 103, 110, 121
"""A new item of brand b1 in c1; 103 (c3) leaves; 110 goes from c3 to c5; 121 (c0) changes its brand to one not seen."""

ROUNDING = {"rtol": 1e-5, "atol": 1e-6}
"""A matrix product rounds a row by its place in the matrix, and rows move."""

SEEN = ("c0", "c1", "c3", "c5")
DAY = schema.DAY_S


def catalogue_of(corpus) -> pd.DataFrame:
    """The items table that says what the export knows already."""
    known = slice(schema.FIRST_KNOWN, None)
    brand = corpus.feature_values["brand"][corpus.item_feature[known, 0]]
    category = corpus.category_name[corpus.item_category[known]]
    return pd.DataFrame({"item_id": corpus.item_id[known], "category": category, "brand": brand})


def changed(table: pd.DataFrame) -> pd.DataFrame:
    table = table[table.item_id != GONE].copy()
    table.loc[table.item_id == MOVED, "category"] = "c5"
    table.loc[table.item_id == ALTERED, "brand"] = "never seen"
    row = pd.DataFrame({"item_id": [NEW], "category": ["c1"], "brand": ["b1"]})
    return pd.concat([table, row]).sample(frac=1, random_state=3)


class Version:
    """A loaded export, asked about one made-up history."""

    def __init__(self, directory: str) -> None:
        self.directory, self.corpus = directory, load_extra(directory)
        self._signatures = tf.saved_model.load(directory).signatures

    def ask(self, signature: str, history: list[int], config, **options) -> dict[str, np.ndarray]:
        times = self.corpus.cut - DAY * (1 + np.arange(len(history)))
        columns = default_columns(config.retrieval, tf.int64) | {
            "history_item_id": tf.constant([history], tf.int64),
            "history_timestamp": tf.constant(times[None], tf.int64),
            "request_timestamp": tf.constant([self.corpus.cut], tf.int64),
            "taste": tf.constant(["b1"]),
        }
        fixed = {"k": tf.int32, "num_interests": tf.int32, "top_interests": tf.int32, "category": tf.string}
        kinds = {name: column.dtype for name, column in columns.items()} | fixed
        columns |= {name: tf.constant(value, kinds[name]) for name, value in options.items()}
        wanted = self._signatures[signature].structured_input_signature[1]
        answer = self._signatures[signature](**{name: columns[name] for name in wanted})
        return {name: value.numpy() for name, value in answer.items()}

    def in_category(self, category: str, history: list[int], config) -> list[int]:
        """Every item of a category, best first."""
        answer = self.ask("retrieve_in_category", history, config, category=[category], k=[200])
        return answer["item_id"][0][: answer["num_valid"][0]].tolist()

    def vectors(self, ids) -> tuple[np.ndarray, np.ndarray]:
        answer = self._signatures["item_embeddings"](item_id=tf.constant(ids, tf.int64))
        return answer["embedding"].numpy(), answer["bias"].numpy()


@pytest.fixture(scope="module")
def pair(trained, tmp_path_factory):
    """The export as trained, and its refresh by the changed table."""
    directory = tmp_path_factory.mktemp("refresh")
    export_dir = str(directory / "export")
    shutil.copytree(trained.export_dir, export_dir)
    old = Version(os.path.join(export_dir, "1"))
    table = str(directory / "items.parquet")
    changed(catalogue_of(old.corpus)).to_parquet(table)
    source, counts, _ = refresh_version(trained.config, old.directory, Catalogue(table))
    assert counts == {"new": 1, "returned": 0, "moved": 1, "altered": 1, "unchanged": 94, "retired": 1}
    new = Version(publish(source, export_dir, 0, None).directory)
    assert versions(export_dir) == [1, 2]
    return old, new


def test_a_new_item_is_found_by_its_side_features_alone(trained, pair):
    old, new = pair
    brothers = [100 + v for v in range(97) if v % 7 == 1 and v // 7 % 2 == 1]  # of brand b1 in c1
    found = new.in_category("c1", brothers, trained.config)
    assert NEW in found and NEW not in old.in_category("c1", brothers, trained.config)
    corpus, arrays = load_saved(trained.run_dir)
    tower = load_models(trained.config, corpus, arrays["item_svd"]).retriever.item_tower
    category = int(np.flatnonzero(corpus.category_name == "c1")[0])
    brand = int(np.flatnonzero(corpus.feature_values["brand"] == "b1")[0])
    expected = tower.embed(
        tf.constant([category]), tf.constant([[brand]]), tf.constant([schema.UNKNOWN]), tf.zeros([1, 8])
    )
    np.testing.assert_allclose(new.vectors([NEW])[0], expected.numpy(), rtol=1e-5)


def test_a_retired_item_never_comes_back_and_still_speaks_in_histories(trained, pair):
    old, new = pair
    history = [GONE, GONE, 117, 124]  # all of c3
    assert GONE in old.in_category("c3", history, trained.config)
    assert GONE not in new.in_category("c3", history, trained.config)
    answers = [version.ask("serving_default", history, trained.config, k=[97]) for version in pair]
    assert GONE in answers[0]["item_id"] and GONE not in answers[1]["item_id"]
    for goal in ("all", "novel"):  # novel: what the history holds is excluded, the retired item among it
        answer = new.ask("serving_default", history, trained.config, k=[97], goal=[goal], exclude_item_id=[[GONE]])
        assert GONE not in answer["item_id"] and answer["num_valid"][0] > 0
    names = [answer["interest_category"][0].tolist() for answer in answers]
    events = [answer["interest_num_events"][0][name.index(b"c3")] for answer, name in zip(answers, names, strict=True)]
    assert events == [4, 4]
    states = [version.ask("user_embeddings", history, trained.config, category=["c3"]) for version in pair]
    np.testing.assert_allclose(states[0]["embedding"], states[1]["embedding"], **ROUNDING)


def test_a_category_change_moves_the_item_and_its_events(trained, pair):
    old, new = pair
    assert MOVED in old.in_category("c3", [117], trained.config)
    assert MOVED not in new.in_category("c3", [117], trained.config)
    assert MOVED in new.in_category("c5", [117], trained.config)
    answer = new.ask("serving_default", [MOVED], trained.config, k=[97])
    assert dict(zip(answer["item_id"][0], answer["category"][0], strict=True))[MOVED] == b"c5"
    events = dict(zip(answer["interest_category"][0], answer["interest_num_events"][0], strict=True))
    assert events.get(b"c5") == 1 and not events.get(b"c3")


def test_unchanged_items_keep_their_vectors_and_biases(pair):
    old, new = pair
    known = old.corpus.item_id[schema.FIRST_KNOWN :]
    same = known[~np.isin(known, (MOVED, ALTERED))]
    for before, after in zip(old.vectors(same), new.vectors(same), strict=True):
        np.testing.assert_allclose(before, after, **ROUNDING)
    for raw in (MOVED, ALTERED):
        assert np.abs(old.vectors([raw])[0] - new.vectors([raw])[0]).max() > 1e-4
    np.testing.assert_array_equal(old.vectors([MOVED])[1], new.vectors([MOVED])[1])  # its statistics follow it


def test_requests_that_the_changes_do_not_touch_get_the_same_answer(trained, pair):
    rng = np.random.default_rng(5)
    for _ in range(5):
        history = rng.choice([100 + v for v in range(97) if f"c{v % 7}" not in SEEN], 11).tolist()
        options = {"k": [23], "forbidden_category": [list(SEEN)], "seed": [7]}
        old, new = (version.ask("serving_default", history, trained.config, **options) for version in pair)
        assert old["num_valid"][0] == 23
        for name, value in old.items():
            same = np.testing.assert_allclose if value.dtype.kind == "f" else np.testing.assert_array_equal
            same(value, new[name], err_msg=name, **ROUNDING if value.dtype.kind == "f" else {})


def test_a_refresh_keeps_the_fingerprint_of_the_towers_and_not_that_of_the_items(pair):
    old, new = (read_fingerprint(extra_config_dir(version.directory)) for version in pair)
    assert old.towers == new.towers and old.items != new.items and len(old.towers) == 32
    for version, stamped in zip(pair, (old, new), strict=True):
        answer = version._signatures["fingerprint"](expected=tf.constant([old.towers, ""]))
        assert answer["towers"].numpy().tolist() == [old.towers.encode()] * 2
        assert answer["items"].numpy()[0] == stamped.items.encode()
        with pytest.raises(tf.errors.InvalidArgumentError, match="deadbeef"):
            version._signatures["fingerprint"](expected=tf.constant(["deadbeef"]))


def test_a_refresh_of_a_refresh_brings_an_item_back_as_it_was(trained, pair, tmp_path):
    old, new = pair
    table = str(tmp_path / "items.csv")
    catalogue_of(old.corpus).to_csv(table, index=False)
    source, counts, _ = refresh_version(trained.config, new.directory, Catalogue(table))
    assert counts == {"new": 0, "returned": 1, "moved": 1, "altered": 1, "unchanged": 94, "retired": 1}
    again = Version(publish(source, str(tmp_path / "export"), 0, None).directory)
    known = old.corpus.item_id[schema.FIRST_KNOWN :]
    for before, after in zip(old.vectors(known), again.vectors(known), strict=True):
        np.testing.assert_allclose(before, after, **ROUNDING)
    assert again.in_category("c3", [117], trained.config) == old.in_category("c3", [117], trained.config)


def test_an_emptied_category_is_no_interest(trained, pair, tmp_path):
    old, _ = pair
    table = catalogue_of(old.corpus)
    table[table.category != "c2"].to_csv(tmp_path / "items.csv", index=False)
    source, counts, _ = refresh_version(
        trained.config, old.directory, Catalogue(str(tmp_path / "items.csv"), max_retired=0.5)
    )
    assert counts["retired"] == 14
    new = Version(publish(source, str(tmp_path / "export"), 0, None).directory)
    answer = new.ask("serving_default", [102, 109], trained.config, k=[97], num_interests=[7], top_interests=[7])
    assert b"c2" not in answer["interest_category"] and b"c2" not in answer["category"]
    assert answer["num_valid"][0] == 83 and np.isfinite(answer["score"]).all()
    assert new.in_category("c2", [102], trained.config) == []


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (lambda t: t.assign(category=t.category.replace("c2", "zz")), ("'zz' (14 items)", "--skip_new_categories")),
        (lambda t: t.head(40), ("lacks 57 of the 97 items", "--max_retired=0.2")),
        (lambda t: t.drop(columns="brand"), ("'brand'", "item_id, category")),
        (lambda t: t.assign(item_id=t.item_id.astype(str).replace("107", "x7")), ("'x7'", "whole numbers")),
    ],
)
def test_a_table_that_is_no_catalogue_is_refused(trained, pair, tmp_path, edit, words):
    old, _ = pair
    path = str(tmp_path / "items.csv")
    edit(catalogue_of(old.corpus)).to_csv(path, index=False)
    with pytest.raises(UserError) as caught:
        refresh_version(trained.config, old.directory, Catalogue(path))
    for word in words:
        assert word in str(caught.value)


def test_statistics_of_new_items(trained, pair, tmp_path):
    old, _ = pair
    path = str(tmp_path / "items.csv")
    changed(catalogue_of(old.corpus)).to_csv(path, index=False)
    known = load_saved(trained.run_dir)[1]["item_stats"]
    c1 = old.corpus.item_category == np.flatnonzero(old.corpus.category_name == "c1")[0]
    for kind, expected in (("unseen", known[schema.UNKNOWN]), ("typical", np.median(known[c1], axis=0))):
        source, *_ = refresh_version(trained.config, old.directory, Catalogue(path, new_items=kind))
        row = source.corpus.find_items(np.array([NEW, 100]))
        np.testing.assert_array_equal(source.arrays["item_stats"][row[0]], expected)
        np.testing.assert_array_equal(source.arrays["item_stats"][row[1]], known[old.corpus.find_items([100])[0]])


def test_skipped_categories_leave_the_catalogue(trained):
    corpus, _ = load_saved(trained.run_dir)
    table = catalogue_of(corpus)
    features = {"category": table.category.replace("c2", "zz").to_numpy(str), "brand": table.brand.to_numpy(str)}
    items = ItemTable(table.item_id.to_numpy(), features, table.item_id.to_numpy(str))
    refreshed = refresh_corpus(corpus, corpus, items, "category", skip_new_categories=True)
    assert refreshed.counts["skipped"] == refreshed.counts["retired"] == 14
    assert refreshed.corpus.num_items == corpus.num_items
    for row, raw in enumerate(refreshed.corpus.item_id):  # every table follows its item
        assert corpus.item_id[refreshed.trained_row[row]] == raw


def test_another_runs_towers_are_refused(trained, pair, tmp_path):
    """By weights alone: one number of one table differs."""
    old, _ = pair
    run_dir = str(tmp_path / "run")
    shutil.copytree(trained.run_dir, run_dir)
    config = dataclasses.replace(trained.config, train=dataclasses.replace(trained.config.train, run_dir=run_dir))
    corpus, arrays, models = load_for_export(config)
    assert (
        fingerprint_towers(config, corpus, models, arrays) == read_fingerprint(extra_config_dir(old.directory)).towers
    )
    table = models.retriever.item_tower.category_table
    table.assign_add(tf.one_hot([2], table.shape[0], 1e-3, axis=0) * tf.ones([1, table.shape[1]]))
    weights = os.path.join(run_dir, "checkpoints", "final", "weights")
    tf.train.Checkpoint(retriever=models.retriever, interest=models.interest).write(weights)
    catalogue_of(corpus).to_csv(tmp_path / "items.csv", index=False)
    flags = f"--run_dir={run_dir}", f"--export_dir={os.path.dirname(old.directory)}", f"--items={tmp_path}/items.csv"
    done = run_module("refresh", *flags)
    assert done.returncode == 2 and done.stderr.startswith("error: ") and "Traceback" not in done.stderr
    assert read_fingerprint(extra_config_dir(old.directory)).towers in done.stderr and run_dir in done.stderr


def test_files_of_two_versions_are_not_served_together(trained, pair, tmp_path):
    """Same towers, same shapes, another catalogue: TensorFlow would load the mixture and answer with wrong items."""
    old, _ = pair
    table = catalogue_of(old.corpus)
    table.loc[table.item_id == MOVED, "category"] = "c5"
    table.to_csv(tmp_path / "items.csv", index=False)
    source, *_ = refresh_version(trained.config, old.directory, Catalogue(str(tmp_path / "items.csv")))
    mixed = publish(source, str(tmp_path / "export"), 0, None).directory
    load_extra(mixed)  # whole so far; test_former_runs has a refreshed version answer its warm-up requests
    shutil.copy(os.path.join(extra_config_dir(old.directory), "corpus.npz"), extra_config_dir(mixed))
    with pytest.raises(UserError, match="files of two versions were mixed"):
        load_extra(mixed)
    shutil.rmtree(os.path.join(mixed, "variables"))
    shutil.copytree(os.path.join(old.directory, "variables"), os.path.join(mixed, "variables"))
    with pytest.raises(UserError) as caught:
        replay(mixed)
    stamps = [read_fingerprint(extra_config_dir(version)).items for version in (old.directory, mixed)]
    assert "cannot be served" in str(caught.value) and stamps[0] != stamps[1]


def test_statistics_are_renewed_from_the_log_of_today(trained, pair, tmp_path):
    """By the command: the run's log goes on after the cut, and statistics are as the oracle counts them at its end."""
    old, _ = pair
    export_dir = str(tmp_path / "export")
    shutil.copytree(os.path.dirname(old.directory), export_dir)
    shutil.rmtree(os.path.join(export_dir, "2"))
    log = load_log(trained.config.data)
    events = next(flag for flag in trained.flags if flag.startswith("--events="))
    done = run_module("refresh", f"--run_dir={trained.run_dir}", f"--export_dir={export_dir}", events, "--nocheck")
    assert done.returncode == 0, done.stderr
    size = log.num_events
    assert f"{size} rows read = {size} in the log so far + 0 new events" in done.stdout.replace(",", "")
    new = Version(os.path.join(export_dir, "2"))
    as_of = int(log.timestamp.max()) + 1
    for version, expected in ((old, old.corpus.cut), (new, as_of)):
        answer = version._signatures["fingerprint"](expected=tf.constant([""]))["statistics_as_of"]
        assert answer.numpy().tolist() == [expected]
        assert read_fingerprint(extra_config_dir(version.directory)).statistics_as_of == expected
    known = old.corpus.item_id[schema.FIRST_KNOWN :]
    before, after = (version.vectors(known) for version in (old, new))
    np.testing.assert_allclose(before[0], after[0], **ROUNDING)  # vectors
    model = load_for_export(trained.config)[2].retriever
    counted = reference.stats_at(log, as_of, lambda row: int(log.items.item_id[row]))
    stats = np.array([counted[int(raw)] for raw in known], np.float32)
    bias = model.item_bias(tf.range(schema.FIRST_KNOWN, len(known) + schema.FIRST_KNOWN), tf.constant(stats))
    np.testing.assert_allclose(after[1], bias, rtol=1e-4, atol=1e-4)
    assert np.abs(after[1] - before[1]).max() > 1e-3


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (lambda t: t[t.timestamp > t.timestamp.quantile(0.9)], ("% of the popularity", "--whole_log")),
        (lambda t: t[t.timestamp < t.timestamp.quantile(0.4)], ("ends at", "the whole log of today")),
        (lambda t: t.assign(item_id=t.item_id + 10_000), ("no event of any item", "another log")),
    ],
)
def test_a_table_that_is_not_the_whole_log_is_refused(trained, pair, tmp_path, edit, words):
    old, _ = pair
    events = next(flag for flag in trained.flags if flag.startswith("--events=")).removeprefix("--events=")
    path = str(tmp_path / "events.parquet")
    edit(pd.read_parquet(events)).to_parquet(path)
    with pytest.raises(UserError) as caught:
        refresh_version(trained.config, old.directory, Catalogue(events=path, whole_log=True))
    for word in (path, *words):
        assert word in str(caught.value)


def test_a_refresh_of_nothing_is_refused(trained, pair):
    with pytest.raises(UserError, match="--items=TABLE .* or both"):
        refresh_version(trained.config, pair[0].directory, Catalogue())
    with pytest.raises(UserError, match="--whole_log says what --events=TABLE holds"):
        refresh_version(trained.config, pair[0].directory, Catalogue(recount=True, whole_log=True))


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"whole_log": True, "recount": True}, "--recount says how to read the run's own log, and --whole_log"),
        ({"item_column": "sku"}, "--item_column=sku is of the table of --items"),
        ({"skip_new_categories": True}, "--skip_new_categories is of the table of --items"),
    ],
)
def test_a_flag_that_nothing_would_read_is_refused(given, words):
    with pytest.raises(UserError, match=words):
        refresh_version(Config(), "exports/1", Catalogue(events="day.parquet", **given))


OF_A_PREPARED_LOG = """
import sys, types
from absl import flags as absl_flags
from longretriever_tf import refresh
from longretriever_tf.config.config import load_config
from longretriever_tf.retrieval.export import publish, refresh as steps

def version(config, version_dir, catalogue):
    source = publish.Source(config, *[None] * (len(publish.Source._fields) - 1))
    return steps.RefreshedVersion(source, {}, "")

def published(source, export_dir, *_):
    print("data:", source.config.data.data, source.config.data.events, "index:", source.config.index.index)
    sys.exit(0)

steps.refresh_version, publish.publish = version, published
absl_flags.FLAGS(["", *sys.argv[1:]])
refresh.main([])
"""


def test_the_flags_of_a_refresh_are_not_laid_over_the_log_of_the_run(tmp_path):
    """The run of a prepared log takes no --events in training, and a refresh of it does."""
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text(to_json(Config(data=DataConfig(data="shards"))))
    (tmp_path / "export" / "1").mkdir(parents=True)
    given = f"--run_dir={tmp_path}/run", f"--export_dir={tmp_path}/export", "--events=day.csv", "--index=packed"
    line = [sys.executable, "-c", OF_A_PREPARED_LOG, *given]
    done = subprocess.run(line, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("data: shards  index: packed\n")
