"""Actions and event features from the commands to requests: trained, evaluated and exported by command, asked as users
ask."""

import dataclasses
import json
import os
import pathlib

import numpy as np
import pandas as pd
import pytest
import tensorflow as tf
from test_actions import DAY, START, make_events
from trained import FLAGS, run_module

import longretriever_tf as lr
from longretriever_tf.common.errors import UserError
from longretriever_tf.common.schema import FIRST_KNOWN
from longretriever_tf.config.config import DataConfig, load_config
from longretriever_tf.data.batches.prepared_data import load_saved
from longretriever_tf.data.search.hard_search import NUM_ITEM_FEATURES, Events, item_tokens
from longretriever_tf.datasets.load import load_log, with_action_flags
from longretriever_tf.retrieval.export.tuning_queries import make_check_queries
from longretriever_tf.retrieval.request_options import default_columns
from longretriever_tf.serving.client.in_process import LocalClient, request_of
from longretriever_tf.serving.client.request import Request

DEVICE = "--event_features=device"
OURS = ("--action_column=action", "--action_weights=view:0.25,buy:2", "--target_actions=buy", "--action_counts")


def last_line(done) -> str:
    return (done.stderr or done.stdout).strip().splitlines()[-1]


@dataclasses.dataclass(frozen=True)
class Shop:
    """A finished run on a log with actions, and its export."""

    flags: tuple[str, ...]
    run_dir: str
    export_dir: str
    said: str


@pytest.fixture(scope="module")
def shop(tmp_path_factory) -> Shop:
    folder = tmp_path_factory.mktemp("shop")
    frame = make_events(num_users=31, num_items=41, per_user=70)
    frame["device"] = np.where(frame["item_id"].str[1:].astype(int) % 2, "mobile", "désk")  # odd items by phone
    frame.loc[frame.index % 10 == 0, "device"] = None
    frame.loc[frame["timestamp"] > START + 72 * DAY, "device"] = "late"  # behind the cut
    frame.to_parquet(folder / "events.parquet")
    plain = tuple(flag for flag in FLAGS if not flag.startswith(("--item_features", "--user_features", "--profile")))
    tables = (f"--events={folder}/events.parquet", f"--data_dir={folder}/tfds")
    flags = (*plain, *tables, "--epochs=1", "--interest_epochs=1", "--score_weights_users=0")
    run_dir, export_dir = str(folder / "run"), str(folder / "export")
    said = ""
    quick = {
        "evaluate": ("--baselines=none", "--noplots"),
        "export": (f"--export_dir={export_dir}", "--nocheck", "--card"),
    }
    for name, extra in {"train": (*flags, *OURS, DEVICE, "--examples=both"), **quick}.items():
        done = run_module(name, *extra, f"--run_dir={run_dir}")
        assert done.returncode == 0, done.stderr
        said += done.stderr
    return Shop(flags, run_dir, export_dir, said)


@pytest.fixture(scope="module")
def client(shop) -> LocalClient:
    return LocalClient(shop.export_dir)


def test_the_card_says_what_a_request_says(shop):
    card = pathlib.Path(shop.export_dir, "README.md").read_text(encoding="utf-8")
    assert "A request also says device, as the events of the log do; give them as `event_features={...}`." in card


def scores_on(client: LocalClient, **values: str) -> dict[str, float]:
    """The score of every item, where the request says these event features."""
    return {one.item_id: one.score for one in ask(client, None, event_features=values).candidates}


def ask(client: LocalClient, actions: list[str] | None, **options):
    items = [f"i{number:02d}" for number in range(41)]
    times = [START + (number + 1) * DAY for number in range(41)]
    options = {"k": 41, "num_interests": 5, "seed": 1, **options}
    (answer,) = client.retrieve([Request(items, times, START + 80 * DAY, history_action=actions, **options)])
    return answer


def test_tokens_count_purchases_and_other_events_apart():
    """Item 5: bought 90 days ago, viewed 90 and 180 days ago; item 7: viewed 180 days ago."""
    item, age = tf.constant([5, 7, 5, 5]), tf.constant([180.0, 180.0, 90.0, 90.0])
    events = Events(tf.zeros([4], tf.int32), item, age, tf.ones([4]), tf.constant([False, False, False, True]))
    tokens = item_tokens(events, tf.constant(1), tf.constant([4], tf.int64), 10)
    plain = item_tokens(events._replace(is_target=None), tf.constant(1), tf.constant([4], tf.int64), 10)
    assert tokens.item.numpy().tolist() == [[5, 7]]
    counts = np.expm1(tokens.features[0, :, NUM_ITEM_FEATURES:].numpy())
    np.testing.assert_allclose(counts, [[0.5, 0.75], [0, 0.25]], atol=1e-6)
    np.testing.assert_array_equal(tokens.features[:, :, :NUM_ITEM_FEATURES], plain.features)


def test_an_action_without_a_weight_is_noted(shop):
    assert "--action_weights has no weight of cart" in shop.said


def test_evaluation_counts_purchases_alone(shop):
    with open(os.path.join(shop.run_dir, "metrics.json"), encoding="utf-8") as file:
        metrics = json.load(file)
    log = load_log(load_config(shop.run_dir).data)
    assert log.is_target is not None and 0 < log.is_target.sum() < log.num_events
    start, stop = (int(log.timestamp.max()) - days * DAY for days in (28, 14))
    inside = (log.timestamp >= start) & (log.timestamp < stop)
    bought = inside & log.is_target
    pairs = {(user, item) for user, item in zip(log.event_user()[bought], log.item_row[bought], strict=True)}
    assert metrics["num_users"] == len({user for user, _ in pairs})
    assert metrics["num_pairs"] == len(pairs) < inside.sum()


def test_what_was_only_viewed_is_novel_to_a_buyer(client):
    bought, viewed = ask(client, None, goal="novel"), ask(client, ["view"] * 41, goal="novel")
    assert bought.num_valid == 0 and viewed.num_valid == 41  # without actions each event counts as a purchase
    half = ask(client, ["view", "buy"] * 20 + ["view"], goal="novel")
    assert {one.item_id for one in half.candidates} == {f"i{number:02d}" for number in range(0, 41, 2)}


def test_an_action_weighs_as_the_weight_that_it_stands_for(client):
    def scores(**request) -> list[tuple[str, float]]:
        answer = ask(client, **request)
        return [(one.category, one.score) for one in answer.interests]

    assert scores(actions=None) == scores(actions=["buy"] * 41) == scores(actions=[""] * 41)
    views, weighed = scores(actions=["view"] * 41), scores(actions=["?"] * 41, history_weight=[0.25] * 41)
    assert views == weighed != scores(actions=None)


def test_a_request_says_its_device_or_nothing(client):
    plain = scores_on(client)
    assert len(plain) == 41
    for silent in ("", "late", "Mobile"):  # the last two are not of the training window
        assert scores_on(client, device=silent) == plain, silent
    mobile, desk = scores_on(client, device="mobile"), scores_on(client, device="désk")
    assert mobile != plain != desk != mobile
    with pytest.raises(UserError, match="`event_features`: 'colour' is not an input of the model; .*: device; leave"):
        scores_on(client, colour="red")


def test_devices_are_those_of_the_training_window(client):
    assert {name: values[FIRST_KNOWN:].tolist() for name, values in client.corpus.event_values.items()} == {
        "device": ["désk", "mobile"]
    }


def test_unknown_actions_are_counted(client):
    answer = ask(client, ["view"] * 38 + ["Buy", "?", "?"])
    assert (answer.num_unknown_actions, answer.num_unknown_items) == (3, 0)
    with pytest.raises(UserError, match="`history_action` has 2 values for 41"):
        ask(client, ["view", "buy"])


def test_a_weight_is_held_to_its_limit_before_its_action_multiplies_it(shop, client):
    call, now = client._model.signatures["interests"], START + 80 * DAY
    history = {"history_item_id": [["i01"]], "history_timestamp": [[START]], "request_timestamp": [now]}
    columns = {name: tf.constant(column, tf.string if "item" in name else tf.int64) for name, column in history.items()}
    options = default_columns(load_config(shop.run_dir).retrieval, tf.string, True, ["device"])
    options["history_action"] = tf.constant([["view"]])
    options = {name: column for name, column in options.items() if name in call.structured_input_signature[1]}
    assert call(**options | columns | {"history_weight": tf.constant([[1e9]])})
    for weight in (2e9, np.inf, np.nan, -1.0):
        with pytest.raises(tf.errors.InvalidArgumentError, match="`history_weight` must be numbers from 0 to 1e"):
            call(**options | columns | {"history_weight": tf.constant([[weight]])})
    with pytest.raises(tf.errors.InvalidArgumentError, match="`history_weight` must hold one weight per `history_item"):
        call(**options | columns | {"history_weight": tf.ones([1, 3])})


def test_an_index_is_tuned_on_requests_that_count_actions(shop):
    config = load_config(shop.run_dir)
    model = LocalClient.of_run(config)._model
    categories = range(FIRST_KNOWN, model.index.category_offset.shape[0] - 1)
    queries = make_check_queries(model, config, load_saved(shop.run_dir)[0], categories)
    assert all(queries[category].num_real > 0 for category in categories)


def test_a_user_of_the_log_is_asked_with_the_log_s_actions(shop, client):
    log = load_log(load_config(shop.run_dir).data)
    request = request_of(log, "u03", START + 80 * DAY, k=9, seed=1)
    assert set(request.history_action) == {"view", "cart", "buy"} and request.history_weight is None
    flags = (f"--export_dir={shop.export_dir}", "--user=u03", "--k=5")
    done = run_module("recommend", *flags, "--event_values=device:mobile")
    assert done.returncode == 0, done.stderr
    for value, words in (("colour:red", "'colour' is no column of --event_features"), ("mobile", "is no NAME:VALUE")):
        refused = run_module("recommend", *flags, f"--event_values={value}")
        assert refused.returncode == 2 and words in last_line(refused)


def test_a_history_as_a_frame_brings_its_actions(shop):
    frame = pd.DataFrame({"item_id": ["i01", "i02"], "timestamp": [START, START + 9], "action": ["view", "buy"]})
    frame["category"] = "c1"
    model = lr.load(shop.export_dir)
    found = model.recommend(frame, k=41, goal="novel", num_interests=5)
    mobile = model.recommend(frame, k=41, goal="novel", num_interests=5, event_features={"device": "mobile"})
    assert found["score"].tolist() != mobile["score"].tolist()
    assert "i01" in set(found["item_id"]) and "i02" not in set(found["item_id"])


def test_a_model_without_actions_refuses_them(trained):
    client, request = LocalClient(trained.export_dir), Request([100], [START], START + DAY)
    with pytest.raises(UserError, match="`history_action` is not an input of the model: it was trained without"):
        client.retrieve([dataclasses.replace(request, history_action=["buy"])])
    with pytest.raises(UserError, match="'device' is not an input of the model; .*: none; leave it out"):
        client.retrieve([dataclasses.replace(request, event_features={"device": "mobile"})])


def test_a_warm_start_keeps_its_actions(shop, tmp_path):
    flags = "--target_actions=cart", "--event_features=action_"
    refused = run_module("train", f"--warm_start={shop.run_dir}", *flags, f"--run_dir={tmp_path}/other")
    assert refused.returncode == 2
    assert "--target_actions: buy there, cart here; --event_features: device there, action_ here" in last_line(refused)
    assert not (tmp_path / "other" / "config.json").exists()


def test_a_prepared_log_has_one_column_of_actions(shop, tmp_path):
    events = next(flag for flag in shop.flags if flag.startswith("--events="))
    refused = run_module("prepare", "--dataset=event_log", events, DEVICE, f"--output={tmp_path}/prepared")
    assert refused.returncode == 2 and not os.path.exists(tmp_path / "prepared")
    assert f"{DEVICE}: a log that `prepare` writes keeps no such columns; train from the tables" in last_line(refused)
    done = run_module("prepare", "--dataset=event_log", events, *OURS[:1], f"--output={tmp_path}/prepared")
    assert done.returncode == 0, done.stderr
    kept = with_action_flags(DataConfig(data=f"{tmp_path}/prepared", target_actions=("buy",)))
    assert (kept.action_column, kept.action_weights, kept.target_actions) == ("action", (), ("buy",))
    with pytest.raises(UserError, match="--action_column=deed: --data=.* was prepared with --action_column=action"):
        load_log(dataclasses.replace(kept, action_column="deed"))
