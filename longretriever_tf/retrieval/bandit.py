"""Shares drawn anew for each request, from the model and from what the caller has logged: Thompson sampling.

Chapelle and Li, "An Empirical Evaluation of Thompson Sampling" (NIPS 2011), here over categories. The model's own
p(category | user) is the prior, worth n0 trials: Beta(n0 p, n0 (1 - p)). A request brings what was logged of this user,
trials and successes of some categories, so that the model keeps no state; each category's share is a draw from
Beta(n0 p + successes, n0 (1 - p) + trials - successes), and shares are normalised over the categories.
"""

from collections.abc import Mapping
from typing import NamedTuple

import tensorflow as tf

from longretriever_tf.common import schema
from longretriever_tf.retrieval.admission import require
from longretriever_tf.retrieval.requests import InterestScores

BANDITS = ("none", "thompson")
REWARDS = ("reward_category", "reward_trials", "reward_successes")

LEAST_PRIOR, MOST_COUNT = 1e-3, 1e9
"""Bounds of n0 and of trials: sums over a list stay finite, and so does the logarithm of a draw."""

_LEAST_LOG_P = -60.0
_FURTHEST = 30.0
"""A draw takes at most so much from log p. Most draws of an improbable category are 0 for all purposes; where a list is
longer than what the probable ones hold, the rest should still come in the model's order, not in that of rounding."""

_GAMMA_STREAM, _POWER_STREAM = 0x62616E64, 0x69747331
_LEAST_UNIFORM = 2.0**-24


class Bandit(NamedTuple):
    """What B requests say of it, rewards one row for each request or one for all.

    Attributes:
      is_asked: requests whose shares are drawn, [B] bool.
      prior: n0, what the model's share is worth in trials, [B] float32.
      category: of each reward, UNKNOWN and padding count for nothing, [B or 1, R] int32.
      trials: [B or 1, R] float32; those of a category that is listed twice are added.
      successes: [B or 1, R] float32.
    """

    is_asked: tf.Tensor
    prior: tf.Tensor
    category: tf.Tensor
    trials: tf.Tensor
    successes: tf.Tensor


def read_bandit(columns: Mapping[str, tf.Tensor], is_asked: tf.Tensor, prior: tf.Tensor, category: tf.Tensor) -> Bandit:
    """The columns of rewards, checked; a request without any costs no check.

    Args:
      columns: of the requests.
      is_asked, prior: of `Bandit`.
      category: `reward_category`, looked up.
    """
    name, trials, successes = (columns[column] for column in REWARDS)
    widths = tf.stack([tf.shape(column)[1] for column in (name, trials, successes)])

    def check() -> tf.Tensor:
        says = f"{', '.join(f'`{column}`' for column in REWARDS)} must be of one length; got"
        fits = require(tf.reduce_all(widths == widths[0]), says, widths)
        says = f"`bandit_prior` must be a number from {LEAST_PRIOR:g} to {MOST_COUNT:g}; got"
        require(tf.reduce_all((prior >= LEAST_PRIOR) & (prior <= MOST_COUNT)), says, prior)
        with tf.control_dependencies(fits):
            _check_counts(name, trials, successes)
        return tf.constant(True)

    checked = tf.cond(tf.reduce_any(widths > 0) | tf.reduce_any(is_asked), check, lambda: tf.constant(True))
    return Bandit(is_asked & checked, prior, category, trials, successes)


def draw_interest_scores(scores: InterestScores, bandit: Bandit, seed: tf.Tensor) -> InterestScores:
    """The same scores where no draw is asked for; elsewhere draws, from which interests are chosen and merged.

    Where eq. 3 draws from seen categories alone, it may then draw from those with trials, too.

    Args:
      scores: of B requests.
      bandit: of these.
      seed: of each, [B] int64: a request's draw depends on its own, not on its row of the batch.
    """

    def draw() -> tuple[tf.Tensor, ...]:
        row = tf.cast(tf.where(bandit.is_asked)[:, 0], tf.int32)
        num = tf.shape(seed)[0]
        counts = _count_rewards(bandit, num, tf.shape(scores.log_share)[1])
        trials, successes = (tf.gather(count, row) for count in counts)
        # From the same random numbers, so that what is new and what is not agree on what is explored.
        drawn = {
            name: draw_log_share(
                tf.gather(getattr(scores, name), row),
                *(tf.gather(bandit.prior, row), trials, successes, tf.gather(seed, row)),
            )
            for name in ("log_share", "log_share_novel", "affinity")
        }
        drawn |= {
            "drawn_by": drawn["log_share"],
            "is_interest": tf.gather(scores.is_interest, row) | (trials > 0),
        }
        return tuple(
            tf.tensor_scatter_nd_update(own, row[:, None], drawn[name]) for name, own in scores._asdict().items()
        )

    # A branch, since few requests ask for it.
    return InterestScores(*tf.cond(tf.reduce_any(bandit.is_asked), draw, lambda: tuple(scores)))


def draw_log_share(
    log_share: tf.Tensor, prior: tf.Tensor, trials: tf.Tensor, successes: tf.Tensor, seed: tf.Tensor
) -> tf.Tensor:
    """Log shares drawn from their posterior, normalised over the known categories, [n, C] float32.

    Args:
      log_share: log p(category | user), [n, C] float32.
      prior: n0, [n] float32.
      trials, successes: [n, C] float32 each.
      seed: of each row, [n] int64.
    """
    known = (tf.range(tf.shape(log_share)[1]) >= schema.FIRST_KNOWN)[None]
    lowest = log_share.dtype.min
    log_p = tf.maximum(tf.nn.log_softmax(tf.where(known, log_share, lowest), 1), _LEAST_LOG_P)
    taken = prior[:, None] * tf.exp(log_p) + successes
    left = tf.maximum(-prior[:, None] * tf.math.expm1(log_p) + trials - successes, LEAST_PRIOR * _LEAST_UNIFORM)
    drawn = tf.maximum(draw_log_beta(taken, left, seed), log_p - _FURTHEST)
    return tf.nn.log_softmax(tf.where(known, drawn, lowest), 1)


def draw_log_beta(taken: tf.Tensor, left: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """Logarithms of draws from Beta(taken, left), [n, C] float32 each; a row depends on its own seed alone."""
    log_gamma = tf.map_fn(_draw_row, (seed, tf.stack([taken, left], 1)), fn_output_signature=tf.float32)
    return log_gamma[:, 0] - tf.reduce_logsumexp(log_gamma, 1)


def _draw_row(row: tuple[tf.Tensor, tf.Tensor]) -> tf.Tensor:
    """Logarithms of draws from Gamma(alpha, 1), alpha of one request, [2, C] float32.

    Gamma(alpha) is Gamma(alpha + 1) times U ** (1 / alpha): for small alpha the logarithm is far below what float32
    holds of the number itself.
    """
    seed, alpha = row
    shape = tf.shape(alpha)
    gamma = tf.random.stateless_gamma(shape, tf.stack([seed, _GAMMA_STREAM]), alpha + 1.0)
    uniform = tf.random.stateless_uniform(shape, tf.stack([seed, _POWER_STREAM]))
    return tf.math.log(gamma) + tf.math.log(tf.maximum(uniform, _LEAST_UNIFORM)) / alpha


def _count_rewards(bandit: Bandit, num_requests: tf.Tensor, num_categories: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Trials and successes of each request and category, [B, C] float32 each."""
    shape = tf.stack([num_requests, tf.shape(bandit.category)[1]])
    category = tf.broadcast_to(bandit.category, shape)
    cell = tf.range(num_requests)[:, None] * num_categories + category
    cell = tf.where(category >= schema.FIRST_KNOWN, cell, -1)  # negative segments are left out

    def add_up(count: tf.Tensor) -> tf.Tensor:
        total = tf.math.unsorted_segment_sum(tf.broadcast_to(count, shape), cell, num_requests * num_categories)
        return tf.reshape(total, [num_requests, num_categories])

    return add_up(bandit.trials), add_up(bandit.successes)


def _check_counts(name: tf.Tensor, trials: tf.Tensor, successes: tf.Tensor) -> None:
    """Trials are counts of a named category, and successes some of them; all of one width, of one row or of B."""
    is_count = (trials >= 0) & (trials <= MOST_COUNT)  # NaN is neither
    says = f"`reward_trials` must be numbers from 0 to {MOST_COUNT:g}; got"
    counts = require(tf.reduce_all(is_count), says, tf.boolean_mask(trials, ~is_count))
    is_part = (successes >= 0) & (successes <= trials)
    says = (
        "`reward_successes` must be numbers from 0 to the `reward_trials` of the same category: count a success only "
        "where its trial is counted; got successes"
    )
    wrong = [tf.boolean_mask(part + tf.zeros_like(successes - trials), ~is_part) for part in (successes, trials)]
    with tf.control_dependencies(counts):
        require(tf.reduce_all(is_part), says, wrong[0], "of trials", wrong[1])
    unnamed = tf.where(name == "", trials, 0.0)
    says = '`reward_trials` must be 0 where `reward_category` is "", which is padding: name the category of'
    require(tf.reduce_all(unnamed <= 0), says, tf.boolean_mask(unnamed, unnamed > 0))
