"""The action column: what counts as history, what is a target, and what each event weighs, from tables to requests."""

import dataclasses

import numpy as np
import pandas as pd
import pytest

from longretriever_tf.common.errors import UserError
from longretriever_tf.config.actions import action_weights
from longretriever_tf.config.config import Config, DataConfig, ModelConfig, TrainConfig
from longretriever_tf.data.batches.examples import build_examples, count_targets, distinct_targets
from longretriever_tf.data.batches.interest_rows import interest_rows
from longretriever_tf.data.corpus import encode_log, fit_corpus
from longretriever_tf.data.search.behavior_index import build_category_order
from longretriever_tf.datasets.event_log.source import read_event_log
from longretriever_tf.datasets.log import LifelongLog
from longretriever_tf.datasets.preparation import run
from longretriever_tf.datasets.sharded_log import ShardedLog
from longretriever_tf.evaluation.counting.popularity import fit_popularity
from longretriever_tf.evaluation.ground_truth import build_truth
from longretriever_tf.inspect_log import inspect_log
from longretriever_tf.inspection.actions import action_statistics

DAY = 86_400
START = 1_600_000_000
WEIGHTS = ("view:0.25", "buy:2")


def make_events(seed: int = 3, num_users: int = 13, num_items: int = 19, per_user: int = 60) -> pd.DataFrame:
    """Views, some of them followed by a cart or a purchase of the same item; text ids."""
    rng = np.random.default_rng(seed)
    size = num_users * per_user
    frame = pd.DataFrame(
        {
            "user_id": [f"u{u:02d}" for u in np.repeat(np.arange(num_users), per_user)],
            "item": rng.integers(0, num_items, size),
            "timestamp": START + rng.integers(0, 100 * DAY, size),
            "action": rng.choice(["view", "view", "cart", "buy"], size),
            "stars": rng.integers(1, 5, size) / 2,
        }
    )
    frame["item_id"] = [f"i{i:02d}" for i in frame["item"]]
    frame["category"] = [f"c{i % 3}" for i in frame["item"]]
    return frame.drop(columns="item")


def write(frame: pd.DataFrame, path, **settings) -> DataConfig:
    frame.to_csv(path / "events.csv", index=False)
    given = {"action_column": "action", **settings}
    return DataConfig(dataset="event_log", data_dir=str(path / "tfds"), events=str(path / "events.csv"), **given)


@pytest.fixture
def log(tmp_path) -> LifelongLog:
    return read_event_log(write(make_events(), tmp_path, action_weights=WEIGHTS, target_actions=("buy",)))


def test_events_of_two_actions_stay_apart_and_weigh_by_both(tmp_path):
    rows = [("view", 2.0), ("buy", 0.5), ("view", 1.0), ("cart", 3.0)]
    frame = pd.DataFrame(rows, columns=["action", "stars"]).assign(
        user_id="u", item_id="i", category="c", timestamp=[START, START, START, START + 1]
    )
    log = read_event_log(write(frame, tmp_path, weight_column="stars", action_weights=WEIGHTS, target_actions=("buy",)))
    names = [log.actions.name[row] for row in log.action.tolist()]
    assert list(zip(names, log.timestamp - START, log.weight, log.event_weight, log.is_target, strict=True)) == [
        ("buy", 0, 0.5, 1.0, True),
        ("view", 0, 3.0, 0.75, False),  # two views of one second are one event, whose own weights add up
        ("cart", 1, 3.0, 3.0, False),  # an action without a weight weighs 1
    ]


def test_windows_count_every_event_and_the_pairs_of_targets(log):
    report = inspect_log(log, Config())
    parts = report.statistics["split"].values()
    assert sum(part["events"] for part in parts) == log.num_events  # views are no log that thins out
    assert "thins out" not in report.text and "pairs of buy" in report.text
    assert sum(part["pairs"] for part in parts) <= log.is_target.sum() < log.num_events


def test_examples_ask_for_target_actions_alone_and_read_all(log):
    corpus = fit_corpus(log, START + 101 * DAY)
    encoded = encode_log(log, corpus)
    order = build_category_order(encoded, corpus)
    train = TrainConfig(examples="both", horizon_days=10, snapshot_every_days=9, num_snapshots=5)
    config = Config(model=ModelConfig(), train=train)
    grid = np.array([START + 101 * DAY])
    examples = build_examples(config, encoded, order, grid, START)
    targets = distinct_targets(examples, order)
    user = encoded.event_user()
    for x in range(len(examples)):
        is_event = examples.target_stop[x] == examples.target_start[x] + 1 and examples.time[x] in order.timestamp
        until = examples.time[x] + (1 if is_event else 10 * DAY)
        mine = (user == examples.user[x]) & (corpus.item_category[encoded.item] == examples.category[x])
        wanted = mine & encoded.is_target & (encoded.timestamp >= examples.time[x]) & (encoded.timestamp < until)
        found = set(targets.item[targets.offset[x] : targets.offset[x + 1]].tolist())
        assert found and (
            found == set(encoded.item[wanted].tolist()) or (is_event and found <= set(encoded.item[wanted]))
        )
        assert examples.num_before[x] == (mine & (encoded.timestamp < examples.time[x])).sum()  # views among them
    per_event = int(encoded.is_target.sum())
    snapshots = len(examples) - per_event
    assert snapshots > 0 and (count_targets(order, examples.target_start, examples.target_stop) > 0).all()


def test_interest_rows_count_what_was_never_bought(log):
    corpus = fit_corpus(log, START + 101 * DAY)
    encoded = encode_log(log, corpus)
    order = build_category_order(encoded, corpus)
    train = TrainConfig(examples="snapshot", horizon_days=10, snapshot_every_days=9, num_snapshots=5)
    examples = build_examples(Config(train=train), encoded, order, np.array([START + 101 * DAY]), START)
    rows = interest_rows(encoded, order, examples, 0)
    bought = encoded.is_target
    for row in range(len(rows.time)):
        user, time = examples.user[rows.example[row]], rows.time[row]
        mine = (encoded.event_user() == user) & bought
        before = set(encoded.item[mine & (encoded.timestamp < time)])
        next_ones = mine & (encoded.timestamp >= time) & (encoded.timestamp < time + 10 * DAY)
        for at in range(rows.target[row], rows.target[row + 1]):
            items = set(encoded.item[next_ones & (corpus.item_category[encoded.item] == rows.category[at])])
            assert rows.counts[at].tolist() == [len(items), len(items - before)]


def test_truth_and_popularity_are_of_purchases(log):
    cut = START + 70 * DAY
    corpus = fit_corpus(log, cut)
    encoded = encode_log(log, corpus)
    truth = build_truth(encoded, corpus.num_items, cut, (cut, cut + 20 * DAY))
    user, bought = encoded.event_user(), encoded.is_target
    past, window = encoded.timestamp < cut, (encoded.timestamp >= cut) & (encoded.timestamp < cut + 20 * DAY)
    for row, mine in enumerate(truth.users):
        here = user == mine
        items = sorted(set(encoded.item[here & window & bought].tolist()))
        had = set(encoded.item[here & past & bought].tolist())
        pairs = slice(truth.offset[row], truth.offset[row + 1])
        assert truth.item[pairs].tolist() == items
        assert truth.is_novel[pairs].tolist() == [item not in had for item in items]
    viewed_alone = [
        set(encoded.item[(user == u) & past].tolist()) - set(encoded.item[(user == u) & past & bought].tolist())
        for u in truth.users
    ]
    of_pair = truth.pair_row()
    assert any(item in viewed_alone[row] for row, item in zip(of_pair, truth.item, strict=True))  # and these are novel
    popularity = fit_popularity(encoded, corpus.num_items, cut)
    assert set(np.flatnonzero(popularity)) == set(encoded.item[past & bought].tolist())
    without = dataclasses.replace(encoded, is_target=None)
    assert build_truth(without, corpus.num_items, cut, (cut, cut + 20 * DAY)).num_pairs > truth.num_pairs


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"action_weights": ("view:-1",)}, "--action_weights: the weight of 'view' is '-1'; expected a number above 0"),
        ({"action_weights": ("view:much",)}, "the weight of 'view' is 'much'"),
        ({"action_weights": ("view:nan",)}, "the weight of 'view' is 'nan'"),
        ({"action_weights": ("view",)}, "'view' has no action or no weight"),
        ({"action_weights": ("view:1", "view:2")}, "'view' is there twice"),
        ({"action_weights": ("look:1",)}, "has no action 'look'; its actions are 'buy', 'cart', 'view'"),
        ({"target_actions": ("Buy",)}, "--target_actions: --events="),
        ({"action_column": "", "target_actions": ("buy",)}, "--target_actions=buy needs --action_column"),
        ({"action_column": "deed"}, "no column 'deed' (--action_column)"),
        ({"action_column": "item_id"}, "--action_column=item_id is --item_column too"),
        ({"action_column": "blank"}, "2 of 780 rows have no action, the first is row 3"),
    ],
)
def test_mistakes_are_named(tmp_path, settings, says):
    frame = make_events()
    frame["blank"] = frame["action"].where(~frame.index.isin([2, 5]))
    with pytest.raises(UserError) as error:
        spec = write(frame, tmp_path, **settings)
        Config(data=spec)
        read_event_log(spec)
    assert says in str(error.value)


def test_a_table_in_several_files_needs_the_column_in_each(tmp_path):
    frame, folder = make_events(), tmp_path / "log"
    folder.mkdir()
    frame[:400].to_parquet(folder / "a.parquet")
    frame[400:].drop(columns="action").to_parquet(folder / "b.parquet")
    spec = dataclasses.replace(write(frame, tmp_path), events=str(folder))
    with pytest.raises(UserError, match=r"b.parquet\): no column 'action' \(--action_column\)"):
        read_event_log(spec)


def test_prepared_logs_keep_actions_and_take_other_targets_later(tmp_path):
    spec = write(make_events(), tmp_path, action_weights=WEIGHTS, target_actions=("buy",))
    output = str(tmp_path / "prepared")
    assert run.prepare_log(spec, output, 2, run.in_processes(1)).startswith("prepared: ")
    memory, kept = read_event_log(spec), ShardedLog(output).read_whole()
    assert kept.actions == memory.actions and kept.action.tolist() == memory.action.tolist()
    assert kept.event_weight.tolist() == memory.event_weight.tolist()
    other = ShardedLog(output, actions=DataConfig(data=output, target_actions=("cart", "buy"))).read_whole()
    assert other.is_target.sum() > kept.is_target.sum()
    with pytest.raises(UserError, match="--data=.* has no action 'look'"):
        ShardedLog(output, actions=DataConfig(data=output, target_actions=("look",)))
    assert run.prepare_log(spec, output, 2, run.in_processes(1)).endswith("nothing to do")
    with pytest.raises(UserError, match=r"--target_actions=cart: .* prepared with --target_actions=buy"):
        run.prepare_log(dataclasses.replace(spec, target_actions=("cart",)), output, 2, run.in_processes(1))
    with pytest.raises(UserError, match="holds another log .--action_column: 'action' there, '' here"):
        plain = dataclasses.replace(spec, action_column="", action_weights=(), target_actions=())
        run.prepare_log(plain, output, 2, run.in_processes(1))


def test_counts_by_action_need_actions_to_count():
    ours = DataConfig(dataset="event_log", action_column="action", target_actions=("buy",))
    with pytest.raises(UserError, match="--action_counts without --target_actions"):
        Config(model=ModelConfig(action_counts=True))
    with pytest.raises(UserError, match="--action_counts with --subsequence=events"):
        Config(data=ours, model=ModelConfig(action_counts=True, subsequence="events"))
    with pytest.raises(UserError, match="--action_counts=True is not read by --model=mind but by longretriever"):
        Config(data=ours, model=ModelConfig(action_counts=True, model="mind"))
    assert Config(data=ours, model=ModelConfig(action_counts=True)).model.action_counts


def test_weights_are_read_from_the_last_colon_on():
    assert action_weights(("shop:view:0.5",)) == {"shop:view": 0.5}


def test_the_report_says_what_leads_to_what(tmp_path):
    rows = [("u1", "a", "view", 1), ("u1", "a", "buy", 2), ("u1", "b", "view", 3), ("u1", "b", "view", 9)]
    rows += [("u2", "a", "view", 1), ("u2", "b", "view", 2), ("u2", "b", "cart", 3), ("u2", "b", "buy", 4)]
    frame = pd.DataFrame(rows, columns=["user_id", "item_id", "action", "timestamp"]).assign(category="c")
    frame["timestamp"] += START
    found = action_statistics(read_event_log(write(frame, tmp_path)))
    assert found["target"] == ["buy"] and not found["is_chosen"]
    assert found["proposal"] == ["--target_actions=buy", "--action_weights=buy:1,cart:1,view:0.5"]
    chosen = action_statistics(read_event_log(write(frame, tmp_path, target_actions=("buy",))))
    assert chosen["is_chosen"] and chosen["proposal"] == []
    leads = {name: (one["events"], one["pairs"], one["leads"]) for name, one in chosen["actions"].items()}
    assert leads == {"buy": (2, 2, 0.0), "cart": (1, 1, 1.0), "view": (5, 4, 0.5)}
