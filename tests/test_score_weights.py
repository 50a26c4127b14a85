"""What the parts of a score weigh: the fit against an oracle, the weights in the graph, the phase by its command."""

import dataclasses
import json
import os
import shutil
from collections import Counter

import numpy as np
import pandas as pd
import pytest
import reference
import tensorflow as tf
from retrieval_oracle import build_moved_models
from trained import FLAGS, run_module
from worlds import START, block_world

from longretriever_tf.common.errors import UserError
from longretriever_tf.common.schema import DAY_S, FIRST_KNOWN
from longretriever_tf.config.config import Config, DataConfig, ModelConfig, TrainConfig
from longretriever_tf.config.retrieval import RetrievalConfig
from longretriever_tf.data.batches.prepared_data import prepare
from longretriever_tf.data.recipe import own_correction
from longretriever_tf.data.recipe.item_stats import NUM_STATS
from longretriever_tf.data.recipe.score_weights import FILE, PLAIN, ScoreWeights, read_score_weights
from longretriever_tf.data.search.hard_search import NUM_ITEM_FEATURES
from longretriever_tf.data.search.user_activity import NUM_ACTIVITY
from longretriever_tf.datasets.splits import Cuts
from longretriever_tf.evaluation.retriever_scorer import LongRetrieverScorer
from longretriever_tf.retrieval.multi_context import MultiContextRetriever
from longretriever_tf.retrieval.signatures import make_signatures
from longretriever_tf.training.distributed.cluster import start_cluster
from longretriever_tf.training.history import HISTORY_FILE, TrainingHistory
from longretriever_tf.training.score_weights import fit_score_weights
from longretriever_tf.training.weight_fit import Choices, fit_weights, join_choices, log_likelihood_per_target

CUT = START + 100 * DAY_S
WEIGHTS = ScoreWeights(0.6, 0.3, -0.7, 0.4, 0.5, 0.8, 0.9, -0.2, takers=0.35)


def small_config(run_dir: str = "", **train) -> Config:
    model = ModelConfig(dim=8, num_heads=2, ff_dim=8, svd_dim=4, max_length=20)
    kept = {"examples": "snapshot", "num_snapshots": 4, "horizon_days": 20.0, "interest_epochs": 1, **train}
    retrieval = RetrievalConfig(num_interests=7, top_interests=7)
    return Config(DataConfig(window_days=20), model, TrainConfig(run_dir=run_dir, **kept), retrieval)


def draw_choices(rng: np.random.Generator, true: np.ndarray, num_groups: int) -> Choices:
    parts = []
    for _ in range(num_groups):
        terms = rng.normal(size=(int(rng.integers(2, 9)), len(true))).astype(np.float32)
        odds = np.exp(terms @ true)
        taken = rng.multinomial(3, odds / odds.sum()).astype(np.float32)
        parts.append(Choices(terms, taken, np.array([0, len(terms)]), np.array([rng.uniform(0.5, 2)])))
    return join_choices(parts)


def test_likelihood_equals_a_sum_over_targets():
    choices, weights = draw_choices(np.random.default_rng(3), np.array([1.0, -0.5]), 7), np.array([0.7, 0.2])
    total = mass = 0.0
    for g, (low, high) in enumerate(zip(choices.offset[:-1], choices.offset[1:], strict=True)):
        score = choices.terms[low:high].astype(np.float64) @ weights
        for option in range(high - low):
            share = np.exp(score[option]) / np.exp(score).sum()
            total += choices.weight[g] * choices.taken[low + option] * np.log(share)
            mass += choices.weight[g] * choices.taken[low + option]
    assert log_likelihood_per_target(choices, weights) == pytest.approx(total / mass, rel=1e-5)


def test_many_choices_give_their_weights_and_few_the_prior():
    rng, true, prior = np.random.default_rng(5), np.array([0.6, 0.8, -0.4]), np.array([1.0, 0.0, 0.0])
    np.testing.assert_allclose(fit_weights(draw_choices(rng, true, 4000), prior), true, atol=0.05)
    few = fit_weights(draw_choices(rng, true, 2), prior)
    assert np.linalg.norm(few - prior) < 0.6 * np.linalg.norm(true - prior)
    nothing = Choices(np.zeros((0, 3), np.float32), np.zeros(0, np.float32), np.zeros(1, np.int64), np.zeros(0))
    np.testing.assert_array_equal(fit_weights(nothing, prior), prior)


def test_the_graph_weighs_as_the_formula_says():
    log, config = block_world(num_users=23), small_config()
    prepared = prepare(config, log, CUT)
    models = build_moved_models(config, prepared)
    made = {
        name: LongRetrieverScorer(
            config,
            dataclasses.replace(prepared, score_weights=weights),
            models.retriever,
            models.interest,
            config.retrieval,
        )
        for name, weights in (("plain", PLAIN), ("weighed", WEIGHTS))
    }
    users, corpus = np.arange(0, log.num_users, 3), prepared.corpus
    expected = WEIGHTS.logit * made["plain"].within(users) + WEIGHTS.popularity * prepared.stats.item[-1][:, 0]
    row_of = {item: at for at, item in enumerate(corpus.item_id.tolist())}
    pasts = [reference.request_history(log, user) for user in range(log.num_users)]
    takers = Counter(item for past in pasts for item in {b.item for b in past if b.timestamp < CUT})
    expected += WEIGHTS.takers * np.log(0.5 + np.array([takers[item] for item in corpus.item_id.tolist()]))
    for row, user in enumerate(users):
        past = [b for b in reference.request_history(log, user) if b.timestamp < CUT]
        assert past
        for item in {b.item for b in past}:
            count = sum(2 ** (-(CUT - b.timestamp) / DAY_S / 180) for b in past if b.item == item)
            expected[row, row_of[item]] += WEIGHTS.interacted + WEIGHTS.repeats * np.log1p(count)
    found = made["weighed"].within(users)
    np.testing.assert_allclose(found[:, FIRST_KNOWN:], expected[:, FIRST_KNOWN:], rtol=1e-4, atol=1e-4)
    plain, weighed = (made[name].interest(users) for name in ("plain", "weighed"))
    popularity = prepared.stats.category[-1][FIRST_KNOWN:, 0]
    for name, own, popular in (("log_share", 0.5, 0.8), ("log_share_novel", 0.9, -0.2)):
        score = own * getattr(plain, name)[:, FIRST_KNOWN:] + popular * popularity
        share = score - np.log(np.exp(score).sum(1, keepdims=True))
        np.testing.assert_allclose(getattr(weighed, name)[:, FIRST_KNOWN:], share, rtol=1e-4, atol=1e-4)
    boosted = dataclasses.replace(config.retrieval, unseen_boost=0.7)
    explored = made["weighed"].with_retrieval("", boosted, every_category=True).interest(users)
    for row, user in enumerate(users):
        past = {b.category for b in reference.request_history(log, user) if b.timestamp < CUT}
        unseen = np.array([name not in past for name in corpus.category_name[FIRST_KNOWN:]])
        assert unseen.any() and not unseen.all()
        score = weighed.log_share[row, FIRST_KNOWN:] + 0.7 * unseen
        share = score - np.log(np.exp(score).sum())
        np.testing.assert_allclose(explored.log_share[row, FIRST_KNOWN:], share, rtol=1e-4, atol=1e-4)
    arrays = {
        "item_stats": prepared.stats.item[-1],
        "category_stats": prepared.stats.category[-1],
        "taste_rows": prepared.history_embedding_rows,
        "score_weights": np.array(WEIGHTS),
        "item_takers": prepared.stats.takers,
    }
    served = MultiContextRetriever(config, corpus, models.retriever, models.interest, arrays)
    ask, scores = make_signatures(served, config.retrieval)["serving_default"], made["weighed"].score(users)
    for row, user in enumerate(users):
        past = [b for b in reference.request_history(log, user) if b.timestamp < CUT]
        answer = ask(
            history_item_id=tf.constant([[b.item for b in past]], tf.int64),
            history_timestamp=tf.constant([[b.timestamp for b in past]], tf.int64),
            request_timestamp=tf.constant([CUT], tf.int64),
            k=tf.constant([9]),
        )
        np.testing.assert_allclose(answer["score"][0], np.sort(scores[row])[::-1][:9], rtol=1e-3, atol=1e-3)


@pytest.mark.slow
def test_nothing_at_or_after_the_cut_is_read_and_the_same_log_gives_the_same_weights(tmp_path):
    log, cuts = block_world(num_users=110), Cuts(CUT, CUT + 20 * DAY_S, CUT + 40 * DAY_S)
    later = dataclasses.replace(log, item_row=np.where(log.timestamp < CUT, log.item_row, 0))
    found = []
    for name, one in (("a", log), ("b", later)):
        config = small_config(str(tmp_path / name), epochs=3)
        history = TrainingHistory(config.train.run_dir, config.train.seed)
        for epoch, metric in enumerate((0.2, 0.1, 0.15), start=1):
            history.add("towers", {"epoch": epoch, "validation": metric})
        found.append(fit_score_weights(config, one, cuts, CUT, start_cluster("none")))
        assert read_score_weights(config.train.run_dir) == found[-1]
        assert sorted(os.listdir(config.train.run_dir)) == [FILE, HISTORY_FILE]  # its checkpoints are gone
        assert json.loads((tmp_path / name / FILE).read_text())["epochs"] == 1  # the run kept its first of three
    assert found[0] == found[1] != PLAIN


def test_a_log_of_few_users_keeps_what_was_learned_and_says_why(tmp_path, capsys):
    log, cuts = block_world(num_users=37), Cuts(CUT, CUT + 20 * DAY_S, CUT + 40 * DAY_S)
    assert fit_score_weights(small_config(str(tmp_path)), log, cuts, CUT, start_cluster("none")) == PLAIN
    assert "37 users took anything in the last 20 days" in capsys.readouterr().out
    none = small_config(str(tmp_path), score_weights_users=0)
    assert fit_score_weights(none, log, cuts, CUT, start_cluster("none")) == PLAIN
    assert not capsys.readouterr().out and not os.listdir(tmp_path)
    assert read_score_weights(str(tmp_path)) == PLAIN


def test_a_torn_file_is_an_error_with_a_cure(tmp_path):
    (tmp_path / FILE).write_text('{"weights": {"logit": 1}}')
    with pytest.raises(UserError, match=rf"(?s){FILE}.*delete it"):
        read_score_weights(str(tmp_path))


@pytest.mark.slow
def test_by_command_with_text_ids(tmp_path):
    log = block_world(num_users=130)
    user = np.repeat(log.user_id, np.diff(log.offset))
    items = {"item_id": [f"item {i}" for i in log.items.item_id], **log.items.features}
    pd.DataFrame(items).to_parquet(tmp_path / "items.parquet")
    events = {"user_id": [f"u{u}" for u in user], "item_id": np.array(items["item_id"])[log.item_row]}
    pd.DataFrame(events | {"timestamp": log.timestamp}).to_parquet(tmp_path / "events.parquet")
    run_dir, export_dir = str(tmp_path / "run"), str(tmp_path / "export")
    flags = [flag for flag in FLAGS if "taste" not in flag and flag != "--profile"]
    flags += [f"--{name}={tmp_path}/{name}.parquet" for name in ("events", "items")] + [
        f"--run_dir={run_dir}",
        "--own_correction",
    ]
    weights = []
    for again in (False, True):  # the second time, the last phase alone is missing, as after a kill
        if again:
            os.remove(tmp_path / "run" / FILE)
            os.remove(tmp_path / "run" / "training.png")
        done = run_module("train", *flags)
        assert done.returncode == 0, done.stderr
        assert "fitting what the parts of a score weigh" in done.stdout
        assert "merged scores of own items stay as they are" in done.stdout
        weights.append(json.loads((tmp_path / "run" / FILE).read_text())["weights"])
    assert weights[0] == weights[1] != PLAIN._asdict()
    # A correction of own items, as a larger log would have fitted it: every term of it moves lists.
    drawn = (0.2 * np.random.default_rng(3).normal(size=NUM_ITEM_FEATURES + NUM_STATS + NUM_ACTIVITY)).tolist()
    own = {"intercept": 0.3, "features": drawn, "log_probability": -0.2}
    (tmp_path / "run" / own_correction.FILE).write_text(json.dumps({"weights": own}))
    done = run_module("export", f"--run_dir={run_dir}", f"--export_dir={export_dir}", "--nocheck")
    assert done.returncode == 0, done.stderr
    output = f"--output={tmp_path}/metrics.json"
    done = run_module("evaluate", f"--run_dir={run_dir}", f"--export_dir={export_dir}", output, "--baselines=none")
    assert done.returncode == 0, done.stderr
    models = json.loads((tmp_path / "metrics.json").read_text())["models"]
    served, own = (models[name] for name in ("as served, 5 of top 5", "longretriever, as served"))
    for task in ("all", "novel"):
        assert served[task]["recall@20"] == pytest.approx(own[task]["recall@20"], abs=1e-6)
    shutil.copy(tmp_path / "run" / FILE, tmp_path / "kept.json")
    os.remove(tmp_path / "run" / FILE)  # the run's towers are now others than the export's
    done = run_module("evaluate", f"--run_dir={run_dir}", f"--export_dir={export_dir}", output, "--baselines=none")
    assert done.returncode != 0 and "Traceback" not in done.stderr
