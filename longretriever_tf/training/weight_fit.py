"""A conditional logit: the few weights that make what was taken likeliest, shrunk towards a prior. No TensorFlow."""

from typing import NamedTuple

import numpy as np
import scipy.optimize

from longretriever_tf.common.ranges import offset_of

_SHRINKAGE = 10.0
"""Precision of the prior: so many users, roughly, with one target each, are needed to move a weight."""


class Choices(NamedTuple):
    """Choices among options: group g holds the options `offset[g]:offset[g + 1]`, of which some were taken.

    Attributes:
      terms: what each option's score is a weighted sum of, [n, k] float32.
      taken: how often each option was taken, [n] float32.
      offset: [G + 1] int64.
      weight: of each target of a group, [G] float32.
    """

    terms: np.ndarray
    taken: np.ndarray
    offset: np.ndarray
    weight: np.ndarray


def join_choices(parts: list[Choices]) -> Choices:
    """Several sets of choices as one."""
    sizes = np.concatenate([np.diff(part.offset) for part in parts])
    terms, taken, weight = (
        np.concatenate([getattr(part, name) for part in parts]) for name in ("terms", "taken", "weight")
    )
    return Choices(terms, taken, offset_of(sizes), weight)


def fit_weights(choices: Choices, prior: np.ndarray) -> np.ndarray:
    """The weights of most posterior density: log-likelihood of the choices, and a Gaussian around the prior.

    Args:
      choices: what users took, among what.
      prior: [k].

    Returns:
      [k] float64; the prior itself where there is nothing to learn from.
    """
    if not len(choices.terms):
        return np.asarray(prior, np.float64)

    def loss(weights: np.ndarray) -> tuple[float, np.ndarray]:
        log_likelihood, gradient = _log_likelihood(choices, weights)
        off = weights - prior
        return -log_likelihood + 0.5 * _SHRINKAGE * float(off @ off), -gradient + _SHRINKAGE * off

    found = scipy.optimize.minimize(loss, prior, jac=True, method="L-BFGS-B", options={"maxiter": 50})
    return np.asarray(found.x, np.float64)


def log_likelihood_per_target(choices: Choices, weights: np.ndarray) -> float:
    """Weighted mean log-likelihood of a target, nats; 0.0 without any."""
    taken = np.add.reduceat(choices.taken, choices.offset[:-1]) if len(choices.taken) else np.zeros(0)
    total = float((taken * choices.weight).sum())
    return _log_likelihood(choices, weights)[0] / total if total else 0.0


def _log_likelihood(choices: Choices, weights: np.ndarray) -> tuple[float, np.ndarray]:
    """Weighted log-likelihood, and its gradient [k]."""
    starts, sizes = choices.offset[:-1], np.diff(choices.offset)
    score = choices.terms @ weights.astype(np.float32)
    score -= np.repeat(np.maximum.reduceat(score, starts), sizes)
    odds = np.exp(score)
    total = np.add.reduceat(odds, starts)
    taken = np.add.reduceat(choices.taken, starts)
    every = np.repeat(taken * choices.weight / total, sizes) * odds  # expected, as weighted
    wanted = choices.taken * np.repeat(choices.weight, sizes)
    log_likelihood = float(wanted @ score) - float((taken * choices.weight) @ np.log(total))
    return log_likelihood, (wanted - every).astype(np.float64) @ choices.terms
