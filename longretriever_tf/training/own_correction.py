"""The last phase of a run: fits how merged scores of a user's own items are corrected (`data.recipe.own_correction`).

The run is asked, as of its own last snapshot, what users took in the horizon after it. Among a user's own items, those
near the cut of a list decide what a correction changes; the first ones are in every list, and the last ones in none. A
Poisson regression of what was taken there, with what the merge expected as its offset, is the correction.
"""

import dataclasses
import json
import os
from typing import NamedTuple

import numpy as np

from longretriever_tf.common import schema
from longretriever_tf.common.errors import UserError
from longretriever_tf.common.files import write_text_atomically
from longretriever_tf.common.progress import Progress, stage
from longretriever_tf.common.provenance import describe_origin
from longretriever_tf.common.ranges import flat_ranges
from longretriever_tf.config.baselines import LONGRETRIEVER
from longretriever_tf.config.config import Config
from longretriever_tf.config.snapshots import horizon_days
from longretriever_tf.data.batches.prepared_data import Prepared, load_saved, prepare_requests
from longretriever_tf.data.corpus import Corpus, encode_log
from longretriever_tf.data.recipe.own_correction import FILE, OwnCorrection, read_own_correction
from longretriever_tf.datasets.log import LifelongLog
from longretriever_tf.datasets.sharded_log import ShardedLog
from longretriever_tf.evaluation.dense_rows import logsumexp
from longretriever_tf.evaluation.ground_truth import Truth, build_truth
from longretriever_tf.evaluation.retriever_scorer import LongRetrieverScorer
from longretriever_tf.models.build import load_models
from longretriever_tf.retrieval.requests import Subsequences

_FIRST_RANK, _STOP_RANK = 20, 300
"""Which of a user's own items are near the cut, ranked among themselves by merged score, 0 the best."""

_LEAST_USERS, _LEAST_TAKEN = 200, 200
"""With fewer users to ask about, or own items taken near the cut, own items are not corrected."""

_MOST_USERS = 4000
_USERS_AT_ONCE = 128

_PENALTY = 5.0
"""L2 penalty of the weights, each in units of its term's standard deviation."""


class OwnItemsTaken(NamedTuple):
    """Own items near the cut of a list, and which of them were taken.

    Attributes:
      terms: 1, the features of the item's token, and the merged log p(item | user), [n, F + 2] float64.
      expected: items that the merge expected to be taken, [n] float64.
      is_taken: [n] float64.
      weight: of the item's user: many targets of one user do not drown those of others, [n] float64.
    """

    terms: np.ndarray
    expected: np.ndarray
    is_taken: np.ndarray
    weight: np.ndarray


def fit_own_correction(config: Config, log: LifelongLog | ShardedLog) -> OwnCorrection | None:
    """Fits the correction and writes own_correction.json, where the run asks for it and the log allows it.

    Says why where it does not. A run that was stopped here begins this phase anew.

    Args:
      config: of the run, whose towers are trained.
      log: the whole log; nothing at or after the run's cut is read.

    Returns:
      The correction; None where there is none.
    """
    run_dir = config.train.run_dir
    if os.path.exists(os.path.join(run_dir, FILE)):
        return read_own_correction(run_dir)
    if not _is_wanted(config):
        return None
    try:
        if not isinstance(log, LifelongLog) or config.train.distribute != "none":
            raise UserError("they are corrected for a log in memory, trained on one device")
        taken, window = _ask(config, log)
    except UserError as error:
        print(f"--own_correction: merged scores of own items stay as they are: {error}", flush=True)
        return None
    correction = fit_taken(taken)
    by_model, by_fit = (_log_likelihood(taken, weights) for weights in (np.zeros(1), correction.to_array()))
    content = {
        **describe_origin("longretriever train", config.train.seed),
        "window": window | {"num_own_items": len(taken.terms), "num_taken": int(taken.is_taken.sum())},
        "weights": correction._asdict(),
        "log_likelihood_per_taken": {"merged": by_model, "corrected": by_fit},
    }
    write_text_atomically(os.path.join(run_dir, FILE), json.dumps(content, indent=2) + "\n")
    print(
        f"own items near the cut of a list are corrected: {taken.is_taken.sum():,.0f} of {len(taken.terms):,} were "
        f"taken, {taken.expected.sum():,.0f} expected",
        flush=True,
    )
    return correction


def _is_wanted(config: Config) -> bool:
    train, model, retrieval = config.train, config.model, config.retrieval
    return (
        train.own_correction
        and model.model == LONGRETRIEVER
        and model.repeat_term
        and model.subsequence == "items"
        and train.loss == "full"
        and train.interest_epochs > 0
        and retrieval.interest == "learned"
        and retrieval.merge == "calibrated"
    )


def _ask(config: Config, log: LifelongLog) -> tuple[OwnItemsTaken, dict[str, int]]:
    """What users took of their own items in the horizon of the last snapshot, and what the run said of these.

    Raises:
      UserError: too few users took anything, or too few own items.
    """
    corpus, arrays = load_saved(config.train.run_dir)
    cut, days = corpus.cut, horizon_days(config)
    start = cut - round(days * schema.DAY_S)
    prepared = prepare_requests(log, corpus, arrays, start)
    truth = build_truth(encode_log(log, corpus), corpus.num_items, start, (start, cut))
    if truth.num_users < _LEAST_USERS:
        raise UserError(
            f"{truth.num_users} users took anything in the last {days:g} days of the training window; at least "
            f"{_LEAST_USERS} are needed"
        )
    models = load_models(config, corpus, arrays["item_svd"])
    retrieval = dataclasses.replace(config.retrieval, search="category")
    scorer = LongRetrieverScorer(config, prepared, models.retriever, models.interest, retrieval)
    parts, chunks = [], _chunks(truth)
    with stage("asking the run about its users' own items"):
        bar = Progress("own items", sum(some.num_users for some in chunks), "users")
        for some in chunks:
            parts.append(_own_items_taken(scorer, prepared, some))
            bar.update(some.num_users)
        bar.close()
    taken = OwnItemsTaken(*(np.concatenate(part) for part in zip(*parts, strict=True)))
    if taken.is_taken.sum() < _LEAST_TAKEN:
        raise UserError(
            f"users took {taken.is_taken.sum():.0f} own items beyond their {_FIRST_RANK} likeliest in the last "
            f"{days:g} days of the training window; at least {_LEAST_TAKEN} are needed"
        )
    return taken, {"start": start, "stop": cut, "num_users": sum(some.num_users for some in chunks)}


def _chunks(truth: Truth) -> list[Truth]:
    """The users, some at a time; at most `_MOST_USERS`, from all over the log."""
    starts = np.arange(0, truth.num_users, _USERS_AT_ONCE)
    most = -(-_MOST_USERS // _USERS_AT_ONCE)
    if len(starts) > most:
        starts = starts[np.linspace(0, len(starts) - 1, most).round().astype(int)]
    return [truth.rows(start, min(start + _USERS_AT_ONCE, truth.num_users)) for start in starts.tolist()]


def _own_items_taken(scorer: LongRetrieverScorer, prepared: Prepared, truth: Truth) -> OwnItemsTaken:
    """The own items of some users near the cut."""
    users, log, corpus = truth.users, prepared.log, prepared.corpus
    of_user, event = flat_ranges(log.offset[users], log.offset[users + 1])
    pair = np.unique(of_user * corpus.num_categories + corpus.item_category[log.item[event]])
    row, category = pair // corpus.num_categories, pair % corpus.num_categories
    share = scorer.interest(users).log_share[row, category]
    parts = []
    for at, pairs in scorer.encode_pairs(users, row, category):
        item, log_probability = pairs.tokens.item.numpy(), _log_probabilities(scorer, corpus, pairs)
        of_pair, slot = np.nonzero((item > 0) & (category[at] >= schema.FIRST_KNOWN)[:, None])
        score = log_probability[of_pair, slot] + share[at[of_pair]]
        parts.append((row[at[of_pair]], item[of_pair, slot], score, pairs.tokens.features.numpy()[of_pair, slot]))
    own_row, own_item, score, features = (np.concatenate(part) for part in zip(*parts, strict=True))
    score = score.astype(np.float64)
    best_first = np.lexsort((-score, own_row))
    first = np.searchsorted(own_row[best_first], np.arange(len(users)))
    rank = np.empty(len(score), np.int64)
    rank[best_first] = np.arange(len(score)) - first[own_row[best_first]]
    near = (rank >= _FIRST_RANK) & (rank < _STOP_RANK)
    own_row, own_item, score = own_row[near], own_item[near], score[near]
    num_taken = np.diff(truth.offset).astype(np.float64)[own_row]
    key = truth.pair_row() * truth.num_items + truth.item
    return OwnItemsTaken(
        terms=np.column_stack([np.ones(len(score)), features[near], score]),
        expected=np.minimum(np.exp(score) * num_taken, 50.0),
        is_taken=np.isin(own_row * truth.num_items + own_item, key).astype(np.float64),
        weight=num_taken**-0.5,
    )


def _log_probabilities(scorer: LongRetrieverScorer, corpus: Corpus, pairs: Subsequences) -> np.ndarray:
    """Log p(item | category, user) of each token of some pairs, [R, L] float32; 0 where padded."""
    embedding, repeat_logit = pairs.state.embedding.numpy(), pairs.state.repeat_logit.numpy()
    item, category = pairs.tokens.item.numpy(), pairs.category.numpy()
    found = np.zeros(item.shape, np.float32)
    for number in np.unique(category):
        at, low, high = np.flatnonzero(category == number), *corpus.category_offset[number : number + 2]
        vectors, bias = scorer.item_rows(low, high)
        logits = embedding[at] @ vectors.T + bias
        pair, slot = np.nonzero(item[at])
        own = item[at[pair], slot] - low
        logits[pair, own] += repeat_logit[at[pair], slot]
        found[at[pair], slot] = (logits - logsumexp(logits))[pair, own]
    return found


def fit_taken(taken: OwnItemsTaken) -> OwnCorrection:
    """The Poisson regression with a log link, by Newton's method: penalised, so it has one optimum."""
    scale = taken.terms.std(0) + 1e-9
    scale[0] = 1.0
    terms, weights = taken.terms / scale, np.zeros(taken.terms.shape[1])
    for _ in range(20):
        rate = taken.weight * taken.expected * np.exp(np.clip(terms @ weights, -5, 5))
        slope = terms.T @ (taken.weight * taken.is_taken - rate) - _PENALTY * weights
        curvature = (terms * rate[:, None]).T @ terms + _PENALTY * np.eye(len(weights))
        step = np.linalg.solve(curvature, slope)
        weights += step
        if np.abs(step).max() < 1e-4:
            break
    intercept, *features, log_probability = (weights / scale).tolist()
    return OwnCorrection(intercept, tuple(features), log_probability)


def _log_likelihood(taken: OwnItemsTaken, weights: np.ndarray) -> float:
    """Of the regression, for each item taken, weighted, nats; weights of `terms`, or a single 0 for none."""
    gain = np.clip(taken.terms @ weights, -5, 5) if len(weights) > 1 else np.zeros(len(taken.terms))
    rate = taken.expected * np.exp(gain)
    total = (taken.weight * (taken.is_taken * np.log(np.maximum(rate, 1e-30)) - rate)).sum()
    return round(float(total / (taken.weight * taken.is_taken).sum()), 4)
