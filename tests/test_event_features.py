"""Columns of events as what a request says (--event_features): how they are read, stored, taught and refused.

`test_action_requests` has them in a run, its export and requests.
"""

import dataclasses

import numpy as np
import pandas as pd
import pytest
import tensorflow as tf
from test_actions import DAY, START, make_events

from longretriever_tf.common.errors import UserError
from longretriever_tf.common.schema import FIRST_KNOWN, UNKNOWN
from longretriever_tf.config.config import Config, DataConfig, ModelConfig, TrainConfig
from longretriever_tf.config.event_features import check_event_examples
from longretriever_tf.data.batches.in_context import BatchSource
from longretriever_tf.data.batches.on_device import DeviceSource
from longretriever_tf.data.batches.prepared_data import prepare, prepare_examples
from longretriever_tf.datasets.event_log.source import read_event_log
from longretriever_tf.datasets.load import load_log
from longretriever_tf.datasets.log_identity import fingerprint_log
from longretriever_tf.models.build import build_models
from longretriever_tf.retrieval.multi_context import MultiContextRetriever
from longretriever_tf.serving.client.input_spec import InputSpec
from longretriever_tf.serving.client.request import Request, make_columns


def make_frame(**sizes) -> pd.DataFrame:
    """Odd items are bought by phone, even ones at a desk; a tenth of the events say nothing; `late` comes too late."""
    frame = make_events(**{"num_users": 31, "num_items": 41, "per_user": 70} | sizes)
    item, rng = frame["item_id"].str[1:].astype(int), np.random.default_rng(1)
    frame["timestamp"] = START + rng.permutation(100 * DAY)[: len(frame)]  # each event has a time of its own
    frame["device"] = np.where(item % 2, "mobile", "désk")
    frame.loc[rng.random(len(frame)) < 0.1, "device"] = None
    frame["slot"] = item % 2 + 1
    frame.loc[frame["timestamp"] > START + 72 * DAY, "device"] = "late"
    return frame


def config_of(folder, frame: pd.DataFrame, **settings) -> DataConfig:
    frame.to_csv(folder / "events.csv", index=False)
    given = {"event_features": ("device", "slot"), **settings}
    return DataConfig(dataset="event_log", data_dir=f"{folder}/tfds", events=f"{folder}/events.csv", **given)


@pytest.mark.parametrize("kind", ["event", "both"])
def test_examples_have_the_values_of_their_own_event(tmp_path, kind):
    frame = make_frame(num_users=13, num_items=19, per_user=40)
    spec = config_of(tmp_path, frame)
    train = {"examples": kind, "snapshot_every_days": 5, "num_snapshots": 9, "horizon_days": 7, "device_input": True}
    model = ModelConfig(svd_dim=0, user_context=False, request_features=("hour",), dim=8, num_heads=2)
    config = Config(spec, model, TrainConfig(**train, batch_size=23, batches_per_step=2, steps_per_call=2))
    log = load_log(spec)
    assert fingerprint_log(log) == fingerprint_log(read_event_log(spec))
    prepared = prepare(config, log, START + 90 * DAY)
    examples, snapshots = prepare_examples(config, prepared)
    is_snapshot = np.isin(examples.id, snapshots.id) & (kind == "both")
    assert is_snapshot.any() == (kind == "both")
    rows = frame.set_index(["user_id", "timestamp"])
    expected = np.full((len(examples), 2), UNKNOWN)
    vocabularies = [values.tolist() for values in prepared.corpus.event_values.values()]
    for x in np.flatnonzero(~is_snapshot):
        row = rows.loc[(prepared.log.user_id[examples.user[x]], examples.time[x])]
        for f, value in enumerate((row["device"], str(row["slot"]))):
            if isinstance(value, str):
                expected[x, f] = vocabularies[f].index(value)
    np.testing.assert_array_equal(examples.event_feature, expected)
    assert {*np.unique(expected[~is_snapshot][:, 0])} == {UNKNOWN, *range(FIRST_KNOWN, FIRST_KNOWN + 3)}
    source = BatchSource(config, prepared, examples)
    plan = source.plan(0)
    for number, batch in enumerate(source.make_dataset(0)):
        at = plan.rows[plan.start[number] : plan.stop[number]]
        np.testing.assert_array_equal(batch.profile[:, :2], expected[at])
    device = DeviceSource(config, prepared, source)
    epoch, blocks = device.plan(0)
    on_device = device.load_epoch(epoch)
    for block in blocks:
        found = device.build(on_device, tf.constant(block.bounds[0]), block.shape)
        for group, (low, size, _, _) in enumerate(block.bounds[0]):
            own = found.profile[group * block.shape.rows :][:size, :2]
            np.testing.assert_array_equal(own, expected[epoch.rows[low : low + size]])


@pytest.mark.parametrize("reads_profile", [True, False])
def test_a_request_has_the_columns_that_batches_have(tmp_path, reads_profile):
    frame = make_frame(num_users=7, num_items=11, per_user=30)
    pd.DataFrame({"user_id": sorted(set(frame["user_id"])), "taste": list("xyxyxyx")}).to_csv(tmp_path / "u.csv")
    spec = config_of(tmp_path, frame, users=str(tmp_path / "u.csv"), user_features=("taste",))
    sizes = {"svd_dim": 0, "user_context": False, "dim": 8, "num_heads": 2, "ff_dim": 8}
    model = ModelConfig(profile=reads_profile, request_features=("weekday", "hour"), **sizes)
    config = Config(spec, model, TrainConfig(examples="event"))
    prepared = prepare(config, load_log(spec), START + 90 * DAY)
    retriever = build_models(config, prepared.corpus, prepared.item_svd).retriever
    names = [table.name.split(":")[0].rpartition("/")[2] for table in retriever.user_tower.request_tables]
    assert names == ["event_device", "event_slot", "request_weekday", "request_hour"]
    arrays = {"item_stats": prepared.stats.item[-1], "category_stats": prepared.stats.category[-1]}
    arrays["taste_rows"] = prepared.history_embedding_rows
    served = MultiContextRetriever(config, prepared.corpus, retriever, None, arrays)
    history = tf.constant([["i01"], ["i02"]]), tf.constant([[START]] * 2, tf.int64), tf.ones([1, 1])
    said = [tf.constant(["y", "z"])] * reads_profile + [tf.constant(["mobile", ""]), tf.constant(["7", "2"])]
    noon = START + 2 * DAY - START % DAY + DAY // 2  # a Tuesday
    found = served.look_up(*history, tf.constant([noon] * 2, tf.int64), said).profile
    profile = [[FIRST_KNOWN + 1], [UNKNOWN]] if reads_profile else [[], []]
    time = [FIRST_KNOWN + 1, FIRST_KNOWN + 12]
    first = prepared.corpus.event_values["device"].tolist().index("mobile")
    assert found.numpy().tolist() == [
        [*profile[0], first, UNKNOWN, *time],
        [*profile[1], UNKNOWN, FIRST_KNOWN + 1, *time],
    ]


def test_of_merged_events_the_earliest_says_its_value_in_any_order_of_rows(tmp_path):
    rows = [("b", START + 0.5), ("c", START + 0.25), ("a", START + 0.5), ("z", START + 9.0), ("y", START + 9.0)]
    frame = pd.DataFrame(rows, columns=["device", "timestamp"]).assign(user_id="u", item_id="i", category="c")
    for order in (frame, frame[::-1]):
        log = read_event_log(config_of(tmp_path, order, event_features=("device",)))
        column = log.event_features["device"]
        assert column.value[column.row].tolist() == ["c", "y"]


@pytest.mark.parametrize(
    "data, words",
    [
        ({"event_features": ("device", "device")}, "'device' is there twice; name it once"),
        ({"event_features": ("user_id",)}, "'user_id' is named by --user_column too"),
        ({"event_features": ("w",), "weight_column": "w"}, "'w' is named by --weight_column too"),
        ({"event_features": ("b",), "basket_column": "b"}, "'b' is named by --basket_column too"),
        ({"event_features": ("a",), "action_column": "a"}, "'a' is named by --action_column too"),
        ({"event_features": ("brand",), "item_features": ("brand",)}, "'brand' is named by --item_features too"),
        ({"event_features": ("k",)}, "'k' cannot be an input of a request: expected ASCII letters"),
        ({"event_features": ("history_item_id",)}, "'history_item_id' cannot be an input of a request"),
        ({"event_features": ("profile",)}, "'profile' cannot be an input of a request"),
        (
            {"event_features": ("my device",)},
            "'my device' cannot be an input .*; rename the column in the events table",
        ),
        (
            {"event_features": ("Age",), "user_features": ("age",)},
            "'Age' would be the same input .* of --user_features",
        ),
        ({"event_features": ("x", "X")}, "'x' would be the same input .* 'X' of --event_features"),
        ({"dataset": "complete_journey"}, "--event_features=device names columns of your own tables"),
        (
            {"data": "log", "events": ""},
            "--event_features=device with --data=log: a log that `prepare` writes keeps no",
        ),
        ({"action_column": "w", "weight_column": "w"}, "--action_column=w is --weight_column too"),
        ({"action_column": "b", "basket_column": "b"}, "--action_column=b is --basket_column too"),
    ],
)
def test_columns_that_cannot_be_are_named(data, words):
    with pytest.raises(UserError, match=words):
        Config(DataConfig(**{"dataset": "event_log", "events": "e", "event_features": ("device",), **data}))


def test_settings_that_do_not_go_together_are_named(tmp_path):
    data = DataConfig(dataset="event_log", events="e", event_features=("device",))
    with pytest.raises(UserError, match="is not read by --model=mind but by longretriever"):
        Config(data, ModelConfig(model="mind"))
    with pytest.raises(UserError, match="--event_features=device with --examples=snapshot: a snapshot has no event of"):
        check_event_examples(Config(data, train=TrainConfig(examples="snapshot")))
    with pytest.raises(UserError, match="with --examples=event and --unknown_rate=0: no example stands for"):
        check_event_examples(Config(data, ModelConfig(unknown_rate=0.0), TrainConfig(examples="event")))
    with pytest.raises(UserError, match="column 'chanel'.*|'chanel'.*--event_features"):
        read_event_log(config_of(tmp_path, make_frame(num_users=2), event_features=("chanel",)))


def test_a_client_tells_them_from_the_profile_by_their_default():
    """A log's profile is sent to a model that reads none; it must not be taken for a misspelt device, nor a device for
    a profile."""
    no_device = np.array([b""], object)
    inputs = {
        "history_item_id": InputSpec("DT_STRING"),
        "history_timestamp": InputSpec("DT_INT64"),
        "request_timestamp": InputSpec("DT_INT64"),
        "device": InputSpec("DT_STRING", no_device),
    }
    profiled = Request(["i"], [START], START + 1, profile={"gender": "f"}, event_features={"device": "mobile"})
    assert make_columns([profiled], inputs)["device"].tolist() == ["mobile"]
    silent = dataclasses.replace(profiled, event_features={})
    assert make_columns([silent, profiled], inputs)["device"].tolist() == ["", "mobile"]
    assert profiled.takes_options and not silent.takes_options  # `top_k` has no such input
    with pytest.raises(UserError, match="profile column 'gender' is not an input .* columns: age"):
        make_columns([silent], inputs | {"age": InputSpec("DT_STRING")})
    odd = dataclasses.replace(silent, profile={}, event_features={"age": "35"})
    with pytest.raises(UserError, match="`event_features`: 'age' is not an input of the model; .*: device; leave it"):
        make_columns([odd], inputs | {"age": InputSpec("DT_STRING")})
    with pytest.raises(UserError, match="`event_features` must be a dict; received 'mobile'"):
        dataclasses.replace(silent, event_features="mobile")
    with pytest.raises(UserError, match="event_features"):
        dataclasses.replace(silent, event_features={"device": 3})
