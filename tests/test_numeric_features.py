"""--numeric_features: numbers of items in bins, from tables to an export, a refresh and an update; ids are text."""

import dataclasses
import json
import pathlib

import numpy as np
import pandas as pd
import pytest
from fresh import ask_fresh
from test_warm_start import NEW_DAY, TINY, text_world
from trained import run_module, write_tables
from worlds import START

from longretriever_tf.api.settings import Config as ApiConfig
from longretriever_tf.common.errors import UserError
from longretriever_tf.common.schema import DAY_S, FIRST_KNOWN, UNKNOWN
from longretriever_tf.config.config import Config, DataConfig, load_config
from longretriever_tf.data.batches.prepared_data import load_saved, prepare
from longretriever_tf.data.corpus import Corpus
from longretriever_tf.data.window.build import build_window
from longretriever_tf.datasets.load import load_log, open_sharded_log
from longretriever_tf.datasets.log_identity import identify_log, identify_shards
from longretriever_tf.retrieval.export.refresh import Catalogue, refresh_version
from longretriever_tf.retrieval.export.saved_model import load_extra
from longretriever_tf.serving.client import Request
from longretriever_tf.serving.client.in_process import LocalClient
from longretriever_tf.training.warm_start.earlier_run import open_earlier_run, require_continuation

NUMBERS = ("--numeric_features=price,weight", "--numeric_bins=4")
SMALL = tuple(flag for flag in TINY if "shelf" not in flag and "user_features" not in flag and flag != "--profile")


def write_numbers(directory: pathlib.Path, until: int) -> tuple[str, ...]:
    """Text ids; `price` as text of many spellings with holes, `weight` zero for most items; no users table."""
    log = text_world(until)
    flags = write_tables(log, directory)
    items = pd.read_parquet(directory / "items.parquet")
    number = np.array([sum(map(ord, item)) % 97 for item in items.item_id])
    items["price"] = [None if n % 9 == 0 else f"{n}.0" if n % 2 else str(n) for n in number]
    items["weight"] = np.where(number % 3 == 0, number / 7, 0)
    items["shelf_no"] = number % 40
    items.to_parquet(directory / "items.parquet")
    return tuple(flag for flag in flags if "--users" not in flag)


def prices(directory: pathlib.Path) -> dict[str, float]:
    items = pd.read_parquet(directory / "items.parquet")
    return dict(zip(items.item_id, pd.to_numeric(items.price), strict=True))


def bins_of(corpus: Corpus, name: str) -> dict[str, str]:
    column = corpus.item_feature[:, list(corpus.feature_values).index(name)]
    return dict(zip(corpus.item_id.tolist(), corpus.feature_values[name][column].tolist(), strict=True))


@dataclasses.dataclass(frozen=True)
class World:
    """A finished run on the days before `NEW_DAY`, its export, and the tables of then and of today."""

    folder: pathlib.Path
    run: str
    export: str
    old: tuple[str, ...]
    today: tuple[str, ...]


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> World:
    folder = tmp_path_factory.mktemp("numbers")
    tables = {}
    for name, until in (("old", NEW_DAY), ("today", 84)):
        (folder / name).mkdir()
        tables[name] = write_numbers(folder / name, until)
    run, export = f"{folder}/run", f"{folder}/export"
    flags = (*SMALL, *NUMBERS, *tables["old"], "--score_weights_users=0")
    for name, given in (("train", flags), ("export", (f"--export_dir={export}", "--nocheck"))):
        done = run_module(name, *given, f"--run_dir={run}")
        assert done.returncode == 0, done.stderr
    return World(folder, run, export, tables["old"], tables["today"])


def test_bins_are_quantiles_of_the_items_before_the_cut_and_part_of_the_export(world):
    corpus = load_saved(world.run)[0]
    of = prices(world.folder / "old")
    known = np.array([of[item] for item in corpus.item_id[FIRST_KNOWN:].tolist()])
    edges = corpus.feature_edges["price"]
    counts = np.histogram(known[~np.isnan(known)], [-np.inf, *edges, np.inf])[0]
    assert len(counts) == 4 and counts.max() - counts.min() <= 3, "bins of about as many items each"
    names = bins_of(corpus, "price")
    for item, price in zip(corpus.item_id[FIRST_KNOWN:].tolist(), known.tolist(), strict=True):
        low, high = ([-np.inf, *edges][(edges <= price).sum()], [*edges, np.inf][(edges <= price).sum()])
        assert names[item] == "" if np.isnan(price) else low <= price < high
    assert "" in corpus.feature_values["price"][FIRST_KNOWN:], "a missing number is a value of its own"
    assert "" not in corpus.feature_values["weight"][FIRST_KNOWN:]
    first = corpus.feature_edges["weight"][0]
    zeros = [item for item, name in bins_of(corpus, "weight").items() if name == f"below {first}"]
    weights = pd.read_parquet(world.folder / "old" / "items.parquet").set_index("item_id").weight
    assert (weights[zeros] == 0).all(), "zero, which fills a bin, has one of its own"
    exported = load_extra(f"{world.export}/1")
    assert {name: edges.tolist() for name, edges in exported.feature_edges.items()} == {
        name: edges.tolist() for name, edges in corpus.feature_edges.items()
    }


def test_a_refresh_keeps_the_edges_and_bins_new_and_changed_items(world, tmp_path):
    items = pd.read_parquet(world.folder / "old" / "items.parquet").drop(columns=["shelf_no"])
    before = bins_of(load_extra(f"{world.export}/1"), "price")
    changed = next(item for item in items.item_id if before[item].startswith("below"))
    items.loc[items.item_id == changed, "price"] = "1e6"
    new = {"item_id": ["a-new", "b-new"], "category": ["tea", "tea"], "brand": ["b1t", "b1t"]}
    items = pd.concat([items, pd.DataFrame({**new, "price": ["-1e9", None], "weight": [0.0, None]})])
    items.to_csv(tmp_path / "items.csv", index=False)
    config = load_config(world.run)
    found = refresh_version(config, f"{world.export}/1", Catalogue(f"{tmp_path}/items.csv", new_items="typical"))
    corpus = found.source.corpus
    now = bins_of(corpus, "price")
    last = load_saved(world.run)[0].feature_values["price"]
    top = next(name for name in last.tolist() if name.startswith("from"))
    assert now[changed] == top and found.counts["altered"] == 1 and found.counts["new"] == 2
    assert now["a-new"].startswith("below") and now["b-new"] == ""
    assert bins_of(corpus, "weight")["b-new"] == "(unknown)", "no item lacked its weight at the cut"
    assert {item: name for item, name in now.items() if item in before and item != changed} == {
        item: name for item, name in before.items() if item != changed
    }
    vectors = found.source.models.retriever.item_tower(corpus.find_items(np.array([changed], object))).numpy()
    old = load_extra(f"{world.export}/1").find_items(np.array([changed], object))
    from longretriever_tf.models.build import load_models

    run_corpus, arrays = load_saved(world.run)
    models = load_models(config, run_corpus, arrays["item_svd"])
    assert np.abs(vectors - models.retriever.item_tower(old).numpy()).max() > 1e-3, "the tower reads the price"
    items["price"] = items.price.replace("1e6", "cheap")
    items.to_csv(tmp_path / "items.csv", index=False)
    with pytest.raises(UserError, match=r"column 'price': 1 of \d+ values are no finite numbers, the first is 'cheap'"):
        refresh_version(config, f"{world.export}/1", Catalogue(f"{tmp_path}/items.csv"))
    items.drop(columns="price").to_csv(tmp_path / "items.csv", index=False)
    with pytest.raises(UserError, match=r"no column 'price' \(--numeric_features\)"):
        refresh_version(config, f"{world.export}/1", Catalogue(f"{tmp_path}/items.csv"))


def test_an_update_keeps_the_edges_and_says_so(world, tmp_path):
    done = run_module("train", f"--warm_start={world.run}", *world.today, f"--run_dir={tmp_path}/run")
    assert done.returncode == 0, done.stderr
    assert "bins of numeric features: kept with their edges (price 4, weight 3)" in done.stdout, done.stdout
    before, after = load_saved(world.run)[0], load_saved(f"{tmp_path}/run")[0]
    assert after.num_items > before.num_items
    for name, edges in before.feature_edges.items():
        np.testing.assert_array_equal(after.feature_edges[name], edges)
    config = load_config(f"{tmp_path}/run")
    for settings, words in (
        ({"numeric_bins": 9}, "was trained with --numeric_bins=4, and an update keeps the bins"),
        ({"numeric_features": ("price",)}, "with the numeric columns price, weight, and this log has price: give the"),
        ({"numeric_features": (), "item_features": ("brand", "price", "weight")}, "this log has [(]none[)]"),
    ):
        data = dataclasses.replace(config.data, **settings)
        changed = dataclasses.replace(config, data=data)
        with pytest.raises(UserError, match=words):
            require_continuation(open_earlier_run(changed), changed, load_log(data), after.cut)
