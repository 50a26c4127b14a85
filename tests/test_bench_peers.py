"""What the benchmarks evaluate other people's models by."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from trained import ROOT
from worlds import START, block_world

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "..", "benchmarks"))
import peer_marks
from peer_scorer import PeerScorer, evaluate_marks, seconds_to_the_same

from longretriever_tf.common.schema import DAY_S
from longretriever_tf.config.config import Config, ModelConfig, TrainConfig
from longretriever_tf.data.batches.prepared_data import prepare
from longretriever_tf.evaluation.ground_truth import Truth


def test_an_item_counts_by_the_nearest_interest():
    interests = np.array([[[1, 0], [0, 2]], [[0, 0], [3, -1]], [[9, 9], [9, 9]]], np.float32)
    items = np.array([[0, 0], [5, 5], [1, 1], [-1, 2]], np.float32)
    scorer = PeerScorer("peer", np.array([3, 5, 11]), interests, items)
    np.testing.assert_array_equal(scorer.score(np.array([5, 3])), [[0, 10, 2, 0], [0, 10, 2, 4]])


def test_seconds_are_those_to_a_recall_that_both_reach():
    def curve(*marks):
        return [{"seconds": s, "recall@100": r, "within_category_recall@20": w} for s, r, w in marks]

    ours, theirs = curve((1, 0.1, 0.5), (2, 0.3, 0.7), (3, 0.4, 0.6)), curve((5, 0.2, 0.9), (6, 0.3, 0.8))
    assert seconds_to_the_same(ours, theirs) == {
        "recall@100": {"recall": 0.3, "ours_s": 2, "theirs_s": 6},
        "within_category_recall@20": {"recall": 0.7, "ours_s": 2, "theirs_s": 5},
    }


def test_marks_are_made_while_the_budget_is_spent_and_evaluated_by_the_evaluator(tmp_path, capsys, monkeypatch):
    """Items 2 to 301 in one category; user 7 took item 4, ranked last at the first mark, then the best."""
    now, seen = [0.0], []
    monkeypatch.setattr(peer_marks.time, "perf_counter", lambda: now[0])

    def train(rows):
        seen.extend(rows.tolist())
        now[0] += 3.0

    def embed():
        now[0] += 100.0  # off the clock
        items = np.arange(302.0)[:, None] / 302
        items[4] = len(seen) - 15
        return np.ones([1, 1, 1]), items

    peer = peer_marks.Peer(train, embed, chunk=10)
    peer_marks.spend_budget(peer, {"budget_s": np.float64(16), "target": np.zeros(7)}, str(tmp_path))
    report = json.loads(capsys.readouterr().out)
    assert report["marks"] == [3.0, 6.0, 9.0, 12.0, 15.0, 18.0] and report["examples_per_s"] == pytest.approx(10 / 3)
    assert sorted(seen[:7]) == list(range(7)) and seen[7:14] == seen[:7]
    one = np.array([0, 1])
    truth = Truth(np.array([7]), one, np.array([4]), np.array([True]), one, np.array([2]), 302)
    curve = evaluate_marks("peer", report["marks"], str(tmp_path), truth, np.array([0, 1, 2, 302]))
    assert [mark["seconds"] for mark in curve] == report["marks"]
    for metric in ("recall@100", "within_category_recall@20"):
        assert [mark[metric] for mark in curve] == [0.0, 1.0, 1.0, 1.0, 1.0, 1.0]


@pytest.mark.parametrize(
    "flags, words",
    [
        (("--peers=rechub_comirec_sa",), ("--torch_python=''", "pip install torch==", "torch-rechub")),
        (("--peers=nobody",), ("--peers=nobody", "deepmatch_mind, rechub_comirec_sa")),
    ],
    ids=["not installed", "no peer"],
)
def test_a_missing_peer_is_reported_with_its_cure(flags, words):
    command = [sys.executable, "benchmarks/bench_peers.py", *flags]
    paths = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": paths})
    assert done.returncode == 2 and all(word in done.stderr for word in words), done.stderr


def test_the_plain_models_logits_are_those_of_rows_written_out_by_hand():
    from plain_scorer import PlainLogits
    from plain_training import PlainRetriever

    config = Config(
        model=ModelConfig(dim=8, num_heads=2, ff_dim=16, max_length=5, svd_dim=0, dropout=0.0, user_context=False),
        train=TrainConfig(examples="snapshot", num_snapshots=2, horizon_days=14, batch_size=13),
    )
    prepared = prepare(config, block_world(num_users=7, num_items=31, num_categories=4), START + 130 * DAY_S)
    model = PlainRetriever(config, prepared)
    users, log, corpus = np.array([1, 4, 5]), prepared.log, prepared.corpus
    scores = PlainLogits(config, prepared, model).all_logits(users)
    for row, user in enumerate(users):
        history = slice(log.offset[user], log.offset[user + 1])
        for category in range(2, corpus.num_categories):
            low, high = corpus.category_offset[category : category + 2]
            mine = [e for e in range(history.start, history.stop) if low <= log.item[e] < high][-5:][::-1]
            age = [(prepared.as_of - log.timestamp[e]) / DAY_S for e in mine]
            item, features = np.zeros([1, 5], np.int32), np.zeros([1, 5, 2], np.float32)
            item[0, : len(mine)] = log.item[mine]
            for i, days in enumerate(age):
                features[0, i] = np.log1p([days, age[i + 1] - days if i + 1 < len(age) else 0.0])
            vector = model.user_vectors(item, features, np.array([category])).numpy()[0]
            np.testing.assert_allclose(scores[row, low:high], model.item_vectors()[low:high] @ vector, atol=1e-5)
    assert np.isneginf(scores[:, :2]).all() and np.isfinite(scores[:, 2:]).all()
