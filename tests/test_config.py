import dataclasses
import json

import pytest

from longretriever_tf.common.errors import UserError
from longretriever_tf.config import config as config_lib
from longretriever_tf.config.config import Config, DataConfig, ModelConfig, RetrievalConfig, TrainConfig

SECTIONS = (DataConfig, ModelConfig, TrainConfig, RetrievalConfig)


def test_json_round_trip_gives_back_the_constructors_values(tmp_path):
    config = Config(
        DataConfig(dataset="event_log", item_features=("brand", "colour"), window_days=7.5),
        ModelConfig(dim=24, num_heads=3, repeat_term=False),
        TrainConfig(seed=11),
        RetrievalConfig(num_interests=5),
    )
    (tmp_path / "config.json").write_text(config_lib.to_json(config))
    loaded = config_lib.load_config(str(tmp_path))
    assert loaded == dataclasses.replace(config, train=TrainConfig(seed=11, run_dir=str(tmp_path)))
    assert loaded.data.item_features == ("brand", "colour")  # a tuple again, not JSON's list
    assert (loaded.model.dim, loaded.train.seed, loaded.retrieval.num_interests) == (24, 11, 5)


def test_former_keys_are_read_and_removed_ones_must_have_had_their_default():
    former = {"model": {"taste_dropout": 0.25, "copy": False}, "train": {"taste_folds": 2, "weight_decay": 0.01}}
    assert config_lib.from_dict(Config, former) == Config(
        model=ModelConfig(history_dropout=0.25, repeat_term=False), train=TrainConfig(history_folds=2)
    )
    former["train"]["weight_decay"] = 0.1
    with pytest.raises(UserError, match=r"config.train.weight_decay=0.1: .* was removed.* Train again"):
        config_lib.from_dict(Config, former)


def test_absent_keys_take_the_default():
    assert config_lib.from_dict(Config, {"model": {"dim": 32}}) == Config(model=ModelConfig(dim=32))


@pytest.mark.parametrize(
    "values, said",
    [
        ({"modle": {}}, ["'modle'", "model"]),
        ({"model": {"dims": 32, "hedas": 2}}, ["'dims', 'hedas'", "config.model", "num_heads"]),
    ],
)
def test_unknown_keys_are_refused_by_name(values, said):
    with pytest.raises(UserError) as caught:
        config_lib.from_dict(Config, values)
    assert all(text in str(caught.value) for text in said), caught.value


@pytest.mark.parametrize(
    "section, values, said",
    [
        ("data", {"dataset": "netflix"}, ["--dataset='netflix'", "complete_journey, event_log, movielens"]),
        ("data", {"window_days": 0.0}, ["--window_days=0.0", "above 0"]),
        ("model", {"dim": 50}, ["--dim=50", "--num_heads=4"]),
        ("model", {"dropout": 1.0}, ["--dropout=1.0", "expected at most 0.99"]),
        ("model", {"unknown_rate": -0.1}, ["--unknown_rate=-0.1", "expected at least 0"]),
        ("train", {"epochs": -1}, ["--epochs=-1", "at least 0"]),
        ("train", {"history_folds": 1}, ["--history_folds=1", "at least 2"]),
        ("train", {"cross_fit_items": True, "history_folds": 0}, ["--cross_fit_items", "--history_folds=0"]),
        ("train", {"batches_per_step": 0}, ["--batches_per_step=0", "above 0"]),
        (
            "train",
            {"item_tables": "by_category", "device_input": True},
            ["--item_tables=by_category", "--device_input"],
        ),
        ("train", {"loss": "in_batch"}, ["--loss=in_batch", "--norepeat_term", "--noitem_stats"]),
        ("train", {"in_context": False, "device_input": True}, ["--noin_context", "--device_input"]),
        ("retrieval", {"num_interests": -1}, ["--num_interests=-1", "at least 0"]),
        ("retrieval", {"interest_threshold": 0.5}, ["--interest_threshold=0.5", "at most 0"]),
        ("retrieval", {"num_interests": 21}, ["--num_interests=21", "--top_interests=20"]),
        ("retrieval", {"max_k": 99}, ["--max_k=99", "at least 100"]),
        ("retrieval", {"merge": "max"}, ["--merge='max'", "calibrated"]),
    ],
)
def test_a_value_that_cannot_work_is_shown_with_its_flag(section, values, said):
    cls = type(getattr(Config(), section))
    with pytest.raises(UserError) as caught:
        Config(**{section: cls(**values)})
    assert all(text in str(caught.value) for text in said), caught.value


def test_every_field_has_help_and_a_flag_name_of_its_own():
    fields = [field for section in SECTIONS for field in dataclasses.fields(section)]
    assert len({field.name for field in fields}) == len(fields)  # sections share one flag namespace
    assert all(len(field.metadata["help"]) > 20 for field in fields)


def test_a_run_directory_without_a_readable_config_is_named(tmp_path):
    with pytest.raises(UserError, match="not a run directory.*config.json does not exist"):
        config_lib.load_config(str(tmp_path))
    (tmp_path / "config.json").write_text(json.dumps({"model": {"dim": 64}})[:-1])
    with pytest.raises(UserError, match="config.json is not JSON"):
        config_lib.load_config(str(tmp_path))
