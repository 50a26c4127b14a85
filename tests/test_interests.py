"""Random in top: which interests are drawn, how often, and what a draw depends on."""

import numpy as np
import pytest
import scipy.stats
import tensorflow as tf

from longretriever_tf.retrieval.interests import (
    ORIGINS,
    Interests,
    best_log_share,
    choose_interests,
    draw_interests,
    estimate_best,
)
from longretriever_tf.retrieval.request_options import RequestOptions

NUM_CATEGORIES = 13


def draw(score, num, top, seed, allowed=None) -> Interests:
    score = np.asarray(score, np.float32)
    rows = len(score)
    allowed = np.ones(score.shape, bool) if allowed is None else np.asarray(allowed)

    def per_row(value, dtype):
        return tf.constant(np.broadcast_to(value, [rows]), dtype)

    drawn = draw_interests(
        tf.constant(score),
        tf.constant(allowed),
        per_row(num, tf.int32),
        per_row(top, tf.int32),
        per_row(seed, tf.int64),
    )
    return Interests(*(part.numpy() for part in drawn))


def scores(rows: int) -> np.ndarray:
    return np.random.default_rng(3).normal(size=[rows, NUM_CATEGORIES]).astype(np.float32)


def test_n_equal_m_is_the_best_whatever_the_seed():
    score = scores(5)
    best = np.argsort(-score, axis=1)[:, :4]
    for seed in (0, 1, 2**62):
        drawn = draw(score, 4, 4, seed)
        np.testing.assert_array_equal(drawn.category, best)
        np.testing.assert_array_equal(drawn.rank, [[1, 2, 3, 4]] * 5)
        np.testing.assert_array_equal(drawn.score, np.take_along_axis(score, best, 1))
        assert drawn.is_real.all()


def test_equal_scores_prefer_the_lower_index():
    assert draw([[1, 2, 2, 1, 2]], 4, 4, 0).category.tolist() == [[1, 2, 4, 0]]


def test_draws_are_uniform_without_replacement_and_come_best_first():
    rows, num, top = 6000, 2, 5
    drawn = draw(np.tile(scores(1), [rows, 1]), num, top, np.arange(rows))
    assert (np.diff(drawn.rank, axis=1) > 0).all()  # distinct, and best first
    pairs = np.zeros([top, top])
    np.add.at(pairs, (drawn.rank[:, 0] - 1, drawn.rank[:, 1] - 1), 1)
    counts = pairs[np.triu_indices(top, 1)]
    assert counts.sum() == rows  # nothing but pairs of the top 5
    assert scipy.stats.chisquare(counts).pvalue > 1e-4


def test_seeds_far_apart_and_negative_ones_draw_alike():
    seeds = np.array([-1, -(2**62), 2**63 - 1, 0, 7])
    drawn = draw(np.tile(scores(1), [5, 1]), 3, 9, seeds)
    assert drawn.is_real.all() and (drawn.rank <= 9).all()
    assert len({tuple(row) for row in drawn.rank.tolist()}) > 1


def test_a_draw_depends_on_its_own_seed_alone():
    score, seeds = scores(7), np.arange(7) * 1_000_003
    whole = draw(score, 3, 8, seeds)
    order = np.array([4, 0, 6])
    part = draw(score[order], [3, 3, 3], [8, 8, 8], seeds[order])
    np.testing.assert_array_equal(part.category, whole.category[order])
    # A neighbor that asks for more interests widens the answer, and changes nothing in it.
    wide = draw(score, [3, 3, 3, 3, 3, 3, 11], [8, 8, 8, 8, 8, 8, 12], seeds)
    np.testing.assert_array_equal(wide.category[:6, :3], whole.category[:6])
    assert not wide.is_real[:6, 3:].any() and not wide.category[:6, 3:].any()


def test_fewer_allowed_than_asked_gives_all_of_them_padded():
    score = scores(3)
    allowed = np.zeros(score.shape, bool)
    allowed[0, [2, 5]] = allowed[1, 7] = True
    drawn = draw(score, 4, 6, 11, allowed)
    assert sorted(drawn.category[0, :2].tolist()) == [2, 5]
    assert drawn.category[1].tolist() == [7, 0, 0, 0]
    assert drawn.is_real.sum(1).tolist() == [2, 1, 0]
    padded = ~drawn.is_real
    for part in (drawn.category, drawn.score, drawn.rank):
        assert not part[padded].any()


@pytest.mark.parametrize("num, top", [(20, 20), (20, 30)])
def test_more_than_there_are_categories(num, top):
    drawn = draw(scores(2), num, top, 1)
    assert drawn.category.shape == (2, num)
    assert [sorted(row[:NUM_CATEGORIES]) for row in drawn.category.tolist()] == [list(range(NUM_CATEGORIES))] * 2
    assert drawn.is_real.sum(1).tolist() == [NUM_CATEGORIES] * 2


def options(num, top, threshold, exploration=0, forced=None, allowed=None, novel=False) -> RequestOptions:
    """Of as many requests as `num` has rows; what has no say in the choice is None."""
    rows = len(num)

    def per_row(value, dtype):
        return tf.constant(np.broadcast_to(value, [rows]), dtype)

    everything = np.ones([rows, NUM_CATEGORIES])
    fields: dict = dict.fromkeys(RequestOptions._fields)
    return RequestOptions(
        **fields
        | {
            "num_interests": per_row(num, tf.int32),
            "top_interests": per_row(top, tf.int32),
            "interest_threshold": per_row(threshold, tf.float32),
            "seed": per_row(7, tf.int64),
            "exploration": per_row(exploration, tf.int32),
            "is_allowed": tf.constant(everything if allowed is None else allowed, tf.bool),
            "forced_weight": tf.constant(0 * everything if forced is None else forced, tf.float32),
            "is_novel": per_row(novel, tf.bool),
        }
    )


def choose(score, best, asked: RequestOptions, seen=None) -> Interests:
    score, best = (tf.constant(np.broadcast_to(table, asked.is_allowed.shape), tf.float32) for table in (score, best))
    seen = tf.ones_like(asked.is_allowed) if seen is None else tf.constant(np.broadcast_to(seen, score.shape), tf.bool)
    chosen = choose_interests(score, best, score, tf.ones_like(seen), seen, asked)
    return Interests(*(part.numpy() for part in chosen))


def chosen_of(chosen: Interests, row: int) -> list[int]:
    return chosen.category[row, chosen.is_real[row]].tolist()


def test_without_n_the_best_m_and_what_passes_the_threshold_are_searched_best_first():
    score, best = scores(1), scores(2)[1:]  # what they are drawn by is not what the threshold is held against
    thresholds = [9.0, -9.0, *np.sort(best[0])[[3, 8]]]
    chosen = choose(score, best, options([0] * 4, [3, 1, 1, 5], thresholds))
    by_score = np.argsort(-score[0])
    for row, (top, threshold) in enumerate(zip([3, 1, 1, 5], thresholds, strict=True)):
        expected = [c for rank, c in enumerate(by_score) if rank < top or best[0, c] >= np.float32(threshold)]
        assert chosen_of(chosen, row) == expected
        np.testing.assert_array_equal(
            chosen.rank[row, : len(expected)], 1 + np.flatnonzero(np.isin(by_score, expected))
        )
    assert [len(chosen_of(chosen, row)) for row in (0, 1)] == [3, NUM_CATEGORIES]


def test_a_request_with_n_beside_one_without_is_answered_as_alone():
    score = scores(3)
    both = choose(score, score, options([2, 0, 2], [4, 1, 2], 0.5))
    for row in range(3):
        alone = choose(score[row : row + 1], score[row : row + 1], options([[2, 0, 2][row]], [4, 1, 2][row], 0.5))
        assert chosen_of(both, row) == chosen_of(alone, 0)
    assert len(chosen_of(both, 0)) == 2 and len(chosen_of(both, 1)) > 2


def test_forced_and_explored_interests_are_added_to_what_passes():
    score = -np.arange(NUM_CATEGORIES, dtype=np.float32)[None]
    forced = np.zeros([1, NUM_CATEGORIES])
    forced[0, [1, 9]] = 1.0
    seen = np.arange(NUM_CATEGORIES)[None] < 6
    chosen = choose(score, score, options([0], 1, -3.5, exploration=2, forced=forced), seen)
    origins = {
        name: chosen.category[0, chosen.is_real[0] & (chosen.origin[0] == ORIGINS.index(name))].tolist()
        for name in ("drawn", "explored", "forced")
    }
    assert origins == {"drawn": [0, 2, 3], "explored": [6, 7], "forced": [1, 9]}


def test_forbidden_categories_do_not_pass():
    score, allowed = scores(1), np.arange(NUM_CATEGORIES)[None] % 2 == 0
    chosen = choose(score, score + 100, options([0], 2, 0.0, allowed=allowed))
    assert sorted(chosen_of(chosen, 0)) == np.flatnonzero(allowed[0]).tolist()


def test_where_nothing_is_allowed_nothing_is_searched():
    score = scores(1)
    chosen = choose(score, score, options([0], 2, -9.0, allowed=np.zeros(score.shape, bool)))
    assert chosen.is_real.shape == (1, 1) and not chosen.is_real.any()


def test_the_best_share_is_that_of_each_category_alone():
    offset, bias = np.array([0, 1, 1, 4, 6]), np.array([9.0, 1.0, 3.0, 2.0, 500.0, 500.0, 7.0])  # the last is retired
    expected = [0.0, 0.0, 3 - np.log(np.exp([1.0, 3.0, 2.0]).sum()), -np.log(2)]
    np.testing.assert_allclose(best_log_share(bias, offset), expected, rtol=1e-6, atol=1e-7)


def test_the_estimate_counts_on_returns_unless_novel_items_are_asked_for():
    seen, share = tf.constant([[False, True, False]] * 2), tf.constant([[-2.0, -1.0, -1.0]] * 2)
    best = estimate_best(share, tf.constant([0.0, -2.0, -2.0]), seen, tf.constant([False, True])).numpy()
    np.testing.assert_allclose(best, [[-2.0, -1 - 1.5 + 0.8, -2.5], [-2.0, -2.5, -2.5]], rtol=1e-6)
