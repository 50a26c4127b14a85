"""TIFU-kNN, ItemKNN, EASE and EASE with own items against the slowest code that says the same; tuning."""

import dataclasses
import json
import math
import subprocess
import sys

import numpy as np
import pytest
import reference
from small_histories import NUM_ITEMS, encode, random_histories
from worlds import block_world

from longretriever_tf.common.errors import UserError
from longretriever_tf.common.schema import FIRST_KNOWN
from longretriever_tf.config.config import DataConfig
from longretriever_tf.datasets.splits import global_time_cuts
from longretriever_tf.evaluation.counting import tuning
from longretriever_tf.evaluation.counting.ease import Ease, EaseWithOwn
from longretriever_tf.evaluation.counting.interactions import InteractionMatrix
from longretriever_tf.evaluation.counting.neighbors import ItemKnn, TifuKnn, find_similar, neighbor_mean
from longretriever_tf.evaluation.counting.popularity import fit_popularity
from longretriever_tf.evaluation.counting.settings import describe_log, read_settings, tune_settings, write_settings
from longretriever_tf.evaluation.evaluator import evaluate_scorer
from longretriever_tf.evaluation.ground_truth import build_truth
from longretriever_tf.evaluation.ranking import is_in_top_k

DAY = 86_400
CUT = 60 * DAY
OFFSET = np.array([0, 1, 2, 5, 8, 19, NUM_ITEMS])
ABSENT = 21
"""An item that nobody takes before the cut: it has popularity 0 and comes last."""

CHOSEN = {
    "TIFU-kNN": {"decay_days": 20, "num_neighbors": 3, "alpha": 0.6},
    "ItemKNN": {"shrinkage": 2.0, "num_similar": 4},
    "EASE": {"regularization": 3.0},
    "EASE + own items": {"regularization": 3.0, "decay_days": 20, "weight": 0.5},
}


def make_histories():
    """Histories at whole days, `ABSENT` only after the cut; user 5 has no past."""
    histories = [[(v, t * DAY) for v, t in history if v != ABSENT or t >= 60] for history in random_histories(6)]
    histories[5] = [(ABSENT, 80 * DAY)]
    return histories


HISTORIES = make_histories()
LOG = encode(HISTORIES)


def decayed(history, days):
    """Decayed count of each known item before the cut, by item."""
    counts = {}
    for item, time in history:
        if time < CUT and item >= FIRST_KNOWN:
            counts[item] = counts.get(item, 0.0) + math.exp((time - CUT) / DAY / days)
    return counts


def cosine(a, b):
    shared = sum(a[item] * b[item] for item in a if item in b)
    return shared / math.sqrt(sum(v * v for v in a.values()) * sum(v * v for v in b.values())) if shared else 0.0


def with_fallback(scores):
    """[U, V]: what has no score above 0 follows by popularity."""
    popularity = fit_popularity(LOG, NUM_ITEMS, CUT)
    order = np.lexsort((np.arange(NUM_ITEMS), -popularity))
    place = np.argsort(order)  # ties by index, as lists have it
    return np.where(scores > 0, scores, -1.0 - place)


def slow_tifu(decay_days, num_neighbors, alpha):
    counts = [decayed(history, decay_days) for history in HISTORIES]
    logs = [{item: math.log1p(value) for item, value in own.items()} for own in counts]
    scores = np.zeros((len(HISTORIES), NUM_ITEMS))
    for u in range(len(HISTORIES)):
        near = sorted((-cosine(logs[u], logs[w]), w) for w in range(len(HISTORIES)) if w != u)
        near = [w for distance, w in near if distance < 0][:num_neighbors]
        for item, value in counts[u].items():
            scores[u, item] += alpha * value
        for w in near:
            for item, value in counts[w].items():
                scores[u, item] += (1 - alpha) * value / len(near)
    return with_fallback(scores)


def takers():
    return {
        v: {u for u, history in enumerate(HISTORIES) if v in decayed(history, 1.0)}
        for v in range(FIRST_KNOWN, NUM_ITEMS)
    }


def slow_item_knn(shrinkage, num_similar):
    sets = {v: users for v, users in takers().items() if users}
    scores = np.zeros((len(HISTORIES), NUM_ITEMS))
    for v, mine in sets.items():
        near = sorted((-len(mine & sets[j]) / (math.sqrt(len(mine) * len(sets[j])) + shrinkage), j) for j in sets)
        for similarity, j in near[:num_similar]:
            for u in sets[j]:
                scores[u, v] -= similarity
    return with_fallback(scores)


def slow_ease(regularization, items):
    """By the definition, on these items; the others below all of them, by popularity."""
    taken = np.zeros((len(HISTORIES), NUM_ITEMS))
    for v, users in takers().items():
        taken[list(users), v] = 1.0
    x = taken[:, items]
    p = np.linalg.inv(x.T @ x + regularization * np.eye(len(items)))
    weights = np.eye(len(items)) - p / np.diag(p)
    scores = with_fallback(np.zeros((len(HISTORIES), NUM_ITEMS))) - 1000.0
    scores[:, items] = x @ weights
    return scores


def slow_ease_with_own(regularization, decay_days, weight):
    scores = slow_ease(regularization, [v for v, users in takers().items() if users])
    for u, history in enumerate(HISTORIES):
        for item, value in decayed(history, decay_days).items():
            scores[u, item] += weight * value
    return scores


def assert_same(scores, expected, has_score):
    """Equal where there is a score, and everything in the same order, the fallback included; reserved rows aside."""
    assert scores.shape == expected.shape and scores.dtype == np.float32 and np.isfinite(scores).all()
    np.testing.assert_allclose(scores[has_score], expected[has_score], rtol=1e-4, atol=1e-5)
    popularity = fit_popularity(LOG, NUM_ITEMS, CUT)[FIRST_KNOWN:]
    for row, wanted, scored in zip(scores, expected, has_score, strict=True):
        row, wanted, scored = row[FIRST_KNOWN:], wanted[FIRST_KNOWN:], scored[FIRST_KNOWN:]
        rest = np.flatnonzero(~scored)
        if len(rest):
            assert row[rest].max() < row[scored].min(initial=np.inf)
            by_popularity = rest[np.lexsort((rest, -popularity[rest]))]
            assert reference.ranked_list(np.where(scored, -np.inf, row), len(rest)) == by_popularity.tolist()


def score_all(scorer):
    return scorer.score(np.arange(len(HISTORIES)))


@pytest.mark.parametrize("decay_days, num_neighbors, alpha", [(20, 3, 0.6), (7, 1, 0.0), (50, 1000, 1.0), (9, 8, 0.3)])
def test_tifu_knn_equals_the_oracle(decay_days, num_neighbors, alpha):
    past = InteractionMatrix(LOG, NUM_ITEMS, CUT)
    expected = slow_tifu(decay_days, num_neighbors, alpha)
    scores = score_all(TifuKnn(past, decay_days, alpha, neighbor_mean(past, decay_days, num_neighbors)))
    assert_same(scores, expected, expected > 0)


@pytest.mark.parametrize("shrinkage, num_similar", [(2.0, 4), (0.0, 1), (10.0, 1000)])
def test_item_knn_equals_the_oracle(shrinkage, num_similar):
    past = InteractionMatrix(LOG, NUM_ITEMS, CUT)
    expected = slow_item_knn(shrinkage, num_similar)
    wide = find_similar(past, shrinkage, num_similar + 3)
    for similar in (wide, find_similar(past, shrinkage, num_similar)):
        assert_same(score_all(ItemKnn(past, similar, num_similar)), expected, expected > 0)


@pytest.mark.parametrize("max_dense", [3, 11, 8000])
def test_ease_equals_its_definition_whichever_side_is_inverted(max_dense):
    past = InteractionMatrix(LOG, NUM_ITEMS, CUT)
    sold = [v for v, users in takers().items() if users]
    items = sorted(sorted(sold, key=lambda v: (-past.num_takers[v], v))[:max_dense])
    assert len(HISTORIES) > len(sold) and ABSENT not in sold  # by items here; by users below
    expected = slow_ease(3.0, items)
    has_score = np.zeros_like(expected, bool)
    has_score[:, items] = True
    assert_same(score_all(Ease(past, 3.0, max_dense)), expected, has_score)


def test_ease_by_users_equals_ease_by_items():
    few = HISTORIES[:9]  # fewer users than items; histories without events change nothing but that
    by_users, by_items = (
        Ease(InteractionMatrix(encode(histories), NUM_ITEMS, CUT), 2.0)
        for histories in (few, [*few, *[[]] * 2 * NUM_ITEMS])
    )
    assert (by_users.by_user, by_items.by_user) == (True, False)
    users = np.arange(len(few))
    np.testing.assert_allclose(by_users.score(users), by_items.score(users), rtol=1e-4, atol=1e-5)


def test_ease_with_own_items_equals_the_oracle():
    past = InteractionMatrix(LOG, NUM_ITEMS, CUT)
    expected = slow_ease_with_own(3.0, 20, 0.5)
    has_score = np.zeros_like(expected, bool)
    has_score[:, [v for v, users in takers().items() if users]] = True
    assert_same(score_all(EaseWithOwn(past, Ease(past, 3.0), 20, 0.5)), expected, has_score)


@pytest.mark.parametrize("place", range(len(CHOSEN)))
def test_contract_of_every_tuned_baseline(place):
    """Batch equals single, any order of users, a fresh array each time, and not one bit of the future."""
    users = np.array([31, 2, 2, 5, 17])
    scorer = tuning.fit_chosen(LOG, NUM_ITEMS, CUT, CHOSEN)[place]
    scores = scorer.score(users)
    assert scorer.name == list(CHOSEN)[place]
    for i, user in enumerate(users):
        np.testing.assert_allclose(scorer.score(np.array([user]))[0], scores[i], rtol=1e-5, atol=1e-6)
    kept = scorer.score(users).copy()
    scorer.score(users)[:] = 7.0
    np.testing.assert_array_equal(scorer.score(users), kept)
    late = LOG.timestamp >= CUT
    assert late.any()
    random = np.random.default_rng(3)
    item = np.where(late, random.integers(FIRST_KNOWN, NUM_ITEMS, len(LOG.item)), LOG.item).astype(np.int32)
    moved = np.where(late, CUT, LOG.timestamp)  # the very second of the cut is after it
    for other in (dataclasses.replace(LOG, item=item, timestamp=moved), LOG.before(CUT)):
        scores = tuning.fit_chosen(other, NUM_ITEMS, CUT, CHOSEN)[place].score(users)
        assert scores.tobytes() == kept.tobytes()
    early = dataclasses.replace(LOG, timestamp=np.where(late, CUT - 1, LOG.timestamp))
    assert tuning.fit_chosen(early, NUM_ITEMS, CUT, CHOSEN)[place].score(users).tobytes() != kept.tobytes()


def test_membership_equals_the_list_with_ties_and_infinities():
    random = np.random.default_rng(4)
    scores = random.integers(-2, 5, (13, NUM_ITEMS)).astype(np.float32)
    scores[scores == -2] = -np.inf
    row, item = np.divmod(np.arange(scores.size), NUM_ITEMS)
    for k in (1, 7, NUM_ITEMS - 1, NUM_ITEMS, 50):
        expected = [v in reference.ranked_list(scores[u], k) for u, v in zip(row, item, strict=True)]
        assert is_in_top_k(scores, row, item, k).tolist() == expected


def test_tuning_judges_as_the_evaluator_does_and_takes_the_best(monkeypatch):
    monkeypatch.setattr(tuning, "K", 5)
    monkeypatch.setattr(tuning, "_CHUNK", 7)
    window, done = (CUT, 100 * DAY), []
    made = tuning.tune(LOG, NUM_ITEMS, window, done.append)
    assert sum(done) == pytest.approx(tuning.num_settings())
    truth = build_truth(LOG, NUM_ITEMS, CUT, window)
    for name, yardstick in tuning.TUNED_BASELINES.items():
        tried = made[name]["tried"]
        assert len(tried) == math.prod(map(len, yardstick.grid.values())) <= 12
        merit = [row["all"] * (1 if yardstick.goal == "all" else row["novel"]) for row in tried]
        assert made[name]["chosen"] == tried[merit.index(max(merit))]["setting"]
        scorer = tuning.fit_chosen(LOG, NUM_ITEMS, CUT, {name: tried[-1]["setting"]})[0]
        found = evaluate_scorer(scorer, truth, OFFSET, ks=(5,))
        for task in ("all", "novel"):
            assert tried[-1][task] == pytest.approx(found[task]["recall@5"])
    own, ease = made["EASE + own items"], made["EASE"]["chosen"]
    assert {row["setting"]["regularization"] for row in own["tried"]} == {ease["regularization"]}
    assert "TIFU-kNN 12 (by all)" in tuning.describe_budget()


@pytest.fixture(scope="module")
def world():
    log = block_world(days=160)
    return log, global_time_cuts(log.timestamp, 28.0)


def test_settings_survive_the_file_and_read_nothing_of_the_test_window(world, tmp_path):
    log, cuts = world
    config, path = DataConfig(), str(tmp_path / "baseline_settings.json")
    found = tune_settings(config, log, cuts, 1, "a command")
    write_settings(path, found)
    assert read_settings(path, log, cuts) == {name: row["chosen"] for name, row in found["baselines"].items()}
    assert found["budget"] == tuning.describe_budget() and found["command"].startswith("a command")
    late = np.flatnonzero(log.timestamp >= cuts.test_start)
    other = dataclasses.replace(log, item_row=log.item_row.copy())
    other.item_row[late] = log.item_row[late][::-1]
    assert not np.array_equal(other.item_row, log.item_row)
    assert tune_settings(config, other, cuts, 1, "a command")["baselines"] == found["baselines"]


def test_wrong_settings_files_are_named_with_their_cure(world, tmp_path):
    log, cuts = world
    path = str(tmp_path / "settings.json")
    good = {"log": describe_log(log, cuts), "baselines": {name: {"chosen": CHOSEN[name]} for name in CHOSEN}}
    with pytest.raises(UserError, match=r"settings.json.*no such file.*evaluate_baselines"):
        read_settings(path, log, cuts)
    for stored, words in (
        ("{", "JSONDecodeError.*evaluate_baselines"),
        ("[]", "does not hold the settings of TIFU-kNN"),
        (json.dumps({"log": {}, "baselines": {}}), "TIFU-kNN"),
        (json.dumps(good | {"log": good["log"] | {"test_start": 17}}), rf"test_start 17 there, {cuts.test_start} here"),
        (
            json.dumps(good | {"baselines": good["baselines"] | {"EASE": {"chosen": {"lambda": 3}}}}),
            "EASE has lambda, expected regularization",
        ),
    ):
        (tmp_path / "settings.json").write_text(stored)
        with pytest.raises(UserError, match=words):
            read_settings(path, log, cuts)
    (tmp_path / "settings.json").write_text(json.dumps(good))
    assert read_settings(path, log, cuts) == CHOSEN


def test_the_counting_baselines_import_no_tensorflow():
    code = "import sys, longretriever_tf.evaluation.counting.tuning; sys.exit('tensorflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=600).returncode == 0


def test_baselines_alone_are_judged_by_tuned_or_given_settings(world, tmp_path, monkeypatch):
    from longretriever_tf.config.config import Config
    from longretriever_tf.evaluation import evaluate_baselines

    monkeypatch.setattr(evaluate_baselines, "load_split", lambda config: world)
    output = str(tmp_path / "baseline_settings.json")
    made = evaluate_baselines.evaluate_baselines(Config(), "test", evaluate_baselines.BaselineChoice("all", "", output))
    assert list(made["models"]) == ["popularity", "category popularity", "own items", *tuning.TUNED_BASELINES]
    assert made["models"]["EASE"]["novel"]["recall@20"] > 1.2 * made["models"]["popularity"]["novel"]["recall@20"]
    assert made["baseline_settings"] == read_settings(output, *world)
    monkeypatch.setattr(evaluate_baselines, "tune_settings", None)  # nothing is tuned where settings are given
    again = evaluate_baselines.evaluate_baselines(Config(), "test", evaluate_baselines.BaselineChoice("all", output))
    assert again["models"] == made["models"]
    assert (
        len(
            evaluate_baselines.evaluate_baselines(Config(), "test", evaluate_baselines.BaselineChoice("simple"))[
                "models"
            ]
        )
        == 3
    )
    with pytest.raises(UserError, match="--baseline_settings='f.json' with --baselines=simple"):
        evaluate_baselines.evaluate_baselines(Config(), "test", evaluate_baselines.BaselineChoice("simple", "f.json"))
