"""Retrieval once more, for users of a log, by numpy and in one piece: what evaluation and the served graph are held to.

It reads the category order that training reads, not a request's raw columns, and merges dense rows, not lists.
"""

import functools
import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from longretriever_tf.common import schema
from longretriever_tf.config.config import Config, RetrievalConfig
from longretriever_tf.data.batches.prepared_data import Prepared
from longretriever_tf.data.recipe.history_embedding import build_history_embeddings
from longretriever_tf.data.recipe.interest_features import interest_features
from longretriever_tf.data.recipe.tokens import make_tokens
from longretriever_tf.data.search import hard_search
from longretriever_tf.data.search.behavior_index import hard_search_windows
from longretriever_tf.data.search.history_limit import visible_histories
from longretriever_tf.data.search.history_summary import HistorySummary, category_bag, summarise_history
from longretriever_tf.data.search.user_activity import user_activity
from longretriever_tf.models.build import Models, build_models
from longretriever_tf.models.interest_model import TASKS
from longretriever_tf.models.towers import UserInputs
from longretriever_tf.retrieval.interests import draw_interests
from longretriever_tf.retrieval.merge import MERGES, Candidates

QUOTA_K = 100


def build_moved_models(config: Config, prepared: Prepared) -> Models:
    """Models none of whose weights stays at an initial value that hides a part of the answer."""
    models = build_models(config, prepared.corpus, prepared.item_svd)
    rng = np.random.default_rng(7)
    for model in (models.retriever, models.interest):
        for variable in model.trainable_variables:
            variable.assign_add(rng.normal(0, 0.3, variable.shape))
    return models


def _asked_once(method: Callable[..., np.ndarray]) -> Callable[..., np.ndarray]:
    """A method of the oracle that computes once what it says of the same users: one oracle is asked in many ways."""

    @functools.wraps(method)
    def ask(self: "RetrievalOracle", users: np.ndarray, *rest: Any) -> np.ndarray:
        key = method.__name__, users.tobytes(), *rest
        if key not in self.known:
            self.known[key] = method(self, users, *rest)
        return self.known[key].copy()

    return ask


class RetrievalOracle:
    """Scores of every item for users of a log, at the time that `prepared` ends at."""

    def __init__(self, config: Config, prepared: Prepared, models: Models) -> None:
        self.config, self.prepared, self.models = config, prepared, models
        self.known: dict[tuple, np.ndarray] = {}

    def scores(self, users: np.ndarray, task: str, retrieval: RetrievalConfig) -> np.ndarray:
        """Merged scores of the drawn interests' items, [B, V]; -inf elsewhere. User u draws by the seed u."""
        logits, category = self.logits(users), self.prepared.corpus.item_category
        if task == "novel":
            for row, items in enumerate(self._seen(users)):
                logits[row, items] = -np.inf
        drawn_by, share, allowed = self._interests(users, task, retrieval)
        if retrieval.num_interests:
            many = [tf.fill([len(users)], n) for n in (retrieval.num_interests, retrieval.top_interests)]
            drawn = draw_interests(tf.constant(drawn_by), tf.constant(allowed), *many, tf.constant(users))
            order = np.full(share.shape, -1)
            for row, slot in zip(*np.nonzero(drawn.is_real), strict=True):
                order[row, drawn.category[row, slot]] = slot
        else:
            order = self._order_by_threshold(drawn_by, share + self._gains(users, task), allowed, retrieval)
        rank, partition = self._within(logits)
        log_share = share[:, category]
        merged = MERGES[retrieval.merge](
            Candidates(
                logit=logits,
                log_probability=logits - partition,
                rank=rank,
                log_interest=log_share,
                order=order[:, category],
                num_interests=order.max() + 1,
                is_beyond_quota=1.0 * (rank >= np.ceil(QUOTA_K * np.exp(log_share))),
            )
        )
        correction = self.prepared.own_correction
        if correction is not None and (task, retrieval.merge) == ("all", "calibrated"):
            weights, features = correction.to_array(), self.own_features(users)
            corrected = merged + weights[0] + features @ weights[1:-1] + weights[-1] * merged
            merged = np.where(np.isfinite(features[:, :, 0]), corrected, merged)
        return np.where((order[:, category] >= 0) & (logits > -np.inf), merged, -np.inf)

    def _gains(self, users: np.ndarray, task: str) -> np.ndarray:
        """What the estimate of a category's best log p(item | user) adds to log p(category | user), [B, C]."""
        corpus, every = self.prepared.corpus, tf.range(self.prepared.corpus.num_items)
        bias = self.models.retriever.item_bias(every, tf.constant(self.prepared.stats.item[-1])).numpy()
        gains = np.zeros([len(users), corpus.num_categories])
        for category, (low, high) in enumerate(itertools.pairwise(corpus.category_offset)):
            share = np.exp(bias[low:high]) / np.exp(bias[low:high]).sum()
            gains[:, category] = 0.75 * np.log(share.max(initial=1e-30 if high > low else 1))
        for row, items in enumerate(self._seen(users) if task == "all" else ()):
            gains[row, np.unique(corpus.item_category[items])] += 0.8
        return gains

    def _order_by_threshold(
        self, drawn_by: np.ndarray, best: np.ndarray, allowed: np.ndarray, retrieval: RetrievalConfig
    ) -> np.ndarray:
        """Place of each category that the threshold or the best M let in, -1 for the others, [B, C]."""
        order = np.full(best.shape, -1)
        for row in range(len(best)):
            best_first = [c for c in np.argsort(-drawn_by[row], kind="stable") if allowed[row, c]]
            chosen = [
                c
                for rank, c in enumerate(best_first)
                if rank < retrieval.top_interests or best[row, c] >= retrieval.interest_threshold
            ]
            order[row, chosen] = np.arange(len(chosen))
        return order

    @_asked_once
    def logits(self, users: np.ndarray) -> np.ndarray:
        """Logits of every item by its own category's user vector, [B, V]; -inf for reserved rows."""
        category = self.prepared.corpus.item_category
        return self.corpus_logits(users)[:, category, np.arange(len(category))]

    def corpus_logits(self, users: np.ndarray) -> np.ndarray:
        """Logits of every item by the user vector of every category, [B, C, V]; -inf for reserved rows."""
        config, prepared, retriever = self.config.model, self.prepared, self.models.retriever
        corpus, order = prepared.corpus, prepared.order
        user = np.repeat(users, corpus.num_categories)
        category = np.tile(np.arange(corpus.num_categories), len(users))
        segment = order.find_segments(user, category)
        start, stop, num_before = (np.zeros(len(user), np.int64) for _ in range(3))
        there, time = np.flatnonzero(segment >= 0), np.full(len(user), prepared.as_of)
        ends = order.segment_offset[segment[there] + 1]
        windows = hard_search_windows(config, prepared.log, order, segment[there], ends, time[there])
        start[there], stop[there], num_before[there] = windows
        events = hard_search.slice_events(
            *map(tf.constant, (order.item, order.timestamp, order.weight, start, stop, time))
        )
        activity = user_activity(prepared.log, user, time, config.history_events)
        stats, row = prepared.stats.item[-1:], tf.zeros([len(user)], tf.int32)
        tokens = make_tokens(config, events, num_before, tf.constant(stats), row, tf.constant(activity))
        every = tf.range(corpus.num_items)
        vectors, bias = retriever.item_tower(every), retriever.item_bias(every, tf.constant(stats[0]))
        state = retriever.user_tower(
            UserInputs(
                tf.gather(vectors, tokens.item),
                tokens.item > 0,
                tokens.features,
                tf.constant(category, tf.int32),
                tf.constant(prepared.log.profile[user]),
                tf.constant(self._embed(user)),
            )
        )
        logits = state.embedding.numpy() @ vectors.numpy().T / config.temperature + bias.numpy()
        pair, slot = np.nonzero(tokens.item.numpy())
        item, features = tokens.item.numpy()[pair, slot], tokens.features.numpy()[pair, slot]
        np.add.at(logits, (pair, item), state.repeat_logit.numpy()[pair, slot])
        own = np.full([len(users), corpus.num_items, features.shape[1]], np.nan, np.float32)
        own[pair // corpus.num_categories, item] = features
        self.known["own_features", users.tobytes()] = own
        logits[:, : schema.FIRST_KNOWN] = -np.inf
        return logits.reshape(len(users), corpus.num_categories, -1)

    def own_features(self, users: np.ndarray) -> np.ndarray:
        """Features of the token of each user's own items, [B, V, F]; NaN for all others."""
        self.corpus_logits(users)
        return self.known["own_features", users.tobytes()]

    @_asked_once
    def eq3(self, users: np.ndarray, day_floor: float) -> np.ndarray:
        """Eq. 3, [B, C]."""
        return self._summarise(users, day_floor).score.numpy()

    @_asked_once
    def log_share(self, users: np.ndarray, task: str) -> np.ndarray:
        """The learned log p(category | user), [B, C]."""
        summary, corpus = self._summarise(users), self.prepared.corpus
        stats = tf.repeat(tf.constant(self.prepared.stats.category[-1:]), len(users), axis=0)
        features = interest_features(summary, stats, tf.constant(np.diff(corpus.category_offset), tf.float32))
        embedding = tf.constant(self._embed(users))
        return self.models.interest(features, category_bag(summary), embedding)[:, :, TASKS.index(task)].numpy()

    def _embed(self, users: np.ndarray) -> np.ndarray:
        prepared, time = self.prepared, np.full(len(users), self.prepared.as_of)
        rows = prepared.history_embedding_rows
        return build_history_embeddings(
            prepared.log, prepared.user_fold, rows, users, time, self.config.model.history_events
        )

    def _summarise(self, users: np.ndarray, day_floor: float = 1.0) -> HistorySummary:
        log, corpus, time = self.prepared.log, self.prepared.corpus, np.full(len(users), self.prepared.as_of)
        bounds = visible_histories(log, users, time, self.config.model.history_events)
        events = hard_search.slice_events(*map(tf.constant, (log.item, log.timestamp, log.weight, *bounds, time)))
        category = tf.constant(corpus.item_category)
        return summarise_history(events, category, tf.constant(len(users)), corpus.num_categories, day_floor)

    def _seen(self, users: np.ndarray) -> list[np.ndarray]:
        time = np.full(len(users), self.prepared.as_of)
        bounds = visible_histories(self.prepared.log, users, time, self.config.model.history_events)
        return [self.prepared.log.item[start:stop] for start, stop in zip(*bounds, strict=True)]

    def _interests(
        self, users: np.ndarray, task: str, retrieval: RetrievalConfig
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """What interests are drawn by, what lists merge by, and which may be drawn, [B, C] each."""
        known = np.arange(self.prepared.corpus.num_categories) >= schema.FIRST_KNOWN
        if retrieval.interest == "paper":
            score = self.eq3(users, retrieval.day_floor)
            share = score / score.sum(1, keepdims=True)
            return score, np.log(np.maximum(share, 1e-30)), known & (score > 0)
        drawn_by, share = (self._raised(users, name, retrieval.unseen_weight) for name in ("all", task))
        return drawn_by, share, np.broadcast_to(known, drawn_by.shape)  # drawn whatever the task: `InterestScores`

    def _raised(self, users: np.ndarray, task: str, weight: float) -> np.ndarray:
        """The learned log p(category | user), [B, C], unseen categories raised.

        These share 1 + weight / q times the q they hold, by the root of the learned share times popularity.
        """
        log_share = self.log_share(users, task)
        if not weight:
            return log_share
        share = np.exp(log_share.astype(np.float64))
        popularity = np.exp(self.prepared.stats.category[-1][:, 0].astype(np.float64))
        for row, items in enumerate(self._seen(users)):
            unseen = np.arange(share.shape[1]) >= schema.FIRST_KNOWN
            unseen[self.prepared.corpus.item_category[items]] = False
            if unseen.any() and len(items):
                q, among = share[row, unseen].sum(), np.sqrt(share[row, unseen] * popularity[unseen])
                share[row, unseen] = among / among.sum() * q * (1 + weight / max(q, 1e-3))
                share[row] /= share[row].sum()
        return np.log(np.maximum(share, 1e-30)).astype(np.float32)

    def _within(self, logits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Rank of each item within its category, 0 the best, and the category's log-partition, [B, V] each."""
        rank, partition = np.zeros(logits.shape), np.zeros(logits.shape)
        offset = self.prepared.corpus.category_offset
        for low, high in zip(offset[:-1], offset[1:], strict=True):
            block = logits[:, low:high].astype(np.float64)
            rank[:, low:high] = np.argsort(np.argsort(-block, axis=1, kind="stable"), axis=1)
            if (total := np.exp(block).sum(1)).any():
                partition[:, low:high] = np.log(np.where(total > 0, total, 1.0))[:, None]
        return rank, partition
