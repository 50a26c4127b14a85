"""How far each way of asking a run is from the best baseline, and how sure that is."""

import dataclasses
import re

import numpy as np
import pytest
from fake_jobs import CUT, OFFSET, WINDOW, Noisy
from small_histories import NUM_ITEMS, encode, random_histories

from longretriever_tf.evaluation.differences import differences_to_best
from longretriever_tf.evaluation.evaluator import evaluate_many
from longretriever_tf.evaluation.ground_truth import build_truth
from longretriever_tf.evaluation.ranking import paired_bootstrap, resampled_sums
from longretriever_tf.evaluation.table import COLUMNS, text_table

TRUTH = build_truth(encode(random_histories(8, 37)), NUM_ITEMS, CUT, WINDOW)
SMALL = tuple((section, metric.replace("@500", "@20")) for section, metric in COLUMNS) + (
    ("within_category", "recall@10"),
)
NOISE = {"ours": 0.4, "ours, otherwise": 0.9, "strong": 0.7, "weak": 3.0}


@pytest.fixture(scope="module")
def made():
    scorers = [Noisy(name, TRUTH, noise, seed) for seed, (name, noise) in enumerate(NOISE.items())]
    return evaluate_many(scorers, TRUTH, OFFSET, ks=(3, 20, 50, 100), chunk=7)


def test_each_difference_is_that_of_the_means_to_the_best_baseline(made):
    found = differences_to_best(made, TRUTH, {"strong", "weak"}, (*SMALL, ("all", "recall@3"), ("novel", "ndcg@3")))
    means = {name: evaluation.summary() for name, evaluation in made.items()}
    assert list(found) == ["ours", "ours, otherwise"]
    checked = 0
    for name, sections in found.items():
        for section, metrics in sections.items():
            for metric, one in metrics.items():
                best = max(("strong", "weak"), key=lambda rival: means[rival][section][metric])
                assert one["baseline"] == best
                assert one["mean"] == pytest.approx(means[name][section][metric] - means[best][section][metric])
                assert one["low"] <= one["mean"] <= one["high"]
                checked += one["low"] < one["high"]
    assert checked > 6


def test_intervals_are_those_of_a_plain_bootstrap_over_users(made):
    """Against loops: users drawn with replacement; a user's pairs within categories stay together."""
    columns = (("all", "recall@3"), ("within_category", "recall@2"))
    found = differences_to_best(made, TRUTH, {"strong"}, columns)["ours"]
    ours, strong = made["ours"], made["strong"]
    plain = paired_bootstrap(ours.all.per_user["recall@3"], strong.all.per_user["recall@3"], seed=5)
    one = found["all"]["recall@3"]
    assert [one["low"], one["high"]] == pytest.approx(plain[1:], abs=0.02)
    gain = (ours.all.rank < 2) * 1.0 - (strong.all.rank < 2)
    rows, random, means = TRUTH.pair_row(), np.random.default_rng(7), []
    for _ in range(1000):
        users = random.integers(TRUTH.num_users, size=TRUTH.num_users)
        pairs = np.concatenate([np.flatnonzero(rows == user) for user in users])
        means.append(gain[pairs].mean())
    one = found["within_category"]["recall@2"]
    assert [one["low"], one["high"]] == pytest.approx(np.percentile(means, [2.5, 97.5]), abs=0.02)


def test_resampling_draws_the_same_users_for_every_row():
    values = np.array([[1.0, 2.0, 4.0], [10.0, 20.0, 40.0]])
    sums = resampled_sums(values, seed=3, n=50)
    assert sums.shape == (50, 2) and np.array_equal(10 * sums[:, 0], sums[:, 1]) and len(set(sums[:, 0])) > 5
    assert set(sums[:, 0]) <= {float(a + b + c) for a in (1, 2, 4) for b in (1, 2, 4) for c in (1, 2, 4)}


def test_without_baselines_or_without_truth_there_is_none(made):
    assert differences_to_best(made, TRUTH, (), SMALL) == {}
    nobody = dataclasses.replace(TRUTH, is_novel=np.zeros(TRUTH.num_pairs, bool))
    empty = {
        name: dataclasses.replace(
            one,
            novel=dataclasses.replace(
                one.novel,
                per_user={metric: np.full(TRUTH.num_users, np.nan) for metric in one.novel.per_user},
                rank=one.novel.rank[:0],
            ),
        )
        for name, one in made.items()
    }
    found = differences_to_best(empty, nobody, {"weak"}, SMALL)
    assert set(found["ours"]) == {"all", "within_category"}


def test_the_table_shows_each_difference_with_its_interval():
    one = {"baseline": "own items", "mean": 0.0101, "low": 0.0069, "high": 0.0134}
    worse = {"baseline": "EASE", "mean": -0.002, "low": -0.00512, "high": 0.001}
    variants = {f"N={n}": {"all": {"recall@100": one}} for n in (5, 10, 20)}
    metrics = {
        **dict.fromkeys(("data", "split", "seed", "command", "date"), "x"),
        "models": {},
        "differences": {"ours": {"all": {"recall@100": one}, "novel": {"recall@100": worse}}, **variants},
    }
    text = text_table(metrics)
    assert re.search(r"all recall@100 +own items +\+0\.0101 \[0\.0069, 0\.0134\]", text)
    assert re.search(r"novel recall@100 +EASE +-0\.0020 \[-0\.0051, 0\.0010\]", text)
    assert "1 more under `differences`" in text and "N=20" not in text
