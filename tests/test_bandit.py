"""Shares drawn around the model's, after what the caller has logged: their distribution, and what a request gets."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf
from worlds import START

from longretriever_tf.common import schema
from longretriever_tf.common.graph import graph_function
from longretriever_tf.retrieval import bandit
from longretriever_tf.retrieval.requests import InterestScores
from longretriever_tf.serving.client import Request
from longretriever_tf.serving.client.in_process import LocalClient

draw_log_share, draw_log_beta = graph_function(bandit.draw_log_share), graph_function(bandit.draw_log_beta)
SHARE = np.array([0.5, 0.3, 0.15, 0.049, 0.001])
NUM = 10_000
SEEDS = 40
PLAIN = Request(
    [100, 107, 114, 131, 101, 138],
    [START + day * schema.DAY_S for day in (1, 9, 30, 31, 60, 61)],
    START + 130 * schema.DAY_S,
    {"taste": "b0"},
    k=200,
    num_interests=50,
    top_interests=50,
    seed=7,
)


def shares(num: int, prior: float = 20.0, **rewards: tuple[float, float]) -> np.ndarray:
    """Draws for seeds 0, 1, ..., [num, 5]; `rewards`: trials and successes by "c" and a row of SHARE."""
    log_p = tf.constant([[-1e30, -1e30, *np.log(SHARE)]] * num, tf.float32)
    counts = np.zeros([2, num, len(SHARE) + schema.FIRST_KNOWN], np.float32)
    for name, given in rewards.items():
        counts[:, :, int(name[1:]) + schema.FIRST_KNOWN] = np.array(given)[:, None]
    drawn = draw_log_share(log_p, tf.fill([num], prior), counts[0], counts[1], tf.range(num, dtype=tf.int64)).numpy()
    assert np.isfinite(drawn).all() and not np.exp(drawn[:, : schema.FIRST_KNOWN]).any()
    return np.exp(drawn[:, schema.FIRST_KNOWN :])


def test_draws_have_the_mean_and_the_variance_of_beta_and_streams_of_their_own():
    taken, left = np.array([0.02, 1.0, 8.0, 300.0]), np.array([19.98, 19.0, 3.0, 100.0])
    of_all = [tf.constant(np.tile(column, (NUM, 1)), tf.float32) for column in (taken, left)]
    drawn = np.exp(draw_log_beta(*of_all, tf.range(NUM, dtype=tf.int64)).numpy().astype(np.float64))
    size = taken + left
    mean, deviation = taken / size, np.sqrt(taken * left / (size**2 * (size + 1)))
    np.testing.assert_array_less(abs(drawn.mean(0) - mean), 4 * deviation / np.sqrt(NUM))
    np.testing.assert_allclose(drawn[:, 1:].std(0), deviation[1:], rtol=0.03)
    between = np.corrcoef(np.concatenate([drawn[:-1], drawn[1:]], 1).T) - np.eye(8)
    assert abs(between).max() < 5 / np.sqrt(NUM)  # neither between categories nor from seed to seed


def test_shares_sum_to_one_follow_rewards_and_come_back_to_the_model():
    plain = shares(2000)
    np.testing.assert_allclose(plain.sum(1), 1, rtol=1e-5)
    assert abs(plain.mean(0) - SHARE).max() < 0.08  # normalised, so no more exactly the mean
    up, down = shares(2000, c3=(30, 15)).mean(0), shares(2000, c0=(60, 1)).mean(0)
    assert up[3] > 5 * plain.mean(0)[3] and up[0] < plain.mean(0)[0]
    assert down[0] < plain.mean(0)[0] / 2 and (down[1:] > plain.mean(0)[1:]).all()
    np.testing.assert_allclose(shares(5, prior=1e9), np.tile(SHARE, (5, 1)), rtol=0.01)


def test_a_draw_depends_on_its_seed_alone_and_keeps_an_order_where_nothing_is_left():
    log_p, zero = tf.constant([[-1e30, -1e30, *np.log(SHARE)]], tf.float32), tf.zeros([1, 7])
    alone = draw_log_share(log_p, tf.constant([20.0]), zero, zero, tf.constant([3], tf.int64))
    np.testing.assert_array_equal(np.exp(alone)[0, 2:], shares(9)[3])
    assert len(np.unique(shares(9)[:, 0])) == 9
    least = shares(50, prior=0.01)
    assert least.min() > 0 and np.median(least.min(1)) < 1e-9


@pytest.mark.parametrize(
    ("trials", "successes", "words"),
    [
        ([[3.0, np.nan]], [[0.0, 0.0]], "`reward_trials` must be numbers from 0 to 1e.09; got. .nan"),
        ([[3.0, np.inf]], [[0.0, 0.0]], "`reward_trials` must be numbers .* .inf"),
        ([[3.0, 2.0]], [[0.0, np.nan]], "`reward_successes` must be numbers .* .nan. .of trials. .2"),
        ([[3.0]], [[0.0]], "must be of one length; got. .2 1 1"),
    ],
)
def test_what_no_text_can_say_is_refused_by_the_graph(trials, successes, words):
    """JSON and the client know no NaN; tensors over gRPC do."""
    columns = {
        "reward_category": tf.constant([["tea", "jam"]]),
        "reward_trials": tf.constant(trials),
        "reward_successes": tf.constant(successes),
    }
    with pytest.raises(tf.errors.InvalidArgumentError, match=words):
        bandit.read_bandit(columns, tf.constant([False]), tf.constant([20.0]), tf.constant([[2, 3]]))


@pytest.fixture(scope="module")
def client(trained) -> LocalClient:
    return LocalClient(trained.export_dir)


def score_of(interests, category: str) -> float:
    (score,) = [interest.score for interest in interests if interest.category == category]
    return score


def test_no_bandit_is_the_same_answer_bit_for_bit_whatever_else_is_sent_and_alongside_whom(client):
    (plain,) = client.retrieve([PLAIN])
    logged = dataclasses.replace(PLAIN, bandit="none", rewards={"c2": (9, 9)})
    explores = dataclasses.replace(PLAIN, bandit="thompson")
    assert client.retrieve([logged]) == [plain]
    first, second, third = client.retrieve([explores, PLAIN, logged])
    assert client.retrieve([PLAIN] * 3)[1:] == [second, third] and first.interests != second.interests


def test_rewards_move_their_category_and_the_reported_share_is_the_one_that_lists_are_merged_by(client):
    every = [interest.category for interest in client.interests([PLAIN])[0]]
    category, means = every[3], {}
    explores = dataclasses.replace(PLAIN, bandit="thompson", bandit_prior=20.0)
    for name, rewards in (("none", {}), ("up", {category: (30, 27)}), ("down", {category: (300, 0)})):
        asked = [dataclasses.replace(explores, rewards=rewards, seed=seed) for seed in range(SEEDS)]
        means[name] = np.mean([np.exp(score_of(interests, category)) for interests in client.interests(asked)])
    assert means["up"] > 2 * means["none"] and means["down"] < means["none"] / 2
    asked = dataclasses.replace(explores, rewards={category: (30, 27)})
    (plain,), (drawn,) = client.retrieve([PLAIN]), client.retrieve([asked])
    assert drawn.interests[0].rank == 1 and [i.score for i in drawn.interests] == sorted(
        (i.score for i in drawn.interests), reverse=True
    )
    score = {one.item_id: one.score for one in plain.candidates}
    new = [one for one in drawn.candidates if one.item_id in score and one.item_id not in PLAIN.history_item_id]
    assert len(new) > 50
    moved = [score_of(drawn.interests, one.category) - score_of(plain.interests, one.category) for one in new]
    np.testing.assert_allclose([one.score - score[one.item_id] for one in new], moved, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("goal", ["all", "novel"])
def test_a_request_gets_the_same_alone_and_in_a_batch_and_no_other_for_its_seed(client, goal):
    asked = [
        dataclasses.replace(
            PLAIN, bandit="thompson", goal=goal, seed=seed, rewards={"c1": (seed, seed), "drinks": (2, 1)}
        )
        for seed in range(4)
    ]
    together = client.retrieve(asked)
    for one, answer in zip(asked, together, strict=True):
        (alone,) = client.retrieve([one])
        assert [i.category for i in alone.interests] == [i.category for i in answer.interests]
        np.testing.assert_allclose(
            [i.score for i in alone.interests], [i.score for i in answer.interests], rtol=1e-4, atol=1e-4
        )
        assert alone.unknown_category == ("drinks",)
    assert len({answer.interests[0].score for answer in together}) == 4


def test_a_category_listed_twice_counts_both_and_eq3_draws_what_has_trials():
    log_p = tf.constant([[-1e30, -1e30, *np.log(SHARE)]], tf.float32)
    seen = tf.constant([[False] * 2 + [True] * 3 + [False] * 2])
    scores = InterestScores(log_p * 0, seen, log_p, log_p, log_p)

    def draw(category: list[int], trials: list[float], successes: list[float]) -> InterestScores:
        rewards = (tf.constant([row]) for row in (category, trials, successes))
        asked = bandit.Bandit(tf.constant([True]), tf.constant([20.0]), *rewards)
        return bandit.draw_interest_scores(scores, asked, tf.constant([3], tf.int64))

    twice, once = draw([5, 1, 5], [10.0, 9.0, 20.0], [4.0, 9.0, 6.0]), draw([5], [30.0], [10.0])
    np.testing.assert_array_equal(twice.log_share, once.log_share)
    np.testing.assert_array_equal(once.drawn_by, once.log_share)
    assert once.is_interest.numpy()[0, 2:].tolist() == [True, True, True, True, False]
