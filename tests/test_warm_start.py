"""`train --warm_start`: a run goes on from another one, on a log with new days, items, users, values and a category."""

import dataclasses
import datetime
import json
import pathlib
import re
import shutil

import numpy as np
import pandas as pd
import pytest
import tensorflow as tf
from fresh import ask_fresh
from test_resume import final_weights, kill_in_mid_training, losses
from test_run_dirs import contents
from trained import FLAGS, command, run_module, write_tables
from worlds import START, make_log

from longretriever_tf.common.errors import UserError
from longretriever_tf.common.schema import DAY_S, FIRST_KNOWN, UNKNOWN
from longretriever_tf.config.config import Config, DataConfig, ModelConfig, TrainConfig, UpdateConfig, load_config
from longretriever_tf.data.batches.prepared_data import load_saved, prepare, prepare_examples
from longretriever_tf.data.batches.update_examples import UpdateChoice
from longretriever_tf.data.corpus import Corpus
from longretriever_tf.data.recipe.item_svd import DistinctPairs, fit_pairs_svd, refit_pairs_svd
from longretriever_tf.data.recipe.row_keys import grow_corpus
from longretriever_tf.data.recipe.svd_growth import align_rows, earlier_rows, fold_in_rows, mean_cosine
from longretriever_tf.data.recipe.tokens import num_token_features
from longretriever_tf.datasets.log import LifelongLog
from longretriever_tf.datasets.sharded_log import ShardedLog
from longretriever_tf.models.build import build_models, load_models
from longretriever_tf.models.growth import grow_models, grow_moments
from longretriever_tf.models.optimizer import LazyAdamW
from longretriever_tf.models.towers import UserInputs
from longretriever_tf.retrieval.export.log_of_today import Catalogue
from longretriever_tf.retrieval.export.refresh import refresh_version
from longretriever_tf.retrieval.export.saved_model import load_extra
from longretriever_tf.retrieval.fingerprint import read_fingerprint
from longretriever_tf.serving.client import Request
from longretriever_tf.serving.client.in_process import LocalClient
from longretriever_tf.training.warm_start.earlier_run import EarlierRun, require_continuation, with_trained_context

DAYS, NEW_DAY = 84, 70
NEW_ITEMS = ("a-first", "cake-07x", "rum-1", "rum-2", "zz-last")
"""Ids between, before and after the old ones; the rums are a new category."""


def text_world(days: int = DAYS, seed: int = 3):
    """Users `u00`... take items of their two categories; from `NEW_DAY` on there are new items, users and values."""
    rng = np.random.default_rng(seed)
    kinds = ("cake", "milk", "nuts", "tea")
    old_items = [f"{kind}-{number:02d}" for kind in kinds for number in range(12)]
    category = {item: item[:4].rstrip("-") for item in old_items} | {
        "a-first": "tea",
        "cake-07x": "cake",
        "rum-1": "rum",
        "rum-2": "rum",
        "zz-last": "milk",
    }
    user, item, time = [], [], []
    for u in range(44):
        own = [kinds[u % 4], kinds[(u + 1) % 4]]
        first = NEW_DAY if u >= 40 else 0
        for _ in range(60 if first == 0 else 12):
            day = rng.uniform(first, DAYS)
            known = [one for one in (old_items if day < NEW_DAY else [*old_items, *NEW_ITEMS])]
            pool = [one for one in known if category[one] in own or (one in NEW_ITEMS and rng.random() < 0.5)]
            user.append(f"u{u:02d}")
            item.append(pool[int(rng.integers(len(pool)))])
            time.append(START + int(day * DAY_S))
    keep = np.array(time) < START + days * DAY_S
    user, item, time = (np.array(column)[keep] for column in (user, item, time))
    ids = np.unique(item)
    brands = {"rum": "b-new"}
    return make_log(
        user,
        item,
        time,
        {
            "category": [category[one] for one in ids],
            "brand": [brands.get(category[one], f"b{len(one) % 2}{one[0]}") for one in ids],
            "shelf": ["dry" if category[one] in ("nuts", "rum") else "cold" for one in ids],
        },
        item_id=ids,
        profile={"taste": [f"t{int(one[1:]) % 3}" for one in np.unique(user)]},
    )


@dataclasses.dataclass(frozen=True)
class Days:
    """The old run, and the flags of the log of today."""

    old: str
    today: tuple[str, ...]

    def flags(self, run_dir: str | pathlib.Path, *more: str) -> tuple[str, ...]:
        return f"--warm_start={self.old}", *self.today, *more, f"--run_dir={run_dir}"


TINY = (
    *(*FLAGS, "--item_features=brand,shelf", "--numeric_features=price,weight", "--numeric_bins=4"),
    *("--request_features=hour,weekday", "--timezone_offset_hours=5.5"),
    *("--cut=none", "--num_snapshots=6", "--interest_epochs=1", "--epochs=1"),
)


def write_world(log: LifelongLog, directory: pathlib.Path) -> tuple[str, ...]:
    """The tables with two columns of numbers: `price` as text with holes, `weight` zero for most items."""
    flags = write_tables(log, directory)
    items = pd.read_parquet(directory / "items.parquet")
    number = np.array([sum(map(ord, item)) % 97 for item in items.item_id])
    items["price"] = [None if n % 9 == 0 else f"{n}.0" if n % 2 else str(n) for n in number]
    items["weight"] = np.where(number % 3 == 0, number / 7, 0)
    items.to_parquet(directory / "items.parquet")
    return flags


@pytest.fixture(scope="module")
def days(tmp_path_factory) -> Days:
    """A run on the days before `NEW_DAY`, with text ids."""
    directory = tmp_path_factory.mktemp("days")
    tables = {}
    for name, until in (("old", NEW_DAY), ("today", DAYS)):
        (directory / name).mkdir()
        tables[name] = write_world(text_world(until), directory / name)
    done = run_module("train", *TINY, *tables["old"], "--score_weights_users=0", f"--run_dir={directory}/run")
    assert done.returncode == 0, done.stderr
    assert "snapshots every 7 days share one hour and one weekday, and no other is learned" in done.stderr
    return Days(f"{directory}/run", tables["today"])


@pytest.fixture(scope="module")
def updated(days, tmp_path_factory) -> tuple[str, str]:
    """The run that goes on from it, and what its command printed; the old run is as it was."""
    run_dir, before = str(tmp_path_factory.mktemp("updated") / "run"), contents(days.old)
    done = run_module("train", *days.flags(run_dir))
    assert done.returncode == 0, done.stderr
    assert contents(days.old) == before
    return run_dir, done.stdout


def test_an_update_says_what_is_new_and_what_it_goes_on_from(days, updated):
    run_dir, printed = updated
    assert "14.0 new days" in printed or "13.9 new days" in printed
    assert "5 items, 1 categories, 4 brand" in printed, printed
    assert "--events:" in printed and "5 new items folded in" in printed
    update = json.loads(pathlib.Path(run_dir, "warm_start.json").read_text())
    assert update["generation"] == 2 and update["warm_start"] == days.old
    assert update["examples"]["new_days"] > 0 and update["examples"]["replayed"] > 0
    assert update["svd"]["mean_cosine"] == pytest.approx(1.0), "known items keep their rows until the next fit"
    config = load_config(run_dir)
    assert (config.train.epochs, config.train.interest_epochs, config.model.dim) == (1, 1, 16)
    corpus, arrays = load_saved(run_dir)
    assert int(arrays["generation"]) == 2 and set(NEW_ITEMS) <= set(corpus.item_id.tolist())


@pytest.fixture(scope="module")
def exported(updated, tmp_path_factory) -> str:
    export_dir = str(tmp_path_factory.mktemp("exported") / "export")
    done = run_module("export", f"--run_dir={updated[0]}", f"--export_dir={export_dir}", "--nocheck")
    assert done.returncode == 0, done.stderr
    return export_dir


def bins_of(corpus: Corpus, name: str) -> dict[str, str]:
    """The bin of each item, as the item tower reads it."""
    column = corpus.item_feature[:, list(corpus.feature_values).index(name)]
    return dict(zip(corpus.item_id.tolist(), corpus.feature_values[name][column].tolist(), strict=True))


def test_bins_are_quantiles_of_the_items_before_the_cut_and_an_update_keeps_them(days, updated):
    old, new = load_saved(days.old)[0], load_saved(updated[0])[0]
    items = pd.read_parquet(load_config(days.old).data.items).set_index("item_id")
    known = items.price.astype(float)[old.item_id[FIRST_KNOWN:]]
    edges, names = old.feature_edges["price"], bins_of(old, "price")
    counts = np.histogram(known.dropna(), [-np.inf, *edges, np.inf])[0]
    assert len(counts) == 4 and counts.max() - counts.min() <= 2, "bins of about as many items each"
    for item, price in known.items():
        bin_number = int((edges <= price).sum())
        assert names[item] == ("" if np.isnan(price) else old.feature_values["price"][FIRST_KNOWN + bin_number])
    assert "" in names.values(), "a missing number is a value of its own"
    assert "" not in old.feature_values["weight"][FIRST_KNOWN:]
    zero = {item for item, name in bins_of(old, "weight").items() if name.startswith("below")}
    assert zero == set(items.index[items.weight == 0]), "zero, which fills bins, has one of its own"
    assert (
        f"bins of numeric features: kept with their edges (price 4, weight {len(old.feature_edges['weight']) + 1})"
        in (updated[1])
    )
    assert {name: edges.tolist() for name, edges in new.feature_edges.items()} == {
        name: edges.tolist() for name, edges in old.feature_edges.items()
    }
    assert set(NEW_ITEMS) <= set(bins_of(new, "price"))
    log = text_world()
    numbers = {name: np.arange(float(len(log.items.item_id))) for name in ("price", "weight")}
    config, until = load_config(days.old), START + DAYS * DAY_S
    run = EarlierRun(days.old, config, old, load_saved(days.old)[1])
    for given, bins, words in (
        (numbers, 9, "--numeric_bins=4, and an update keeps the bins"),
        ({"price": numbers["price"]}, 4, "numeric columns price, weight, and this log has price: give the same --num"),
        ({}, 4, r"numeric columns price, weight, and this log has \(none\)"),
    ):
        changed = dataclasses.replace(config, data=dataclasses.replace(config.data, numeric_bins=bins))
        with pytest.raises(UserError, match=words):
            other = dataclasses.replace(log, items=dataclasses.replace(log.items, numbers=given))
            require_continuation(run, changed, other, until)


def test_a_refresh_bins_new_and_changed_items_by_the_edges_of_the_run(updated, exported, tmp_path):
    config = load_config(updated[0])
    items = pd.read_parquet(config.data.items)
    before = bins_of(load_extra(f"{exported}/1"), "price")
    changed = next(item for item in items.item_id if before[item].startswith("below"))
    items.loc[items.item_id == changed, "price"] = "1e6"
    new = {"item_id": ["new-1", "new-2"], "category": ["tea", "tea"], "brand": ["b1t", "b1t"], "shelf": ["dry", "dry"]}
    items = pd.concat([items, pd.DataFrame({**new, "price": ["-1e9", None], "weight": [0.0, None]})])
    items.to_csv(tmp_path / "items.csv", index=False)
    found = refresh_version(config, f"{exported}/1", Catalogue(f"{tmp_path}/items.csv"))
    corpus = found.source.corpus
    now = bins_of(corpus, "price")
    assert now[changed].startswith("from") and now["new-1"].startswith("below") and now["new-2"] == ""
    assert bins_of(corpus, "weight")["new-2"] == "(unknown)", "no item lacked its weight at the cut"
    assert found.counts["altered"] == 1 and found.counts["new"] == 2
    assert {**now, changed: before[changed]}.items() >= before.items(), "all others stay in their bins"
    source, (trained, arrays) = found.source, load_saved(updated[0])
    tower = load_models(config, trained, arrays["item_svd"]).retriever.item_tower
    old, new = (
        one(corpus.find_items(np.array([changed], object))).numpy()
        for one, corpus in ((tower, trained), (source.models.retriever.item_tower, corpus))
    )
    assert np.abs(new - old).max() > 1e-3, "the tower reads the bin"
    for column, words in (
        (items.price.replace("1e6", "cheap"), "column 'price': 1 of .* no finite numbers, the first is 'cheap' in row"),
        (None, r"no column 'price' \(--numeric_features\)"),
    ):
        table = items.drop(columns="price") if column is None else items.assign(price=column)
        table.to_csv(tmp_path / "items.csv", index=False)
        with pytest.raises(UserError, match=words):
            refresh_version(config, f"{exported}/1", Catalogue(f"{tmp_path}/items.csv"))


def test_a_request_is_read_with_the_hour_and_the_weekday_of_its_time(updated, exported, tmp_path):
    """Of a user without history nothing but the time tells requests apart."""
    config, (corpus, arrays) = load_config(updated[0]), load_saved(updated[0])
    tower = load_models(config, corpus, arrays["item_svd"]).retriever.user_tower
    zone = datetime.timezone(datetime.timedelta(hours=5.5))
    times = START + DAYS * DAY_S + np.array([0, 3600, DAY_S, 7 * DAY_S, 90 * 60])
    local = [datetime.datetime.fromtimestamp(time, zone) for time in times.tolist()]
    columns = {
        "history_item_id": np.full((5, 1), "nothing"),
        "history_timestamp": np.zeros((5, 1), np.int64),
        "request_timestamp": times,
        "taste": np.full(5, "t1"),
        "category": np.full(5, "tea"),
    }
    (answer,) = ask_fresh(tmp_path, [(f"{exported}/1", "user_embeddings", columns)])
    taste = corpus.profile_values["taste"].tolist().index("t1")
    request = [[taste, one.hour + FIRST_KNOWN, one.weekday() + FIRST_KNOWN] for one in local]
    inputs = UserInputs(
        item_vectors=tf.zeros([5, 1, config.model.dim]),
        is_real=tf.zeros([5, 1], tf.bool),
        features=tf.zeros([5, 1, num_token_features(config.model)]),
        category=tf.fill([5], corpus.category_name.tolist().index("tea")),
        profile=tf.constant(request),
        history_embedding=tf.zeros([5, config.model.svd_dim]),
    )
    np.testing.assert_allclose(answer["embedding"], tower(inputs).embedding, rtol=1e-4, atol=1e-5)
    away = np.abs(answer["embedding"] - answer["embedding"][:1]).max(1)
    assert (away[[1, 2, 4]] > 1e-3).all() and away[3] < 1e-6, "a week later it is the same hour of the same weekday"


def test_new_items_and_a_new_category_are_served_the_same_day(updated, exported, tmp_path):
    run_dir, _ = updated
    shutil.copytree(exported, tmp_path / "export")
    fingerprint = read_fingerprint(f"{tmp_path}/export/1/assets.extra")
    assert fingerprint.generation == 2
    client = LocalClient(f"{tmp_path}/export")
    now = START + DAYS * DAY_S
    forced = dict.fromkeys(("rum", "cake", "tea", "milk"), 1.0)
    request = Request(["rum-1", "cake-07x"], [now - 90_000, now - 80_000], now, k=60, forced_category=forced)
    found = {one.item_id for one in client.retrieve([request])[0].candidates}
    assert set(NEW_ITEMS) <= found
    tables = [f"--{name}={getattr(load_config(run_dir).data, name)}" for name in ("items",)]
    again = run_module("refresh", f"--run_dir={run_dir}", f"--export_dir={tmp_path}/export", "--nocheck", *tables)
    assert again.returncode == 0, again.stderr
    assert "bins of numeric features: kept with their edges (price 4, weight" in again.stdout
    assert read_fingerprint(f"{tmp_path}/export/2/assets.extra").generation == 2


def test_an_update_that_is_killed_and_started_again_ends_alike(days, updated, tmp_path):
    run_dir = str(tmp_path / "run")
    flags = days.flags(run_dir, "--checkpoint_every_s=0.05")
    kill_in_mid_training(command("train", *flags), run_dir)
    again = run_module("train", *flags)
    assert again.returncode == 0, again.stderr
    assert "resuming at phase" in again.stdout
    whole, resumed = final_weights(updated[0]), final_weights(run_dir)
    assert whole.keys() == resumed.keys() and len(whole) > 30
    for name, value in whole.items():
        np.testing.assert_array_equal(resumed[name], value, err_msg=name)
    assert losses(run_dir) == losses(updated[0])


def other_tables(directory: pathlib.Path) -> dict[str, tuple[str, ...]]:
    """Logs that do not go on from the old one, as flags."""
    logs = {"other": text_world(seed=4), "lost": text_world()}
    lost = logs["lost"]
    logs["lost"] = lost.of_events(lost.items.features["category"][lost.item_row] != "cake")
    flags = {}
    for name, log in logs.items():
        (directory / name).mkdir()
        flags[name] = write_world(log, directory / name)
    return flags


def test_what_does_not_go_on_from_the_run_is_refused_by_name(days, tmp_path):
    tables, run_dir = other_tables(tmp_path), tmp_path / "run"
    old = load_config(days.old).data
    yesterday = (f"--events={old.events}", f"--items={old.items}", f"--users={old.users}")
    half = without_part(days.old, tmp_path / "half", "checkpoints/final")
    cases = {
        "another log": (days.flags(run_dir, *tables["other"]), ("it is another log", days.old)),
        "a shrunken vocabulary": (days.flags(run_dir, *tables["lost"]), ("'cake-00'", "no event in this log")),
        "another context": (days.flags(run_dir, "--context=shelf"), ("'category'", "'shelf'", "--context=category")),
        "other columns": (days.flags(run_dir, "--item_features=brand"), ("brand, shelf", "--item_features")),
        "no new days": (days.flags(run_dir, *yesterday), ("no new days",)),
        "other requests": (
            days.flags(run_dir, "--request_features=hour"),
            ("--request_features: ('hour', 'weekday')",),
        ),
        "other shapes": (days.flags(run_dir, "--dim=8", "--num_layers=2"), ("--dim: 16 there, 8 here", "--num_layers")),
        "its own directory": (days.flags(days.old), ("name another --run_dir",)),
        "an unfinished run": ((*days.flags(run_dir), f"--warm_start={half}"), ("half", "no finished training")),
        "no run": ((*days.flags(run_dir), f"--warm_start={tmp_path}/none"), ("none", "not a run directory")),
        "a baseline": (days.flags(run_dir, "--model=mind", "--nouser_context"), ("--model=mind",)),
        "several devices": (days.flags(run_dir, "--distribute=mirrored"), ("--distribute=mirrored", "one device")),
        "no warm start": ((*TINY, "--replay_share=0.2"), ("--replay_share=0.2", "--warm_start")),
    }
    before = contents(days.old)
    for name, (flags, says) in cases.items():
        done = run_module("train", *flags)
        assert done.returncode == 2, (name, done.stdout, done.stderr)
        assert all(part in done.stderr for part in says), (name, done.stderr)
        told = re.compile(r"event_log: |W\d{4} .*--request_features")  # of the log, and of what snapshots cannot teach
        lines = [line for line in done.stderr.strip().splitlines() if not told.match(line)]
        assert len(lines) == 1 and lines[0].startswith("error: "), (name, done.stderr)
        assert not (run_dir / "config.json").exists(), name
    assert contents(days.old) == before


def test_a_log_that_does_not_fit_into_memory_is_refused():
    config = Config(DataConfig(data="shards"))
    run = EarlierRun("runs/old", config, prepare(grown_config(), text_world(), START + DAYS * DAY_S).corpus, {})
    with pytest.raises(UserError, match="--data=shards does not fit: raise --max_memory_gb"):
        require_continuation(run, config, ShardedLog.__new__(ShardedLog), 0)


def test_user_columns_keep_their_order():
    log, config = text_world(), grown_config()
    two = dataclasses.replace(log, profile={"a": next(iter(log.profile.values())), **log.profile})
    run = EarlierRun("runs/old", config, prepare(config, two, START + DAYS * DAY_S // 2).corpus, {})
    turned = dataclasses.replace(two, profile=dict(reversed(two.profile.items())))
    with pytest.raises(UserError, match=f"--user_features=a,.* in the order {next(reversed(two.profile))}, "):
        require_continuation(run, config, turned, START + DAYS * DAY_S)


def without_part(directory: str, copy: pathlib.Path, part: str) -> pathlib.Path:
    shutil.copytree(directory, copy)
    shutil.rmtree(copy / part)
    return copy


def grown_config() -> Config:
    return Config(model=ModelConfig(dim=8, num_heads=2, svd_dim=4, item_id=True, profile=True))


def grown_pair():
    """Corpora of the world before and with its new days, and models for both."""
    config, made = grown_config(), []
    for until in (NEW_DAY, DAYS):
        prepared = prepare(config, text_world(until), START + until * DAY_S)
        made.append((prepared.corpus, build_models(config, prepared.corpus, prepared.item_svd)))
    return made


def test_rows_go_by_their_key_and_new_ones_begin_like_their_like_or_unknown():
    (old, before), (new, after) = grown_pair()
    growth = grow_corpus(old, new)
    pairs = grow_models(before, old, after, new, growth)
    for one, other in ((before.retriever, after.retriever), (before.interest, after.interest)):
        assert {id(v) for v in one.variables} <= {id(pair.earlier) for pair in pairs}
        assert {id(v) for v in other.variables} <= {id(pair.grown) for pair in pairs}
    there, here = before.retriever.item_tower, after.retriever.item_tower
    tables = [
        (old.item_id, new.item_id, there.id_table, here.id_table),
        (old.category_name, new.category_name, there.category_table, here.category_table),
        (old.category_name, new.category_name, before.interest.bag_kernel, after.interest.bag_kernel),
        (old.feature_values["brand"], new.feature_values["brand"], there.feature_tables[0], here.feature_tables[0]),
    ]
    for names, grown_names, table, grown in tables:
        rows = {name: row for name, row in zip(names.tolist(), table.numpy(), strict=True)}
        assert len(grown_names) > len(names)
        for name, row in list(zip(grown_names.tolist(), grown.numpy(), strict=True))[FIRST_KNOWN:]:
            if name in rows:
                np.testing.assert_array_equal(row, rows[name], err_msg=name)
    is_new = ~np.isin(new.item_id, old.item_id)
    assert new.item_id[is_new].tolist() == sorted(NEW_ITEMS, key=new.item_id.tolist().index)
    np.testing.assert_array_equal(here.id_table.numpy()[is_new], np.tile(there.id_table.numpy()[UNKNOWN], (5, 1)))
    rum, nuts = (new.category_name.tolist().index(name) for name in ("rum", "nuts"))
    np.testing.assert_allclose(here.category_table.numpy()[rum], here.category_table.numpy()[nuts], rtol=1e-5)


def test_moments_go_with_their_rows():
    (old, before), (new, after) = grown_pair()
    pairs = grow_models(before, old, after, new, grow_corpus(old, new))
    optimizers = []
    for models in (before, after):
        optimizers.append(LazyAdamW(1e-3, 0.0, 10))
        optimizers[-1].build(models.retriever.trainable_variables)
    table, grown = before.retriever.item_tower.bias, after.retriever.item_tower.bias
    for moment in optimizers[0].moments(table):
        moment.assign(np.arange(1, old.num_items + 1, dtype=np.float32)[:, None])
    grow_moments(pairs, *optimizers)
    by_id = dict(zip(old.item_id.tolist()[FIRST_KNOWN:], range(FIRST_KNOWN + 1, old.num_items + 1), strict=True))
    for moment in optimizers[1].moments(grown):
        expected = [by_id.get(name, 0.0) for name in new.item_id.tolist()[FIRST_KNOWN:]]
        assert moment.numpy()[FIRST_KNOWN:, 0].tolist() == expected


def test_learned_clusters_stay_and_new_items_join_them():
    context = "clusters:3"
    config = Config(DataConfig(context=context), ModelConfig(dim=8, num_heads=2, svd_dim=4))
    old = prepare(config, text_world(NEW_DAY), START + NEW_DAY * DAY_S).corpus
    run = EarlierRun("runs/old", config, old, {})
    today = with_trained_context(text_world(), run)
    new = prepare(config, today, START + DAYS * DAY_S).corpus
    assert new.context == context and new.category_name.tolist() == old.category_name.tolist()
    before, after = (
        dict(zip(corpus.item_id.tolist(), corpus.category_name[corpus.item_category].tolist(), strict=True))
        for corpus in (old, new)
    )
    assert all(after[item] == before[item] for item in before if item in after) and set(NEW_ITEMS) <= set(after)


def block_pairs(num_items: int) -> DistinctPairs:
    """Sixty users of three tastes, who take items of their own third; every item is taken."""
    rng = np.random.default_rng(0)
    taken = [np.flatnonzero((np.arange(num_items) % 3 == u % 3) & (rng.random(num_items) < 0.6)) for u in range(60)]
    return DistinctPairs(np.cumsum([0, *map(len, taken)]), np.concatenate(taken).astype(np.int32))


def test_a_later_fit_is_rotated_onto_the_earlier_one():
    rows = fit_pairs_svd(block_pairs(30), 30, 6, seed=1)
    rng = np.random.default_rng(1)
    turn, _ = np.linalg.qr(rng.standard_normal((6, 6)))
    earlier_row = np.where(np.arange(30) < 25, np.arange(30)[::-1], -1)
    earlier = (rows @ turn)[::-1].astype(np.float32)
    known = earlier_rows(earlier, earlier_row)
    assert not known[25:].any()
    aligned = align_rows(rows, known)
    assert mean_cosine(rows, known) < 0.9
    assert mean_cosine(aligned, known) == pytest.approx(1.0, abs=1e-5)
    np.testing.assert_allclose(aligned @ aligned.T, rows @ rows.T, atol=1e-5)


def test_a_new_item_is_folded_in_where_its_takers_are():
    pairs, dim = block_pairs(30), 6
    fit = fit_pairs_svd(pairs, 30, dim, seed=1)
    earlier_row = np.arange(30)
    earlier_row[[4, 11, 27]] = -1  # of the tastes 1, 2 and 0
    grown = fold_in_rows(pairs, fit, earlier_row)
    np.testing.assert_array_equal(np.delete(grown, [4, 11, 27], 0), np.delete(fit, [4, 11, 27], 0))
    for item in (4, 11, 27):
        same, others = (grown[item] @ fit[np.arange(30) % 3 == taste].mean(0) for taste in (item % 3, (item + 1) % 3))
        assert np.linalg.norm(grown[item]) == pytest.approx(1.0, abs=1e-5) and same > 0.3 and abs(others) < 0.05
    nobody = fold_in_rows(pairs, fit, earlier_row, np.zeros(60, bool))
    assert not nobody[[4, 11, 27]].any()


def test_a_refit_from_an_earlier_fit_is_the_fit_from_the_start():
    rng = np.random.default_rng(2)
    taste = rng.integers(0, 6, 400)
    taken = [np.flatnonzero((np.arange(300) % 6 == taste[u]) & (rng.random(300) < 0.5)) for u in range(400)]
    pairs = DistinctPairs(np.cumsum([0, *map(len, taken)]), np.concatenate(taken).astype(np.int32))
    seen = rng.random(400) < 0.7
    earlier, whole = fit_pairs_svd(pairs, 300, 6, 1, seen), fit_pairs_svd(pairs, 300, 6, 1)
    refit = refit_pairs_svd(pairs, earlier, 1)
    assert not np.array_equal(refit, whole), "a few steps of iteration, no solver"
    np.testing.assert_allclose(refit @ refit.T, whole @ whole.T, atol=0.02)
    few = refit_pairs_svd(block_pairs(30), np.zeros((30, 6), np.float32), 1)
    np.testing.assert_array_equal(few, fit_pairs_svd(block_pairs(30), 30, 6, 1))


@pytest.mark.parametrize("share", [0.0, 0.5])
@pytest.mark.parametrize("kind", ["event", "snapshot", "both"])
def test_examples_are_those_of_the_new_days_and_a_share_of_the_others(kind, share):
    train = TrainConfig(examples=kind, snapshot_every_days=5, num_snapshots=9, horizon_days=7)
    update = UpdateConfig(warm_start="runs/old", replay_share=share)
    config = Config(model=ModelConfig(svd_dim=0, user_context=False), train=train, update=update)
    cut, since = START + DAYS * DAY_S, START + NEW_DAY * DAY_S
    prepared = prepare(config, text_world(), cut)
    choice = UpdateChoice(config, prepared.log.user_id, since, cut)
    examples, snapshots = prepare_examples(config, prepared, choice)
    every, _ = prepare_examples(config, prepared)
    of_all = np.flatnonzero(np.isin(every.id, examples.id))
    for field in dataclasses.fields(examples):
        np.testing.assert_array_equal(getattr(every, field.name)[of_all], getattr(examples, field.name), field.name)
    is_snapshot = np.full(len(examples), kind == "snapshot")
    if kind == "both":
        is_snapshot = np.isin(examples.id, prepare_examples(as_kind(config, "snapshot"), prepared)[0].id)
    is_new = np.where(is_snapshot, examples.time + 7 * DAY_S > since, examples.time >= since)
    assert 0 < is_new.sum() == choice.num_new
    stamps = prepared.order.timestamp
    assert (stamps[examples.target_stop - 1][~is_new] < since).all()
    if kind != "snapshot":
        assert (is_new & ~is_snapshot).sum() == (stamps >= since).sum(), "every event of the new days"
    assert ((~is_new).sum() > 0) == (share > 0) and (snapshots is examples) == (kind == "snapshot")
    if kind == "event" and share:
        assert abs((~is_new).sum() - is_new.sum()) < 4 * np.sqrt(is_new.sum()), "half of all"


def as_kind(config: Config, kind: str) -> Config:
    return dataclasses.replace(config, train=dataclasses.replace(config.train, examples=kind))


def test_new_days_without_an_example_are_refused():
    train = TrainConfig(examples="event", snapshot_every_days=5, num_snapshots=9, horizon_days=7)
    model = ModelConfig(svd_dim=0, user_context=False)
    config = Config(model=model, train=train, update=UpdateConfig(warm_start="runs/old"))
    cut = START + DAYS * DAY_S
    prepared = prepare(config, text_world(), cut)
    with pytest.raises(UserError, match="runs/old"):
        prepare_examples(config, prepared, UpdateChoice(config, prepared.log.user_id, cut + DAY_S, cut + 2 * DAY_S))
