"""The correction of own items: its fit, which logs get none, and what of it lies in a run.

Evaluation and exports with a correction are held to an oracle in test_served_options.py, the two ways to merge to each
other in test_merge_flat.py, router and shards to one export in test_sharded_serving.py, commands in
test_score_weights.py.
"""

import dataclasses
import os

import numpy as np
import pytest
import tensorflow as tf
from retrieval_oracle import build_moved_models
from worlds import START, block_world

from longretriever_tf.common.errors import UserError
from longretriever_tf.common.schema import DAY_S, FIRST_KNOWN
from longretriever_tf.config.config import Config, DataConfig, ModelConfig, TrainConfig
from longretriever_tf.data.batches.prepared_data import load_saved, prepare, prepare_requests, save_prepared
from longretriever_tf.data.recipe.own_correction import FILE, read_own_correction
from longretriever_tf.datasets.log import LifelongLog
from longretriever_tf.evaluation.retriever_scorer import LongRetrieverScorer
from longretriever_tf.models.build import load_models
from longretriever_tf.retrieval.fingerprint import fingerprint_towers
from longretriever_tf.training import own_correction
from longretriever_tf.training.own_correction import OwnItemsTaken, fit_own_correction, fit_taken

CUT = START + 100 * DAY_S


def draw_taken(rng: np.random.Generator, num: int, weights: np.ndarray) -> OwnItemsTaken:
    score = rng.uniform(-7, -3, num)
    terms = np.column_stack([np.ones(num), rng.normal(size=[num, 2]) * [1.0, 20.0], score])
    expected = 20 * np.exp(score)
    return OwnItemsTaken(terms, expected, rng.poisson(expected * np.exp(terms @ weights)) * 1.0, np.full(num, 0.5))


def test_many_own_items_give_the_formula_and_few_next_to_none():
    rng, true = np.random.default_rng(3), np.array([0.4, -0.3, 0.02, 0.1])
    found = fit_taken(draw_taken(rng, 60_000, true))
    np.testing.assert_allclose(found.to_array() * [1, 1, 20, 1], true * [1, 1, 20, 1], atol=0.1)
    few = fit_taken(draw_taken(rng, 4, true))
    assert np.abs(few.to_array()[:2]).max() < 0.2


def make_run(run_dir: str, log: LifelongLog) -> Config:
    """A run directory as it is once the towers are trained; their weights are drawn."""
    model = ModelConfig(dim=8, num_heads=2, ff_dim=8, svd_dim=4, max_length=20)
    config = Config(
        DataConfig(window_days=20), model, TrainConfig(run_dir=run_dir, horizon_days=20, own_correction=True)
    )
    prepared = prepare(config, log, CUT)
    os.makedirs(run_dir)
    save_prepared(run_dir, prepared)
    models = build_moved_models(config, prepared)
    weights = tf.train.Checkpoint(retriever=models.retriever, interest=models.interest)
    weights.write(os.path.join(run_dir, "checkpoints", "final", "weights"))
    return config


@pytest.fixture
def asks_small_logs(monkeypatch):
    """Users of a made log have few own items."""
    for name, value in (("_FIRST_RANK", 1), ("_LEAST_USERS", 20), ("_LEAST_TAKEN", 20), ("_USERS_AT_ONCE", 16)):
        monkeypatch.setattr(own_correction, name, value)


def test_the_fit_reads_the_scores_that_the_run_merges_by(tmp_path):
    log, run_dir = block_world(num_users=41), str(tmp_path / "run")
    config = make_run(run_dir, log)
    corpus, arrays = load_saved(run_dir)
    models, prepared = load_models(config, corpus, arrays["item_svd"]), prepare_requests(log, corpus, arrays, CUT)
    scorer = LongRetrieverScorer(
        config, prepared, models.retriever, models.interest, config.retrieval, every_category=True
    )
    users, num_compared = np.arange(log.num_users), 0
    merged, share = scorer.score(users), scorer.interest(users).log_share
    row, category = np.nonzero(share[:, FIRST_KNOWN:])
    category += FIRST_KNOWN
    for at, pairs in scorer.encode_pairs(users, row, category):
        pair, slot = np.nonzero(pairs.tokens.item.numpy())
        found = own_correction._log_probabilities(scorer, corpus, pairs)[pair, slot] + share[row, category][at][pair]
        np.testing.assert_allclose(found, merged[row[at][pair], pairs.tokens.item.numpy()[pair, slot]], atol=1e-4)
        num_compared += len(found)
    assert num_compared > 100


@pytest.mark.usefixtures("asks_small_logs")
def test_nothing_at_or_after_the_cut_is_read_and_the_run_is_another_with_it(tmp_path):
    log = block_world(num_users=41)
    later = dataclasses.replace(log, item_row=np.where(log.timestamp < CUT, log.item_row, 0))
    configs = [make_run(str(tmp_path / name), one) for name, one in (("a", log), ("b", later))]
    corpus, arrays = load_saved(configs[0].train.run_dir)
    models = load_models(configs[0], corpus, arrays["item_svd"])
    before = fingerprint_towers(configs[0], corpus, models, arrays)
    found = [fit_own_correction(config, one) for config, one in zip(configs, (log, later), strict=True)]
    assert found[0] is not None and found[0] == found[1] == read_own_correction(str(tmp_path / "a"))
    assert np.abs(found[0].to_array()).max() > 0.01
    arrays = load_saved(configs[0].train.run_dir)[1]
    np.testing.assert_array_equal(arrays["own_correction"], found[0].to_array())
    assert fingerprint_towers(configs[0], corpus, models, arrays) != before

    prepared = prepare_requests(log, corpus, arrays, CUT)
    scorer = LongRetrieverScorer(configs[0], prepared, models.retriever, models.interest, configs[0].retrieval)
    users = np.arange(log.num_users)
    sums = [np.exp(scores).sum(1) for scores in (scorer.log_probability(users), scorer.score(users))]
    np.testing.assert_allclose(sums[0], 1.0, atol=1e-4)  # what the plots of calibration call p
    assert np.abs(sums[1] - 1.0).max() > 0.01

    (tmp_path / "a" / FILE).write_text('{"weights": {"intercept": 1}}')
    with pytest.raises(UserError, match=rf"(?s){FILE}.*delete it"):
        load_saved(str(tmp_path / "a"))


def test_a_log_of_few_users_gets_none_and_says_why(tmp_path, capsys, monkeypatch):
    log, run_dir = block_world(num_users=41), str(tmp_path / "run")
    config = make_run(run_dir, log)
    assert fit_own_correction(config, log) is None
    assert "at least 200 are needed" in capsys.readouterr().out
    monkeypatch.setattr(own_correction, "_LEAST_USERS", 20)
    assert fit_own_correction(config, log) is None
    assert "own items beyond their 20 likeliest" in capsys.readouterr().out
    for part, change in (
        ("train", {"own_correction": False}),
        ("model", {"repeat_term": False}),
        ("model", {"subsequence": "events"}),
        ("retrieval", {"merge": "round_robin"}),
    ):
        other = dataclasses.replace(config, **{part: dataclasses.replace(getattr(config, part), **change)})
        assert fit_own_correction(other, log) is None
    assert not capsys.readouterr().out and not os.path.exists(os.path.join(run_dir, FILE))
    assert not len(load_saved(run_dir)[1]["own_correction"])
