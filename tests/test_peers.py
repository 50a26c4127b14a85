"""The data that outside systems get, and the lists that they give back: the scripts of benchmarks/peers, by command."""

import json
import pathlib
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from trained import ROOT, run_module, write_tables
from worlds import block_world, crowded_world

from longretriever_tf.common.schema import DAY_S

PEERS = ROOT / "benchmarks" / "peers"
WORLDS = {
    "integers": (lambda: block_world(num_items=241, events_per_user=89), "taste"),
    "text": (lambda: crowded_world(num_users=23, num_items=151), "age"),
}


def run_script(name: str, *flags: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, str(PEERS / f"{name}.py"), *flags], cwd=ROOT, capture_output=True, text=True, timeout=1800
    )


@pytest.fixture(scope="module", params=WORLDS)
def exported(request, tmp_path_factory) -> tuple[tuple[str, ...], pathlib.Path]:
    """The flags of a log, and a directory with its validation split."""
    make, profile = WORLDS[request.param]
    folder = tmp_path_factory.mktemp("peers")
    flags = (*write_tables(make(), folder), "--dataset=event_log", "--window_days=30", f"--user_features={profile}")
    export(flags, folder, "validation")
    return flags, folder


def export(flags: tuple[str, ...], folder: pathlib.Path, split: str) -> None:
    done = run_script("export_split", *flags, f"--split={split}", f"--split_dir={folder}/{split}")
    assert done.returncode == 0, done.stderr


def check_split(folder: pathlib.Path, split: str) -> tuple[pd.DataFrame, int]:
    """Users, items and events are those strictly before the cut; returns all events and the cut."""
    events = pd.read_parquet(folder / "events.parquet")
    cut = json.loads((folder / split / "split.json").read_text())["cut"]
    kept, before = pd.read_parquet(folder / split / "events.parquet"), events[events["timestamp"] < cut]
    assert kept["timestamp"].is_monotonic_increasing and kept["timestamp"].max() < cut
    assert sorted(kept["user"].unique()) == sorted(before["user_id"].unique())
    assert sorted(pd.read_parquet(folder / split / "items.parquet")["item"]) == sorted(before["item_id"].unique())
    assert sorted(pd.read_parquet(folder / split / "users.parquet")["user"]) == sorted(kept["user"].unique())
    return events, cut


@pytest.mark.slow
def test_the_split_holds_what_lies_before_the_window_and_no_more(exported):
    _, folder = exported
    events, cut = check_split(folder, "validation")
    end = events["timestamp"].max() - 30 * DAY_S
    assert cut == end - 30 * DAY_S
    later = events[(events["timestamp"] >= cut) & (events["timestamp"] < end)]
    known = pd.read_parquet(folder / "validation" / "items.parquet")["item"]
    users = pd.read_parquet(folder / "validation" / "users.parquet")["user"]
    wanted = later[later["item_id"].isin(known) & later["user_id"].isin(users)][["user_id", "item_id"]]
    truth = pd.read_parquet(folder / "validation" / "truth.parquet")
    assert not truth.duplicated().any()
    assert set(map(tuple, truth.to_numpy())) == set(map(tuple, wanted.to_numpy()))


@pytest.mark.slow
def test_a_peer_is_tuned_and_its_lists_have_the_recall_that_it_says(exported):
    flags, folder = exported
    lists = f"{folder}/lists.parquet"
    asked = ("run_peer", "up_cf", f"--split_dir={folder}/validation", f"--output={lists}", "--budget=3", "--workers=2")
    done = run_script(*asked)
    assert done.returncode == 0, done.stderr
    tried = folder / "lists.tried"
    (tried / "2.json").unlink()
    (folder / "lists.json").unlink()
    before = {number: (tried / f"{number}.json").stat().st_mtime_ns for number in (1, 3)}
    done = run_script(*asked)
    assert done.returncode == 0, done.stderr
    assert before == {number: (tried / f"{number}.json").stat().st_mtime_ns for number in (1, 3)}, "only 2 was missing"
    report = json.loads((folder / "lists.json").read_text())
    assert report["budget"]["settings"] == len(report["tried"]) == 3
    assert report["budget"]["examples"] == sum(one["examples"] for one in report["tried"]) > 0
    best = max(report["tried"], key=lambda one: one["mean"])
    assert report["chosen"] == best["setting"]
    output = folder / "metrics.json"
    done = run_module(
        "evaluate_baselines", *flags, "--baselines=simple", f"--output={output}", f"--lists=up_cf:{lists}"
    )
    assert done.returncode == 0, done.stderr
    metrics = json.loads(output.read_text())["models"]["up_cf"]
    assert metrics["all"]["recall@100"] == pytest.approx(best["recall@100"])
    assert metrics["novel"]["recall@100"] == pytest.approx(best["novel_recall@100"])
    assert 0 < metrics["within_category"]["recall@20"] <= 1
    assert 0 < metrics["within_category_novel"]["recall@20"] <= 1


@pytest.mark.slow
@pytest.mark.parametrize("exported", ["text"], indirect=True)
def test_a_tuned_peer_meets_a_test_window_with_its_choice_alone(exported):
    flags, folder = exported
    export(flags, folder, "test")
    check_split(folder, "test")
    assert not (folder / "test" / "truth.parquet").exists(), "a test window's truth is nobody's to tune by"
    refused = run_script("run_peer", "up_cf", f"--split_dir={folder}/test", f"--output={folder}/t.parquet")
    assert refused.returncode == 2 and "--settings" in refused.stderr
    (folder / "chosen.json").write_text(json.dumps({"chosen": {"recent_baskets": 5, "asymmetry": 0.5, "locality": 1}}))
    done = run_script(
        *("run_peer", "up_cf", f"--split_dir={folder}/test", f"--output={folder}/t.parquet"),
        f"--settings={folder}/chosen.json",
    )
    assert done.returncode == 0, done.stderr
    lists = pd.read_parquet(folder / "t.parquet")
    every = lists[lists["task"] == "all"]
    assert (every.groupby("user")["rank"].min() == 1).all() and not every.duplicated(["user", "item"]).any()
    had = pd.read_parquet(folder / "test" / "events.parquet")[["user", "item"]].drop_duplicates()
    assert lists[lists["task"] == "novel"].merge(had, on=["user", "item"]).empty


def test_up_cf_is_what_the_paper_says(monkeypatch):
    """By hand: two users share one of two and one of three items; recent popularity is that of the last basket."""
    monkeypatch.syspath_prepend(str(PEERS))
    import peer_baskets
    from peer_split import Split

    split = Split(
        *({}, np.array([1, 2]), np.array([5, 6, 7, 8]), np.zeros(4, np.int64)),
        *(np.array([0, 0, 1, 1, 1]), np.array([0, 1, 1, 2, 3]), np.array([1, 2, 1, 3, 3]), 9, None),
    )
    setting = {"recent_baskets": 1, "asymmetry": 0.5, "locality": 1}
    score, _ = peer_baskets.fit("up_cf", split, setting, seed=1)
    similar = 1 / np.sqrt(2 * 3)
    np.testing.assert_allclose(score(np.array([0])), [[0, 1, similar, similar]], rtol=1e-6)
