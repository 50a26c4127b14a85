"""Columns that people have, by the commands: whatever a feature is called, and without the history's token.

A profile column becomes an input of the export by one rule (`input_names`), or is refused before anything is trained.
"""

import numpy as np
import pandas as pd
import pytest
from trained import FLAGS, run_module, write_tables
from worlds import block_world

from longretriever_tf.common import schema
from longretriever_tf.common.errors import UserError
from longretriever_tf.config.input_names import check_profile_columns, input_of_profile
from longretriever_tf.serving.client.in_process import LocalClient
from longretriever_tf.serving.client.request import Request

PROFILE = {"age band": "b0", "k": "x", "class": "y", "höhe/cm": "z"}
"""Named with a space, like a request column, like a keyword of Python, and with what no identifier holds."""

INPUTS = {"profile_age_band", "profile_k", "profile_class", "profile_huf6he_cm"}


@pytest.fixture(scope="module")
def export_dir(tmp_path_factory) -> str:
    """A run without the history's token on a log of such columns, trained, exported and asked by the commands."""
    directory = tmp_path_factory.mktemp("names")
    log = block_world(num_users=23, num_items=41, num_categories=5, events_per_user=31)
    tables = write_tables(log, directory)
    users = pd.read_parquet(directory / "users.parquet").rename(columns={"taste": "age band"})
    users = users.assign(
        **{name: np.where(users.user_id % 2, value, "other") for name, value in list(PROFILE.items())[1:]}
    )
    users.to_parquet(directory / "users.parquet")
    items = pd.read_parquet(directory / "items.parquet").rename(columns={"brand": "brand name"})
    items.assign(k=items["brand name"]).to_parquet(directory / "items.parquet")
    flags = [flag for flag in FLAGS if "features" not in flag]
    flags += [f"--user_features={','.join(PROFILE)}", "--item_features=brand name,k", "--nouser_context"]
    run, export = str(directory / "run"), str(directory / "export")
    for name, extra in (
        ("train", (*tables, *flags, "--normalize", "--temperature=0.1", "--interest_epochs=1", "--epochs=1")),
        ("export", (f"--export_dir={export}", "--nocheck")),
    ):
        done = run_module(name, *extra, f"--run_dir={run}")
        assert done.returncode == 0, done.stderr
    # More interests than the export draws, and a seed that no training takes.
    done = run_module("recommend", f"--export_dir={export}", "--user=1003", "--num_interests=30", "--seed=-1")
    assert done.returncode == 0 and "merged list" in done.stdout, done.stderr
    return export


def test_profile_columns_become_inputs_and_are_read(export_dir):
    client = LocalClient(export_dir)
    assert set(client._inputs) > INPUTS and not set(PROFILE) - {"k"} & set(client._inputs)
    item = client.corpus.item_id[schema.FIRST_KNOWN]
    asked = {
        "history_item_id": [item],
        "history_timestamp": [client.corpus.cut - 60],
        "request_timestamp": client.corpus.cut,
    }
    profiles = [PROFILE, PROFILE | {"age band": "b1"}, PROFILE | {"k": "other"}, {}]
    scores = [
        [c.score for c in answer.candidates]
        for answer in client.retrieve([Request(**asked, profile=one) for one in profiles])
    ]
    assert all(scores) and len({tuple(one) for one in scores}) == len(profiles)
    with pytest.raises(UserError, match="'height' is not an input of the model"):
        client.retrieve([Request(**asked, profile={"height": "3"})])


@pytest.mark.parametrize(
    "column",
    ["a b", "a.b", "a/b", "1st", "_x", "class", "None", "K", "seed", "history_item_id", "category", "年", "", "self"],
)
def test_every_name_becomes_an_identifier_of_its_own(column):
    name = input_of_profile(column)
    assert name.isidentifier() and name.isascii() and name.startswith("profile_")
    assert input_of_profile(name) == name  # who uses the input's own name is understood
    assert input_of_profile("age") == "age" and input_of_profile("Marital_Status2") == "Marital_Status2"


@pytest.mark.parametrize("columns", [("a b", "a.b"), ("Age", "age"), ("k", "profile_k")])
def test_columns_that_would_be_one_input_are_refused(columns):
    with pytest.raises(UserError) as caught:
        check_profile_columns(columns)
    assert all(repr(column) in str(caught.value) for column in columns) and "rename" in str(caught.value)


def test_they_are_refused_before_training(tmp_path):
    flags = "--dataset=event_log", "--events=none.csv", "--users=none.csv", "--user_features=a b,a.b"
    done = run_module("train", *flags, "--profile", f"--run_dir={tmp_path}/run")
    assert done.returncode == 2 and done.stderr.startswith("error: --user_features") and not (tmp_path / "run").exists()


@pytest.mark.parametrize("flags", [("--model=two_tower",), ("--search=corpus", "--merge=raw")])
def test_training_says_what_only_evaluation_can_ask(tmp_path, flags):
    done = run_module(
        "train", *flags, "--dataset=event_log", f"--events={tmp_path}/none.csv", f"--run_dir={tmp_path}/run"
    )
    assert flags[0] in done.stdout and "note: " in done.stdout and done.returncode == 2
