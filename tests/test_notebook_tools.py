"""What notebooks stand on: a sample as tables, an opened run, an export asked in this process, commands."""

import contextlib
import dataclasses
import os

import numpy as np
import pytest
from serving_clients import serving
from test_datasets import write_complete_journey

from longretriever_tf import notebook
from longretriever_tf.common.errors import UserError
from longretriever_tf.common.schema import DAY_S
from longretriever_tf.datasets import complete_journey
from longretriever_tf.datasets.complete_journey import sample
from longretriever_tf.datasets.load import load_log
from longretriever_tf.evaluation.evaluate_baselines import BaselineChoice
from longretriever_tf.evaluation.evaluate_run import evaluate_run
from longretriever_tf.evaluation.evaluator import evaluate_scorer
from longretriever_tf.evaluation.open_run import open_run
from longretriever_tf.serving.client.client import Client, ClientOptions
from longretriever_tf.serving.client.in_process import LocalClient, request_of


@pytest.fixture
def fake_households(tmp_path, monkeypatch):
    folder = write_complete_journey(tmp_path / "source")
    monkeypatch.setattr(sample, "package_data", lambda: folder)
    return complete_journey.read_complete_journey(folder)


def test_a_sample_of_all_households_is_the_whole_log(fake_households, tmp_path):
    log = load_log(sample.write_sample(tmp_path / "sample", fake_households.num_users, seed=1))
    for name in ("user_id", "offset", "timestamp"):
        np.testing.assert_array_equal(getattr(log, name), getattr(fake_households, name))
    bought = [fake_households.items.item_id[fake_households.item_row], log.items.item_id[log.item_row]]
    np.testing.assert_array_equal(*bought)
    assert set(log.items.item_id) == set(bought[0]) and log.context == "product_category"
    named = dict(zip(fake_households.items.item_id, fake_households.items.name, strict=True))
    assert [named[item] for item in log.items.item_id] == log.items.name.tolist()


def test_a_sample_holds_whole_histories_and_follows_its_seed(fake_households, tmp_path):
    histories = {
        user: fake_households.timestamp[slice(*fake_households.offset[row : row + 2])].tolist()
        for row, user in enumerate(fake_households.user_id)
    }
    drawn = set()
    for seed in range(6):
        log = load_log(sample.write_sample(tmp_path / f"sample{seed}", 1, seed))
        assert log.timestamp.tolist() == histories[log.user_id[0]] and log.num_users == 1
        drawn.add(int(log.user_id[0]))
    assert len(drawn) > 1


def test_more_households_than_there_are(fake_households, tmp_path):
    with pytest.raises(UserError, match="num_users=4: .* has 1 to 3 households"):
        sample.write_sample(tmp_path / "sample", 4, seed=1)


def test_an_opened_run_scores_as_evaluate_does(trained):
    run = open_run(trained.run_dir, "validation")
    mine = evaluate_scorer(run.scorer, run.truth, run.corpus.category_offset)
    assert (
        mine == evaluate_run(trained.config, "validation", baselines=BaselineChoice("none"))["models"]["longretriever"]
    )
    assert run.prepared.log.timestamp.max() < run.prepared.as_of <= run.log.timestamp.max()


def test_a_run_that_has_seen_the_window_is_not_opened(trained, monkeypatch):
    from longretriever_tf.evaluation import open_run as open_run_module

    def load_later(run_dir):
        corpus, arrays = load_saved(run_dir)
        return dataclasses.replace(corpus, cut=corpus.cut + 15 * DAY_S), arrays

    load_saved = open_run_module.load_saved
    monkeypatch.setattr(open_run_module, "load_saved", load_later)
    with pytest.raises(UserError, match="split='validation': .* the validation window .* has seen it"):
        open_run(trained.run_dir, "validation")


@pytest.mark.serving
def test_the_local_client_answers_as_the_server_does(trained):
    local, log = LocalClient(trained.export_dir), load_log(trained.config.data)
    requests = [
        request_of(log, str(log.user_id[3]), local.corpus.cut, k=7, seed=5),
        request_of(log, str(log.user_id[8]), local.corpus.cut, k=4, seed=6, forbidden_category=["c1"], exploration=2),
    ]
    with serving(os.path.abspath(trained.export_dir), warm=False) as server:
        with contextlib.closing(
            Client(f"grpc://127.0.0.1:{server.grpc_port}", "toy", ClientOptions(timeout_s=600))
        ) as client:
            asked = client.retrieve(requests), client.interests(requests)
    for mine, theirs in zip(local.retrieve(requests), asked[0], strict=True):
        assert [one.item_id for one in mine.candidates] == [one.item_id for one in theirs.candidates]
        np.testing.assert_allclose(
            [one.score for one in mine.candidates], [one.score for one in theirs.candidates], 1e-4
        )
        assert [one.category for one in mine.interests] == [one.category for one in theirs.interests]
    assert [len(one) for one in local.interests(requests)] == [len(one) for one in asked[1]]


def test_a_request_holds_the_history_strictly_before_its_as_of(trained):
    log = load_log(trained.config.data)
    history = slice(*log.offset[3:5])
    as_of = int(log.timestamp[history][10])
    request = request_of(log, str(log.user_id[3]), as_of, k=9)
    before = log.timestamp[history] < as_of
    assert request.history_timestamp == log.timestamp[history][before].tolist() and before.sum() > 0
    assert request.history_item_id == log.items.item_id[log.item_row[history]][before].tolist()
    assert (request.k, request.request_timestamp, request.profile) == (9, as_of, {"taste": log.profile["taste"][3]})
    with pytest.raises(UserError, match="'nobody' is not in the log"):
        request_of(log, "nobody", as_of)


def test_a_command_that_fails_stops_the_notebook_and_says_why(capsys):
    with pytest.raises(RuntimeError, match="longretriever train ended with status 2"):
        notebook.command("train", "--no_such_flag=1")
    shown = capsys.readouterr().out
    assert shown.startswith("$ longretriever train --no_such_flag=1\n") and "no_such_flag" in shown[45:]
    notebook.command("train", "--no_such_flag=1", may_fail=True)


def test_commands_are_shown_without_the_libraries_noise():
    lines = ["WARNING: All log messages before absl::InitializeLog()\n", "I0000 00:00 x.cc] y\n", "trained\n"]
    assert list(notebook._without_noise(lines)) == ["trained\n"]
