"""What users took in a window, among what: the choices that the weights of a score are fitted on."""

import numpy as np

from longretriever_tf.common import schema
from longretriever_tf.common.ranges import offset_of
from longretriever_tf.data.batches.prepared_data import Prepared
from longretriever_tf.evaluation.ground_truth import Truth
from longretriever_tf.evaluation.retriever_scorer import LongRetrieverScorer
from longretriever_tf.models.logit_terms import interacted_terms
from longretriever_tf.training.weight_fit import Choices, join_choices

ITEM_TERMS = ("logit", "popularity", "takers", "interacted", "repeats")
"""Fields of `ScoreWeights` that weigh an item within its category; the last two are of the user's own items."""

_NUM_OWN_TERMS = 2

_MAX_OPTIONS = 1_000_000
"""Items of all the choices of a task together; what lies beyond is left out at random. Bounds memory and time."""


def item_choices(
    scorer: LongRetrieverScorer, prepared: Prepared, truth: Truth, seed: int, repeat_term: bool
) -> Choices:
    """Items taken among those of their category, for both tasks.

    Args:
      scorer: of the model that is weighed.
      prepared: the log before the window.
      truth: of the window.
      seed: of which choices are left out.
      repeat_term: whether items of the subsequence have terms of their own.

    Returns:
      Choices with the terms of `ITEM_TERMS`; without `repeat_term`, its last two are left out.
    """
    offset, popularity, takers = prepared.corpus.category_offset, prepared.stats.item[-1][:, 0], prepared.stats.takers
    category = prepared.corpus.item_category[truth.item]
    pair, inverse = np.unique(truth.pair_row() * len(offset) + category, return_inverse=True)
    row, category = pair // len(offset), pair % len(offset)
    kept = np.random.default_rng(seed).permutation(len(pair))
    kept = np.sort(kept[np.cumsum(np.diff(offset)[category[kept]]) <= _MAX_OPTIONS])
    taken = _split(truth, inverse)
    num_targets = {"all": np.diff(truth.offset), "novel": np.diff(truth.novel().offset)}
    parts = []
    for at, pairs in scorer.encode_pairs(truth.users, row[kept], category[kept]):
        embedding, repeat_logit = pairs.state.embedding.numpy(), pairs.state.repeat_logit.numpy()
        own_item, own_terms = pairs.tokens.item.numpy(), interacted_terms(pairs.tokens).numpy() if repeat_term else None
        for i, number in enumerate(kept[at]):
            user, low, high = row[number], offset[category[number]], offset[category[number] + 1]
            vectors, bias = scorer.item_rows(low, high)
            terms = np.zeros((high - low, len(ITEM_TERMS) - (0 if repeat_term else _NUM_OWN_TERMS)), np.float32)
            terms[:, 0] = vectors @ embedding[i] + bias
            terms[:, 1], terms[:, 2] = popularity[low:high], takers[low:high]
            if own_terms is not None:
                is_real = own_item[i] > 0
                items = own_item[i, is_real] - low
                terms[items, 0] += repeat_logit[i, is_real]
                terms[items, -_NUM_OWN_TERMS:] = own_terms[i, is_real]
            interacted = truth.interacted_item[truth.interacted_offset[user] : truth.interacted_offset[user + 1]]
            is_novel = ~np.isin(np.arange(low, high), interacted, assume_unique=True)
            count = np.bincount(taken[number] - low, minlength=high - low).astype(np.float32)
            parts.append(_choice(terms, count, num_targets["all"][user]))
            if (count * is_novel).any():
                parts.append(_choice(terms[is_novel], count[is_novel], num_targets["novel"][user]))
    return join_choices(parts)


def _split(truth: Truth, group: np.ndarray) -> list[np.ndarray]:
    """The items of each group of pairs."""
    order = np.argsort(group, kind="stable")
    return np.split(truth.item[order], np.flatnonzero(np.diff(group[order])) + 1)


def _choice(terms: np.ndarray, count: np.ndarray, num_targets: int) -> Choices:
    """One choice; a user's many targets do not drown those of others, as in training."""
    weight = np.array([max(num_targets, 1) ** -0.5])
    return Choices(terms, count, np.array([0, len(terms)]), weight)


def interest_choices(scorer: LongRetrieverScorer, prepared: Prepared, truth: Truth, task: str) -> Choices:
    """Categories taken among all that hold items: a choice for each user who took any.

    Args:
      scorer, prepared, truth: as of `item_choices`.
      task: "all" or "novel".

    Returns:
      Choices with the terms of `ScoreWeights`: interest, category_popularity.
    """
    scores = scorer.interest(truth.users)
    share = scores.log_share_novel if task == "novel" else scores.log_share
    asked = truth.novel() if task == "novel" else truth
    num_categories = share.shape[1]
    category = prepared.corpus.item_category[asked.item]
    count = np.zeros((truth.num_users, num_categories), np.float32)
    np.add.at(count, (asked.pair_row(), category), 1.0)
    is_open = (np.diff(prepared.corpus.category_offset) > 0) & (np.arange(num_categories) >= schema.FIRST_KNOWN)
    rows = np.flatnonzero(count.sum(1) > 0)
    shape = len(rows), int(is_open.sum())
    popularity = np.broadcast_to(prepared.stats.category[-1][is_open, 0], shape)
    terms = np.stack([share[rows][:, is_open], popularity], 2).reshape(-1, 2).astype(np.float32)
    weight = count[rows].sum(1) ** -0.5
    return Choices(terms, count[rows][:, is_open].ravel(), offset_of(np.full(*shape)), weight)
