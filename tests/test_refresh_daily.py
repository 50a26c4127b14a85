"""Day after day: events that came after the run's log are added to it, each once, and answers say as of when.

All ids are text. The events table holds category and brand, so that its new items can be offered.
"""

import dataclasses
import json
import os
import pathlib
import shutil
import subprocess
import sys
import types

import numpy as np
import pandas as pd
import pytest
import reference
import tensorflow as tf
from serving_clients import serving, states, wait_until
from trained import FLAGS, ROOT, run_module
from worlds import block_world, make_log

import longretriever_tf as lr
from longretriever_tf.common import schema
from longretriever_tf.config.config import load_config
from longretriever_tf.retrieval.export.log_of_today import Catalogue
from longretriever_tf.retrieval.export.refresh import RefreshedVersion, refresh_version
from longretriever_tf.retrieval.export.saved_model import extra_config_dir, load_extra
from longretriever_tf.retrieval.export.version_dirs import versions
from longretriever_tf.retrieval.fingerprint import read_fingerprint
from longretriever_tf.serving.client import Client, Request
from longretriever_tf.serving.client.transport import Model
from longretriever_tf.serving.server import config_files

pytestmark = pytest.mark.serving
DAY = schema.DAY_S
NEW, LATER, ODD, GONE = "sku é-new", "sku-later", "sku-odd", "sku-00104"
"""Items that come with the first day, with the second, and of a category that training never saw; one that leaves."""


def write(table: pd.DataFrame, path: str) -> str:
    table.to_csv(path, index=False) if path.endswith(".csv") else table.to_parquet(path)
    return f"--events={path}"


def event(user: str, item: str, time: int, category: str = "c1", brand: str = "b1") -> dict:
    return {"user_id": user, "item_id": item, "timestamp": time, "category": category, "brand": brand}


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    """A run trained until today, its export, and the events of two days after."""
    folder = tmp_path_factory.mktemp("shop")
    log = block_world(num_users=31, num_items=61, events_per_user=41)
    category, brand = (log.items.features[name][log.item_row] for name in ("category", "brand"))
    table = pd.DataFrame(
        {
            "user_id": [f"user {u:04d}" for u in log.user_id[log.event_user()]],
            "item_id": [f"sku-{i:05d}" for i in log.items.item_id[log.item_row]],
            "timestamp": log.timestamp,
            "category": category,
            "brand": brand,
        }
    )
    end = int(log.timestamp.max())
    past, first, second = (
        table[(table.timestamp >= low) & (table.timestamp < high)]
        for low, high in ((0, end - 2 * DAY), (end - 2 * DAY, end - DAY), (end - DAY, end + 1))
    )
    first = pd.concat(
        [first, pd.DataFrame([event("user new", NEW, end - DAY - 9), event("x", ODD, end - DAY - 8, "zz")])]
    )
    late = event("user 1003", "sku-00102", end - 40 * DAY, *table[table.item_id == "sku-00102"].iloc[0, 3:])
    second = pd.concat([second, first.iloc[:7], pd.DataFrame([event("user new", LATER, end - 5), late, late])])
    run_dir, export_dir = str(folder / "run"), str(folder / "export")
    flags = [flag for flag in FLAGS if "user_features" not in flag and "epochs" not in flag]
    flags += [write(past, str(folder / "past.parquet")), f"--data_dir={folder}/tfds", "--cut=none", "--noprofile"]
    flags += ["--num_snapshots=3", "--epochs=1", "--interest_epochs=1", "--score_weights_users=0"]
    for name, extra in (("train", flags), ("export", (f"--export_dir={export_dir}", "--nocheck"))):
        done = run_module(name, *extra, f"--run_dir={run_dir}")
        assert done.returncode == 0, done.stderr
    days = write(first, str(folder / "day1.parquet")), write(second, str(folder / "day2.csv"))
    whole = pd.concat([past, first, second]).drop_duplicates()
    return types.SimpleNamespace(folder=folder, run_dir=run_dir, export_dir=export_dir, days=days, whole=whole, end=end)


def refresh(shop, *flags: str, export_dir: str = "", status: int = 0) -> str:
    """What the command says, on one line."""
    export_dir = export_dir or shop.export_dir
    done = run_module("refresh", f"--run_dir={shop.run_dir}", f"--export_dir={export_dir}", "--nocheck", *flags)
    assert done.returncode == status, done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout if status == 0 else done.stderr


def every_day(*arguments: str, status: int = 0, python: str = sys.executable) -> str:
    """What serving/every_day.sh says."""
    done = subprocess.run(
        [str(ROOT / "serving" / "every_day.sh"), *arguments],
        env=os.environ | {"PYTHON": python, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == status, done.stderr
    return done.stdout if status == 0 else done.stderr


def models_config(path, export_dir: str, stable: int, canary: int) -> str:
    text = (ROOT / "serving" / "models.config").read_text().replace("/models/longretriever", export_dir)
    text = text.replace('"stable" value: 1', f'"stable" value: {stable}').replace('"longretriever"', '"toy"')
    path.write_text(text.replace('"canary" value: 2', f'"canary" value: {canary}'))
    return str(path)


@pytest.fixture(scope="module")
def days(shop):
    """What a refresh by each day said, the second by the script for cron and with a catalogue; versions 2 and 3."""
    config = models_config(shop.folder / "models.config", shop.export_dir, 2, 2)
    said = [refresh(shop, shop.days[0])]
    listed = shop.whole.drop_duplicates("item_id")[["item_id", "category", "brand"]]
    listed[~listed.item_id.isin([GONE, ODD])].to_csv(shop.folder / "items.csv", index=False)
    flags = "--nocheck", f"--items={shop.folder}/items.csv"
    said.append(every_day("refresh", shop.run_dir, shop.export_dir, shop.days[1][9:], config, *flags))
    assert "canary: version 3; stable: version 2" in said[1] and "removed" not in said[1]
    assert versions(shop.export_dir) == [1, 2, 3]
    return said


def today(shop, version: str, **given) -> RefreshedVersion:
    """What the command would publish on top of a version."""
    return refresh_version(load_config(shop.run_dir), os.path.join(shop.export_dir, version), Catalogue(**given))


def stats_of(version_dir: str) -> dict[str, np.ndarray]:
    """Popularity, staleness and repeat rate by item, as the version's variables hold them."""
    variables = tf.train.load_checkpoint(os.path.join(version_dir, "variables", "variables"))
    (stats,) = variables.get_tensor("_item_stats/.ATTRIBUTES/VARIABLE_VALUE")
    return dict(zip(load_extra(version_dir).item_id.tolist(), stats, strict=True))


def test_each_row_of_the_day_is_accounted_for(shop, days):
    first, second = (len(pd.read_parquet(shop.days[0][9:])), len(pd.read_csv(shop.days[1][9:])))
    assert f"{first} rows read = {first} new events" in days[0]
    assert "1 of them are of 1 items outside the catalogue" in days[0] and "1 new, " in days[0]
    assert f"{second} rows read = 1 merged or left out" in days[1] and "7 in the log so far" in days[1]
    assert f"{second - 8} new events; 1 of the new ones are from before" in days[1]
    as_of = np.datetime64(shop.end + 1, "s").astype(str).replace("T", " ")
    assert f"as of {as_of} UTC" in days[1]


def test_two_days_make_the_statistics_of_the_whole_log(shop, days):
    """As the oracle counts them, and as --whole_log does, for new items too."""
    table = shop.whole
    ids = sorted(set(table.item_id))
    log = make_log(table.user_id, table.item_id, table.timestamp, {"category": [""] * len(ids)}, item_id=ids)
    counted = reference.stats_at(log, shop.end + 1, lambda row: str(log.items.item_id[row]))
    first, ours = (stats_of(os.path.join(shop.export_dir, name)) for name in ("1", "3"))
    assert {NEW, LATER} <= ours.keys() and ODD not in ours and len(ours) == len(first) + 2
    known = [raw for raw in ours if raw in counted]
    assert len(known) == len(ids) - 1
    expected = np.array([counted[raw] for raw in known])
    np.testing.assert_allclose([ours[raw] for raw in known], expected, rtol=1e-5, atol=1e-5)
    path = write(table, str(shop.folder / "whole.parquet"))[9:]
    refreshed = today(shop, "3", events=path, whole_log=True)
    corpus, arrays = refreshed.source.corpus, refreshed.source.arrays
    np.testing.assert_allclose(
        arrays["item_stats"][corpus.find_items(np.array(known, object))], expected, rtol=1e-5, atol=1e-5
    )
    category_of = dict(zip(table.item_id, table.category, strict=True)) | {ODD: None}
    by_category = reference.stats_at(log, shop.end + 1, lambda row: category_of[str(log.items.item_id[row])])
    for row, name in list(enumerate(corpus.category_name.tolist()))[schema.FIRST_KNOWN :]:
        np.testing.assert_allclose(arrays["category_stats"][row], by_category[name], rtol=1e-5, atol=1e-5)


def test_new_items_of_the_events_are_retrievable_and_the_answer_says_as_of_when(shop, days):
    with (
        serving(shop.export_dir, warm=False) as server,
        Client(f"http://127.0.0.1:{server.rest_port}", "toy") as client,
    ):
        request = Request(["sku-00101", NEW], [shop.end - 9 * DAY, shop.end - DAY - 9], shop.end + 2, k=60)
        options = dataclasses.replace(request, num_interests=7, top_interests=7)
        for one in (request, options):
            (answer,) = client.retrieve([one])
            assert answer.statistics_as_of == client.statistics_as_of() == shop.end + 1
        found = {candidate.item_id for candidate in answer.candidates}
        assert {NEW, LATER} <= found and ODD not in found and answer.num_unknown_items == 0


def test_the_python_api_asks_as_of_what_the_version_counts(shop, days):
    user, cut = "user 1004", load_extra(os.path.join(shop.export_dir, "1")).cut
    refreshed, run = lr.load(shop.export_dir), lr.load(shop.run_dir)
    for model, as_of, other in ((refreshed, shop.end + 1, cut), (run, cut, shop.end + 1)):
        asked = model.recommend(user, k=9)
        pd.testing.assert_frame_equal(asked, model.recommend(user, k=9, as_of=as_of))
        assert asked.score.tolist() != model.recommend(user, k=9, as_of=other).score.tolist()
    history = shop.whole[(shop.whole.user_id == user) & (shop.whole.timestamp < cut)]
    pd.testing.assert_frame_equal(refreshed.recommend(history, k=9), refreshed.recommend(user, k=9))


def test_what_is_counted_already_is_no_refresh(shop, days):
    said = refresh(shop, shop.days[0], status=2)
    assert said.startswith("error: --events=") and "brings nothing new" in said
    assert versions(shop.export_dir) == [1, 2, 3]


def test_a_refresh_by_items_alone_keeps_the_statistics(shop, days):
    refreshed = today(shop, "3", items=str(shop.folder / "items.csv"))
    before = read_fingerprint(extra_config_dir(os.path.join(shop.export_dir, "3")))
    source = refreshed.source
    assert (source.arrays["statistics_as_of"], source.later_events) == (before.statistics_as_of, before.later_events)
    ours = stats_of(os.path.join(shop.export_dir, "3"))
    ids = source.corpus.item_id[schema.FIRST_KNOWN :]
    expected = [ours[raw] for raw in ids.tolist()]
    np.testing.assert_allclose(source.arrays["item_stats"][schema.FIRST_KNOWN :], expected, rtol=1e-6)


def test_a_retired_item_that_sells_stays_retired(shop, days, tmp_path):
    assert "1 retired" in days[1]
    sold = write(pd.DataFrame([event("user 1003", GONE, shop.end + 60)]), str(tmp_path / "day3.parquet"))[9:]
    refreshed = today(shop, "3", events=sold)
    assert (
        refreshed.events == "1 rows read = 1 new events"
        and refreshed.source.arrays["statistics_as_of"] == shop.end + 61
    )
    corpus = refreshed.source.corpus
    assert corpus.find_items(np.array([GONE], object))[0] >= corpus.num_offered


def test_inspect_log_tells_whether_the_day_still_looks_like_the_log(shop, tmp_path):
    flags = f"--events={shop.folder}/past.parquet", "--dataset=event_log", f"--data_dir={shop.folder}/tfds"
    done = run_module("inspect_log", *flags, f"--output={tmp_path}", "--noplots", f"--new_events={shop.days[0][9:]}")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.rstrip("\n").splitlines()
    assert "DO NEW EVENTS LOOK LIKE THE LOG?" in lines and lines[-1].startswith("Verdict: ")
    told = json.loads((tmp_path / "life.json").read_text())["drift"]
    table = pd.read_parquet(shop.days[0][9:])
    assert told["new_items"] == pytest.approx(2 / len(table)) and told["new_categories"] == pytest.approx(
        1 / len(table)
    )
    assert f"{2 / len(table):.1%} of the events are of items that the log does not know" in done.stdout.replace(
        "\n", " "
    )


def test_kept_events_that_are_lost_are_named(shop, days, tmp_path):
    run_dir = shutil.copytree(shop.run_dir, tmp_path / "run")
    shutil.rmtree(run_dir / "later_events")
    done = run_module("refresh", f"--run_dir={run_dir}", f"--export_dir={shop.export_dir}", shop.days[1])
    assert done.returncode == 2 and "later_events" in done.stderr and "--whole_log" in done.stderr


def test_a_log_whose_tables_grow_is_counted_anew(shop, days, tmp_path):
    """--recount reads the tables as they are now; --skip_last_days, as they were."""
    run_dir = shutil.copytree(shop.run_dir, tmp_path / "run")
    grown = dataclasses.asdict(load_config(shop.run_dir))
    write(shop.whole, str(tmp_path / "grown.parquet"))
    grown["data"]["events"] = str(tmp_path / "grown.parquet")
    (run_dir / "config.json").write_text(json.dumps(grown))
    config = load_config(str(run_dir))
    version = shutil.copytree(os.path.join(shop.export_dir, "1"), tmp_path / "1")
    extra = version / "assets.extra" / "config.json"
    extra.write_text(json.dumps(json.loads(extra.read_text()) | {"data": grown["data"]}))
    for skipped, last in ((None, shop.end), (1.0, shop.end - DAY)):
        refreshed = refresh_version(config, str(version), Catalogue(recount=True, skip_last_days=skipped))
        as_of, corpus = int(refreshed.source.arrays["statistics_as_of"]), refreshed.source.corpus
        assert as_of == last + 1 if skipped is None else last - DAY < as_of <= last
        assert (LATER in corpus.item_id) == (skipped is None) and NEW in corpus.item_id and ODD not in corpus.item_id
    # And the days after are what an export is evaluated on.
    ask = (
        f"--run_dir={run_dir}",
        f"--export_dir={shop.export_dir}/2",
        "--export_alone",
        "--split=test",
        "--baselines=none",
    )
    ask += "--window_days=1", f"--output={tmp_path}/metrics.json", "--noplots"
    refused = run_module("evaluate", *ask)
    assert refused.returncode == 2 and "--window_days=1 makes other windows" in refused.stderr, refused.stderr
    done = run_module("evaluate", *ask, "--other_log")
    assert done.returncode == 0, done.stderr
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["num_users"] > 0
    assert metrics["statistics_as_of"] == read_fingerprint(extra_config_dir(f"{shop.export_dir}/2")).statistics_as_of
    assert [name[:9] for name in metrics["models"]] == ["as served"]
    assert 0 < metrics["models"][next(iter(metrics["models"]))]["all"]["recall@100"] <= 1


def test_a_canary_a_release_and_a_rollback_on_the_local_server(shop, days, tmp_path):
    """By the script and its file of labels, which the server reads again: no restart."""
    export_dir = str(shutil.copytree(shop.export_dir, tmp_path / "export"))
    shutil.rmtree(tmp_path / "export" / "1")
    path = models_config(tmp_path / "models.config", export_dir, 2, 3)
    older, newer = (read_fingerprint(extra_config_dir(f"{export_dir}/{n}")).statistics_as_of for n in (2, 3))
    assert older < newer
    options = {"model_config_file": path, "model_config_file_poll_wait_seconds": 0.05}
    with serving(config_files.read_models(path), warm=False, **options) as server:
        wait_until(lambda: states(server) == dict.fromkeys((2, 3), "AVAILABLE"))

        def as_of(name: str) -> int:
            with Client(f"http://127.0.0.1:{server.rest_port}", Model("toy", label=name)) as client:
                (answer,) = client.retrieve([Request(["sku-00101"], [shop.end - DAY], shop.end + 2, k=3)])
                return answer.statistics_as_of

        assert (as_of("stable"), as_of("canary")) == (older, newer)
        assert every_day("release", export_dir, path) == "stable: version 3\n"
        wait_until(lambda: as_of("stable") == newer)
        assert "stable and canary: version 2" in every_day("roll_back", export_dir, path, "2")
        wait_until(lambda: as_of("stable") == older)
        assert versions(export_dir) == [2] and os.listdir(f"{export_dir}/rolled_back") == ["3"]
    assert "holds no version 7; it holds: 2" in every_day("roll_back", export_dir, path, "7", status=2)
    assert "holds no version 9, which" in every_day(
        "release", export_dir, models_config(tmp_path / "other.config", export_dir, 1, 9), status=2
    )


def test_old_versions_go_and_nothing_is_done_without_labels(tmp_path):
    """With a stand-in for the refresh: which versions stay, and that a missing label is said first."""
    export_dir = tmp_path / "export"
    for number in range(1, 8):
        (export_dir / str(number)).mkdir(parents=True)
    stand_in = tmp_path / "python"
    stand_in.write_text(
        f'#!/bin/sh\nfor one in "$@"; do case $one in --version=*) mkdir {export_dir}/${{one#*=}};; esac; done\n'
    )
    stand_in.chmod(0o755)
    config = models_config(tmp_path / "models.config", str(export_dir), 2, 7)
    refresh = ["refresh", "runs/mine", str(export_dir), "day.parquet"]
    no_label = tmp_path / "no_label.config"
    no_label.write_text(
        "\n".join(line for line in pathlib.Path(config).read_text().splitlines() if "stable" not in line)
    )
    said = every_day(*refresh, str(no_label), status=2, python=str(stand_in))
    assert 'no_label.config has no line: version_labels { key: "stable"' in said
    assert versions(str(export_dir)) == [*range(1, 8)]
    said = every_day(*refresh, config, python=str(stand_in))
    assert "canary: version 8; stable: version 2" in said and "removed version 4" in said
    assert versions(str(export_dir)) == [2, 5, 6, 7, 8]  # the labelled ones, and three more
