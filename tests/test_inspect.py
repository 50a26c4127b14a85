"""The command `inspect_log`: what it says and writes, and how it refuses."""

import dataclasses
import json
import pathlib
import subprocess
import sys
import warnings

import numpy as np
import pytest

from longretriever_tf.common.errors import UserError
from longretriever_tf.common.schema import DAY_S
from longretriever_tf.config.config import Config, DataConfig, RetrievalConfig
from longretriever_tf.inspect_log import inspect_log, log_title
from longretriever_tf.inspection.plots import draw_history
from tests.worlds import START, block_world, make_log

_COMMAND = [sys.executable, "-m", "longretriever_tf.inspect_log"]


def test_report_shows_the_numbers_of_the_log_and_fits_a_terminal() -> None:
    log = block_world()
    report = inspect_log(log, Config())
    assert f"{log.num_events:,} events of 41 users" in report.text
    assert "context: category" in report.text and "OTHER CONTEXTS" in report.text
    assert max(map(len, report.text.splitlines())) <= 130
    assert json.loads(json.dumps(report.statistics, allow_nan=False)) == report.statistics | {
        "data": json.loads(json.dumps(report.statistics["data"]))
    }


def test_plots_are_whole_pictures(tmp_path: pathlib.Path) -> None:
    report = inspect_log(block_world(), Config())
    paths = draw_history(str(tmp_path), report.title, report.history, report.windows, report.statistics)
    assert {pathlib.Path(path).relative_to(tmp_path).as_posix() for path in paths} >= {"life.png", "panels/targets.png"}
    assert len(paths) == 10
    for path in paths:
        content = pathlib.Path(path).read_bytes()
        assert content.startswith(b"\x89PNG") and content.endswith(b"IEND\xaeB`\x82")


@pytest.mark.parametrize("days", [0, 3, 50])
def test_a_log_too_short_to_split_is_still_described(days: int) -> None:
    log = make_log([1, 1, 2], [1, 2, 1], [START, START + days * DAY_S, START + 60], {"category": ["a", "b"]})
    report = inspect_log(log, Config())
    assert "! no split:" in report.text and "window_days" in report.text and "3 events of 2 users" in report.text
    assert report.windows == {} and report.statistics["split"] == {}


def test_a_log_of_one_time_can_be_drawn_in_any_script(tmp_path: pathlib.Path) -> None:
    report = inspect_log(make_log([1], [1], [START], {"category": ["アニメ"]}), Config())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        draw_history(str(tmp_path), "one time", report.history, report.windows, report.statistics)
    assert (tmp_path / "panels/time.png").stat().st_size > 1000


def test_a_window_without_targets_is_still_described() -> None:
    log = make_log([1, 2], [1, 2], [START, START + 100 * DAY_S], {"category": ["a", "b"]})  # user 2 and item 2 are new
    report = inspect_log(log, Config())
    assert "only 0 users have targets in the test window" in report.text.replace("\n    ", " ")
    assert report.statistics["split"]["test"]["new_user_pairs"] == 1
    assert report.text.splitlines()[-1].startswith("Verdict: don't: ")


def test_an_empty_log_is_refused() -> None:
    log = block_world()
    empty = dataclasses.replace(
        log,
        offset=np.zeros_like(log.offset),
        **{name: getattr(log, name)[:0] for name in ("item_row", "timestamp", "basket_id", "weight")},
    )
    with pytest.raises(UserError, match="holds no events"):
        inspect_log(empty, Config())


def test_title_of_an_own_log_names_folder_and_file() -> None:
    assert log_title(Config(data=DataConfig(dataset="event_log", events="/x/shop/events.csv"))) == "shop/events"
    assert log_title(Config()) == "complete_journey"


def test_unwritable_output_is_one_line_before_the_log_is_read(tmp_path: pathlib.Path) -> None:
    (tmp_path / "file").write_text("in the way")
    output = str(tmp_path / "file" / "inspect")
    done = subprocess.run([*_COMMAND, f"--output={output}"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert repr(output) in done.stderr and "name another path" in done.stderr
    assert "Traceback" not in done.stderr and len(done.stderr.strip().splitlines()) == 1


def _verdict(log, **fields) -> str:
    report = inspect_log(log, Config(**fields))
    lines = report.text.splitlines()
    assert lines[-1].startswith("Verdict: ") and report.text.count("Verdict:") == 1
    assert report.statistics["verdict"]["word"] in lines[-1]
    return lines[-1]


def test_items_that_live_for_days_are_warned_of_and_judged_by_clusters_of_their_own_time() -> None:
    rng = np.random.default_rng(1)
    day, user = np.repeat(np.arange(40), 60), np.tile(np.arange(60), 40)
    item = 20 * day + 2 * rng.integers(0, 10, len(day)) + user % 2  # 20 new items a day, each for half of the users
    time = START + DAY_S * day + rng.integers(0, 2 * DAY_S, len(day))  # seen on two days
    items = np.unique(item)
    log = make_log(user, item, time, {"category": ["news"] * len(items)}, item_id=items)
    config = Config(data=DataConfig(context="clusters:9", window_days=3))
    report = inspect_log(log, config)
    assert "no list made by then can hold: publish new items by refresh" in " ".join(report.text.split())
    assert "Verdict: don't: " in report.text and "items come and go within 3 days" in report.text
    # Items of the validation window are in no cluster that training knows; as of the test window they are.
    split = report.statistics["split"]
    assert abs(split["test"]["all"]["top_5"] - split["validation"]["all"]["top_5"]) < 0.25


def _with_category(log, column):
    features = {"category": np.array(column, object)}
    return dataclasses.replace(log, items=dataclasses.replace(log.items, features=features))


def test_the_verdict_goes_on_or_names_flags_or_stops() -> None:
    world = block_world()
    assert _verdict(world) == "Verdict: go on"
    short = dataclasses.replace(world, timestamp=START + (world.timestamp - START) // 4)  # 35 days
    assert _verdict(short) == "Verdict: go on with these flags: --window_days=7 (the log spans 35 days)"
    tight = dataclasses.replace(
        world, timestamp=START + (world.timestamp - START) // 2
    )  # 70 days: 14 before the windows
    assert _verdict(tight) == "Verdict: go on with these flags: --window_days=14 (the log spans 70 days)"
    fitting = Config(data=DataConfig(window_days=7))
    assert inspect_log(short, fitting).text.splitlines()[-1] == "Verdict: go on"
    constant = _with_category(world, ["x"] * len(world.items.item_id))
    assert "--context=clusters:auto (category 'x' holds 100% of the events)" in _verdict(constant)
    brands = dataclasses.replace(
        constant.items,
        features={**constant.items.features, **world.items.features, "category": constant.items.features["category"]},
    )
    assert "--context=clusters:auto" in _verdict(dataclasses.replace(constant, items=brands))  # a brand holds half, too
    many = inspect_log(world, Config(data=DataConfig(context="clusters:9"))).text.splitlines()[-1]
    assert "--context=clusters:auto (9 categories are many for " in many
    as_of = dataclasses.replace(world, timestamp=np.full_like(world.timestamp, START))
    assert "Verdict: don't: all events lie within 0 hours" in _verdict(as_of)
    lone = make_log(
        range(50), [v % 3 for v in range(50)], [START + d * DAY_S for d in range(50)], {"category": list("abc")}
    )
    assert _verdict(lone) == "Verdict: don't: every user has one event: nobody has a past"
    lost = dataclasses.replace(world, counts={"rows": 9000, "unknown_item": 6499, "kept": 2501})
    assert "don't: 72% of the rows are of items that the items table lacks" in _verdict(lost)


def test_users_are_odd_beside_those_with_a_history() -> None:
    """Many visitors of one event make nobody else look like a bot."""
    few, busy = np.arange(60), np.repeat(np.arange(60, 100), 30)
    user = np.concatenate([few, busy, np.full(2000, 100)])
    log = make_log(
        user,
        np.arange(len(user)) % 50,
        START + np.arange(len(user)) * 3600,
        {"category": [f"c{v % 3}" for v in range(50)]},
    )
    text = " ".join(inspect_log(log, Config()).text.split())
    assert "60 users (59%) have one event" in text and "1 user with more than 365 events" in text


def test_wide_interests_ask_for_more_of_them() -> None:
    rng = np.random.default_rng(2)
    user = np.repeat(np.arange(60), 120)
    world = make_log(
        user,
        rng.integers(0, 300, len(user)),
        START + rng.integers(0, 200 * DAY_S, len(user)),
        {"category": [f"c{v // 5}" for v in range(300)]},
    )
    few = Config(retrieval=RetrievalConfig(num_interests=20))
    assert "--num_interests=60 --top_interests=60" in inspect_log(world, few).text.splitlines()[-1]
    many = Config(retrieval=RetrievalConfig(num_interests=60, top_interests=60))
    for config in (many, Config()):  # the default searches as many as can enter the list
        assert inspect_log(world, config).text.splitlines()[-1] == "Verdict: go on"


@pytest.mark.slow
def test_command_on_an_own_log(tmp_path: pathlib.Path) -> None:
    rng = np.random.default_rng(1)
    (tmp_path / "events").mkdir()
    for part in range(2):  # receipts restart for each user: one number, a hundred days
        lines = ["user_id,item_id,timestamp,category,receipt"]
        lines += [
            f"{rng.integers(7)},{item},{START + int(rng.integers(100 * DAY_S))},c{item % 3},1"
            for item in rng.integers(0, 23, 250)
        ]
        (tmp_path / f"events/part-{part}.csv").write_text("\n".join([*lines, lines[1]]))
    (tmp_path / "events/_SUCCESS").touch()
    command = [
        *_COMMAND,
        "--dataset=event_log",
        f"--events={tmp_path}/events",
        "--basket_column=receipt",
        f"--data_dir={tmp_path}/tfds",
        "--dim=32",
        f"--output={tmp_path}/out",
        f"--json={tmp_path}/numbers/n.json",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    statistics = json.loads((tmp_path / "numbers/n.json").read_text())
    counts = statistics["counts"]
    assert counts["rows"] == 502 == counts["same_basket"] + counts["same_second"] + counts["kept"]
    assert counts["same_basket"] >= 2 and statistics["log"]["events"] == counts["kept"]
    assert f"{counts['kept']} events of 7 users on 23 items in 3 categories" in done.stdout
    assert f"event_log: 502 rows read = {counts['same_basket']} merged" in done.stderr
    assert "7 of 7 baskets span more than 24 hours" in done.stderr and "7 of 7 baskets span" in done.stdout
    assert "\n  502  rows read\n" in done.stdout and f"\n  {counts['kept']}  events kept\n" in done.stdout
    assert done.stdout.splitlines()[-1].startswith("Verdict: go on")
    assert (tmp_path / "out/life.txt").read_text().strip() == done.stdout.strip()
    assert statistics["negatives"]["items_per_category"]["max"] == 8
    assert (tmp_path / "out/life.png").exists() and len(list((tmp_path / "out/panels").iterdir())) == 9
    again = subprocess.run([*command, "--noplots"], capture_output=True, text=True, check=False)
    assert (again.returncode, again.stdout) == (0, done.stdout)  # from the prepared records: the same chain
    (tmp_path / "events/part-1.csv").write_text('user_id,item_id,timestamp,category,receipt\n1,2,3,"c,1\n')
    torn = subprocess.run(command, capture_output=True, text=True, check=False)
    assert torn.returncode == 2 and "Traceback" not in torn.stderr
    assert "part-1.csv): row 1 holds a quote that is not closed" in torn.stderr.splitlines()[-1]
