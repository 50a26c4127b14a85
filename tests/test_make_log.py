"""The generator of lifelong logs: seeded, file by file, the sizes asked for, and read by this package's commands."""

import hashlib
import json
import os
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from trained import ROOT, run_module

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "..", "benchmarks"))
from lifelong_world import LifelongWorld, LogSizes

SCRIPT = os.path.join(ROOT, "benchmarks", "make_log.py")
SMALL = ("--num_events=30011", "--num_users=307", "--num_items=997", "--num_categories=23", "--days=911", "--files=3")


def make(folder, *flags: str) -> subprocess.CompletedProcess:
    """Runs the script as people do."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, SCRIPT, f"--output={folder}", *flags]
    return subprocess.run(command, capture_output=True, text=True, timeout=600, env=environment)


def digests(folder) -> dict[str, str]:
    """Of every file of the log but the manifest, which holds the command."""
    names = sorted(path for path in folder.iterdir() if path.suffix == ".parquet")
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in names}


@pytest.fixture(scope="module", params=["int64", "text"])
def log(request, tmp_path_factory):
    """A small log and its flags."""
    flags = (*SMALL, *(["--text_ids"] if request.param == "text" else []))
    folder = tmp_path_factory.mktemp("logs") / request.param
    done = make(folder, *flags)
    assert done.returncode == 0, done.stderr
    return folder, flags


def read(folder) -> pd.DataFrame:
    return pd.concat([pd.read_parquet(path) for path in sorted(folder.glob("events-*.parquet"))])


def test_a_file_depends_on_the_seed_and_its_number_alone(log, tmp_path):
    folder, flags = log
    assert make(tmp_path / "one", *flags, "--only=1").returncode == 0
    name = "events-00001-of-00003.parquet"
    assert digests(tmp_path / "one") == {name: digests(folder)[name]}
    assert make(tmp_path / "two", *flags, "--processes=2").returncode == 0
    assert digests(tmp_path / "two") == digests(folder)
    assert make(tmp_path / "other", *flags, "--seed=2").returncode == 0
    assert not set(digests(tmp_path / "other").values()) & set(digests(folder).values())


def test_the_sizes_are_those_asked_for(log):
    events, (folder, _) = read(log[0]), log
    items, users = (pd.read_parquet(folder / f"{name}.parquet") for name in ("items", "users"))
    assert (len(events), len(items), len(users)) == (30_011, 997, 307)
    assert items.item_id.is_unique and users.user_id.is_unique and items.category.nunique() == 23
    assert set(events.user_id) == set(users.user_id) and set(events.item_id) <= set(items.item_id)
    assert events.timestamp.between(1_735_689_600 - 911 * 86_400, 1_735_689_599).all()
    kind = "text" if "--text_ids" in log[1] else "int64"
    assert isinstance(events.item_id.iloc[0], str if kind == "text" else np.int64)


def test_histories_are_like_lives(log):
    events = read(log[0])
    length = events.groupby("user_id").size()
    assert length.min() >= 1 and length.max() > 8 * length.median()  # a heavy tail
    assert events.groupby("basket_id").timestamp.nunique().max() == 1
    assert events.groupby("basket_id").user_id.nunique().max() == 1
    assert events.groupby("user_id").timestamp.nunique().sum() < len(events) / 2  # most events are tied
    repeats = 1 - len(events.drop_duplicates(["user_id", "item_id"])) / len(events)
    assert 0.25 < repeats < 0.75
    # Files are stretches of time: a history is spread over them.
    paths = sorted(log[0].glob("events-*.parquet"))
    files = [pd.read_parquet(path, columns=["user_id", "timestamp"]) for path in paths]
    assert files[0].timestamp.max() <= files[1].timestamp.min() + 2 * 86_400
    assert len(set(files[0].user_id) & set(files[2].user_id)) > 100


def test_interests_drift():
    world = LifelongWorld(LogSizes(60_000, 20, 5_000, 200, days=911, files=1, seed=1))
    user, item, timestamp, _, _ = (np.concatenate(column) for column in zip(*world.events(0), strict=True))
    category = world.item_features(item)["category"]
    order = np.lexsort((timestamp, user))

    def change(first: np.ndarray, second: np.ndarray) -> float:
        """Share of the events that would have to change category to make one part of a history the other."""
        counts = [np.bincount(category[part], minlength=200) / len(part) for part in (first, second)]
        return float(np.abs(counts[0] - counts[1]).sum() / 2)

    histories = [order[user[order] == one] for one in range(20) if (user == one).sum() > 2_000]
    moved = [change(events[: len(events) // 2], events[len(events) // 2 :]) for events in histories]
    still = [change(events[::2], events[1::2]) for events in histories]
    assert len(histories) > 5 and min(moved) > max(still)


def test_people_come_back_with_a_rhythm(log):
    baskets = read(log[0]).drop_duplicates(["user_id", "item_id", "basket_id"])
    baskets = baskets.sort_values("timestamp", kind="stable")
    shuffled = baskets.assign(item_id=_shuffle_within_users(baskets))
    assert _short_gaps(baskets) < 0.9 * _short_gaps(shuffled)


def _shuffle_within_users(events: pd.DataFrame) -> np.ndarray:
    order = np.argsort(events.user_id.factorize()[0], kind="stable")
    shuffled = np.lexsort((np.random.default_rng(1).random(len(events)), events.user_id.factorize()[0]))
    items = np.empty(len(events), object)
    items[order] = events.item_id.to_numpy()[shuffled]
    return items


def _short_gaps(events: pd.DataFrame) -> float:
    """Share of the gaps between purchases of one item by one user that are below 0.3 of the median of that pair."""
    many = events[events.groupby(["user_id", "item_id"]).basket_id.transform("size") >= 6]
    gap = many.groupby(["user_id", "item_id"]).timestamp.diff()
    median = gap.groupby([many.user_id, many.item_id]).transform("median")
    return float((gap / median)[gap.notna()].lt(0.3).mean())


def test_inspect_log_reads_it(log, tmp_path):
    folder, _ = log
    manifest = json.loads((folder / "manifest.json").read_text())
    flags = [flag.replace("DIR", str(folder)).replace("'", "") for flag in manifest["read_by"].split()]
    places = f"--data_dir={tmp_path}/tfds", f"--output={tmp_path}/inspect"
    done = run_module("inspect_log", *flags, "--window_days=14", "--noplots", *places)
    assert done.returncode == 0, done.stderr
    counts = json.loads((tmp_path / "inspect" / "life.json").read_text())["counts"]
    assert counts["rows"] == 30_011
    assert counts["kept"] == len(read(folder).drop_duplicates(["basket_id", "item_id"]))


def test_a_stopped_command_goes_on(log, tmp_path):
    _, flags = log
    assert make(tmp_path / "log", *flags, "--only=0,2").returncode == 0
    first = digests(tmp_path / "log")
    before = {name: os.stat(tmp_path / "log" / name).st_mtime_ns for name in first}
    assert make(tmp_path / "log", *flags).returncode == 0
    assert digests(tmp_path / "log") == digests(log[0])
    assert {name: os.stat(tmp_path / "log" / name).st_mtime_ns for name in first} == before


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--num_events=3",), ("--num_events=3", "--num_users=307", "307 to")),
        (("--num_categories=600",), ("--num_categories=600", "--num_items=997")),
        (("--only=3",), ("'3'", "0 to 2")),
        (("--days=0",), ("days",)),
        (("--output=",), ("--output",)),
    ],
)
def test_bad_input_is_one_line(tmp_path, flags, words):
    done = make(tmp_path / "log", *SMALL, *flags)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert all(word in done.stderr for word in words), done.stderr


def test_a_directory_of_something_else_is_refused(log, tmp_path):
    folder, flags = log
    (tmp_path / "mine.txt").write_text("mine")
    done = make(tmp_path, *flags)
    assert done.returncode == 2 and "mine.txt" in done.stderr
    before = digests(folder)
    done = make(folder, *flags, "--seed=2")
    assert done.returncode == 2 and "another directory" in done.stderr and digests(folder) == before


def test_views_and_carts_precede_purchases(tmp_path):
    flags = (*SMALL, "--text_ids", "--actions")
    assert make(tmp_path / "shop", *flags).returncode == 0
    events = read(tmp_path / "shop")
    assert sorted(events["action"].unique()) == ["buy", "cart", "view"]
    bought = events[events["action"] == "buy"]
    assert len(bought) == 30011 and events.loc[events["action"] != "buy", "basket_id"].isna().all()
    first = events[events["action"] == "view"].groupby(["user_id", "item_id"])["timestamp"].min()
    viewed = bought.join(first.rename("viewed"), on=["user_id", "item_id"])
    assert (viewed["viewed"] < viewed["timestamp"]).all()
    manifest = json.loads((tmp_path / "shop" / "manifest.json").read_text())
    assert manifest["read_by"].endswith("--action_column=action --target_actions=buy")
