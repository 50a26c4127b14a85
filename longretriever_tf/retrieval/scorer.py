"""Scores the whole corpus for users of a log: what evaluation reads, by the code that serves."""

import copy
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from longretriever_tf import schema
from longretriever_tf.config import Config, RetrievalConfig
from longretriever_tf.data import hard_search
from longretriever_tf.data.activity import user_activity
from longretriever_tf.data.interest_batches import LifeReader
from longretriever_tf.data.prepared import Prepared
from longretriever_tf.data.tokens import make_tokens, max_sliced
from longretriever_tf.models.interest import GOALS, InterestModel
from longretriever_tf.models.retriever import LongRetriever, add_boosts
from longretriever_tf.retrieval.interests import draw_interests
from longretriever_tf.retrieval.item_vectors import embed_corpus
from longretriever_tf.retrieval.merge import MERGES, Candidates

_QUOTA_K = 100
"""List length that the quota merge shares out in evaluation: the requests' default k."""

_BUCKETS = (0, 2, 8, 24)
"""Users of a category are encoded in groups of like history length: little padding."""


class _Slices(NamedTuple):
    """Users [B] and their slices `start:stop` of one category's run, which begins at `run_start`."""

    user: tf.Tensor
    start: tf.Tensor
    stop: tf.Tensor
    run_start: tf.Tensor
    activity: tf.Tensor
    taste: tf.Tensor


class CategoryScorer:
    """Logits of every item of a category, for users of a log as of one moment.

    Args:
      config: the run's config.
      prepared: the window before the moment.
      model: the towers.
    """

    def __init__(self, config: Config, prepared: Prepared, model: LongRetriever) -> None:
        self._config, self._prepared, self._model = config, prepared, model
        corpus = prepared.corpus
        with tf.device("/CPU:0"):
            order = prepared.order
            self._order = tuple(map(tf.constant, (order.item, order.timestamp, order.weight)))
            self._profile = tf.constant(prepared.log.profile)
            self._stats = tf.constant(prepared.stats.item[-1:])
        everyone = np.arange(prepared.log.num_users)
        self._activity = user_activity(prepared.log, everyone, np.full(len(everyone), prepared.moment))
        vectors, bias = embed_corpus(model, corpus, prepared.stats.item[-1])
        self._item_vectors, self._item_bias = tf.constant(vectors), tf.constant(bias)
        self._offset = tf.constant(corpus.category_offset)
        rows, matrix = tf.TensorSpec([None], tf.int64), tf.TensorSpec([None, None], tf.float32)
        signature = [_Slices(rows, rows, rows, rows, matrix, matrix), tf.TensorSpec([], tf.int64)]
        self._encode = tf.function(self._encode_rows, input_signature=signature)

    def logits(self, users: np.ndarray, category: int) -> np.ndarray:
        """Logits of the category's items, [B, n] float32.

        Args:
          users: rows of the log, [B].
          category: index.
        """
        corpus, order = self._prepared.corpus, self._prepared.order
        low, high = corpus.category_offset[category : category + 2]
        run = order.find_runs(users, np.full(len(users), category))
        run_start = np.where(run >= 0, order.run_offset[run], 0)
        stop = np.where(run >= 0, order.run_offset[run + 1], 0)
        start = np.maximum(run_start, stop - max_sliced(self._config.model))
        bucket = np.searchsorted(_BUCKETS, stop - start)
        out = np.empty((len(users), high - low), np.float32)
        for group in np.unique(bucket):
            rows = np.flatnonzero(bucket == group)
            who = users[rows]
            taste = self._prepared.taste[-1][who]
            slices = _Slices(who, start[rows], stop[rows], run_start[rows], self._activity[who], taste)
            out[rows] = self._encode(slices, np.int64(category))
        return out

    def _encode_rows(self, slices: _Slices, category: tf.Tensor) -> tf.Tensor:
        num = tf.shape(slices.user)[0]
        low, high = self._offset[category], self._offset[category + 1]
        time = tf.fill([num], tf.constant(self._prepared.moment, tf.int64))
        events = hard_search.slice_events(*self._order, slices.start, slices.stop, time)
        count, stats_row = slices.stop - slices.run_start, tf.zeros([num], tf.int32)
        tokens = make_tokens(self._config.model, events, count, self._stats, stats_row, slices.activity)
        is_real = tokens.item > 0
        state = self._model.user_tower(
            tf.gather(self._item_vectors, tokens.item),
            is_real,
            tokens.features,
            tf.fill([num], tf.cast(category, tf.int32)),
            tf.gather(self._profile, slices.user),
            slices.taste,
        )
        logits = self._model.score(state.embedding, self._item_vectors[low:high]) + self._item_bias[low:high]
        return add_boosts(logits, state.boost, is_real, tokens.item - tf.cast(low, tf.int32))


class LongRetrieverScorer:
    """The `Scorer` of a trained run: merged scores of the chosen interests' items, -inf elsewhere.

    Args:
      config: the run's config.
      prepared: the window before the moment of the requests.
      model: the towers.
      interest: the learned interest score; read where `retrieval.interest` says so.
      name: what the table calls it.
      retrieval: how interests are scored, drawn and merged.
      every_category: search every category instead of drawing interests (the retriever at its best).
    """

    def __init__(
        self,
        config: Config,
        prepared: Prepared,
        model: LongRetriever,
        interest: InterestModel,
        retrieval: RetrievalConfig,
        name: str = "longretriever",
        every_category: bool = True,
    ) -> None:
        self.name, self._config, self._prepared = name, config, prepared
        self._retrieval, self._every_category = retrieval, every_category
        self._categories = CategoryScorer(config, prepared, model)
        self._interest = interest
        self._reader = LifeReader(prepared.corpus, prepared.log, prepared.stats, retrieval.day_floor)
        rows = tf.TensorSpec([None], tf.int64)
        self._read = tf.function(self._reader.read, input_signature=[rows] * 3 + [tf.TensorSpec([None], tf.int32)])
        self._cache: dict[bytes, tuple[np.ndarray, dict[str, np.ndarray]]] = {}

    def ask_otherwise(
        self, name: str, retrieval: RetrievalConfig, every_category: bool = False
    ) -> "LongRetrieverScorer":
        """The same models, asked in another way; both share the cached logits of the latest users."""
        other = copy.copy(self)
        other.name, other._retrieval, other._every_category = name, retrieval, every_category
        return other

    @property
    def is_probability(self) -> bool:
        """Whether `score` is log p(item | user) over the whole corpus."""
        return self._retrieval.merge == "calibrated" and self._every_category

    def score(self, users: np.ndarray) -> np.ndarray:
        """Merged scores for the goal "all items", [B, V] float32."""
        logits, life = self._logits(users)
        return self._merge(users, logits, life, "all")

    def score_novel(self, users: np.ndarray) -> np.ndarray:
        """Merged scores for the goal "novel items": owned items leave the candidates before each softmax."""
        logits, life = self._logits(users)
        logits = logits.copy()
        for row, user in enumerate(users):
            start, stop = self._prepared.log.offset[user : user + 2]
            logits[row, self._prepared.log.item[start:stop]] = -np.inf
        return self._merge(users, logits, life, "novel")

    def within(self, users: np.ndarray) -> np.ndarray:
        """Logits, comparable inside a category alone, [B, V]."""
        return self._logits(users)[0].copy()

    def _logits(self, users: np.ndarray) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Logits [B, V] and interest scores by goal [B, C], kept for the latest users: three questions, one pass."""
        if users.tobytes() not in self._cache:
            log, corpus = self._prepared.log, self._prepared.corpus
            row = np.full(len(users), len(self._prepared.stats.time) - 1, np.int32)
            features, bag, paper = self._read(
                log.offset[users], log.offset[users + 1], np.full(len(users), self._prepared.moment), row
            )
            log_p = self._interest(features, bag).numpy()
            life = {goal: log_p[:, :, g] for g, goal in enumerate(GOALS)}
            life["paper"] = paper.numpy()
            logits = np.full((len(users), corpus.num_items), -np.inf, np.float32)
            for category in range(schema.FIRST_KNOWN, corpus.num_categories):
                low, high = corpus.category_offset[category : category + 2]
                logits[:, low:high] = self._categories.logits(users, category)
            self._cache.clear()
            self._cache[users.tobytes()] = logits, life
        return self._cache[users.tobytes()]

    def _merge(self, users: np.ndarray, logits: np.ndarray, life: dict[str, np.ndarray], goal: str) -> np.ndarray:
        retrieval, by_eq3 = self._retrieval, self._retrieval.interest == "paper"
        interest = life["paper"] if by_eq3 else life[goal]
        log_interest = log_shares(interest) if by_eq3 else interest
        known = np.arange(interest.shape[1]) >= schema.FIRST_KNOWN
        order = np.zeros(interest.shape, np.float32)
        if self._every_category:
            chosen = np.broadcast_to(known, interest.shape)
        else:
            allowed = known & (interest > 0) if by_eq3 else np.broadcast_to(known, interest.shape)
            many = (
                np.full(len(users), retrieval.num_interests, np.int32),
                np.full(len(users), retrieval.top_interests, np.int32),
            )
            drawn = draw_interests(
                tf.constant(interest), tf.constant(allowed), *map(tf.constant, many), tf.constant(users)
            )
            row, place = np.nonzero(drawn.is_real.numpy())
            category = drawn.category.numpy()[row, place]
            chosen = np.zeros(interest.shape, bool)
            chosen[row, category] = True
            order[row, category] = place
        return self._merged_scores(logits, log_interest, chosen, order)

    def _merged_scores(
        self, logits: np.ndarray, log_interest: np.ndarray, chosen: np.ndarray, order: np.ndarray
    ) -> np.ndarray:
        offset, retrieval = self._prepared.corpus.category_offset, self._retrieval
        out = np.full(logits.shape, -np.inf, np.float32)
        needs_rank = retrieval.merge in ("round_robin", "quota")
        for category in range(schema.FIRST_KNOWN, len(offset) - 1):
            rows = np.flatnonzero(chosen[:, category])
            block = logits[rows, offset[category] : offset[category + 1]]
            if not block.size:
                continue
            rank = np.argsort(np.argsort(-block, axis=1, kind="stable"), axis=1) if needs_rank else np.zeros((1, 1))
            share = log_interest[rows, category][:, None]
            merged = MERGES[retrieval.merge](
                Candidates(
                    logit=block,
                    log_probability=block - _logsumexp(block),
                    rank=rank,
                    log_interest=share,
                    order=order[rows, category][:, None],
                    num_interests=retrieval.num_interests,
                    is_beyond_quota=(rank >= np.ceil(_QUOTA_K * np.exp(share))) * 1.0,
                )
            )
            out[rows, offset[category] : offset[category + 1]] = np.where(np.isfinite(block), merged, -np.inf)
        return out


def _logsumexp(block: np.ndarray) -> np.ndarray:
    """Row-wise log sum exp, 0 where a row has nothing left, [n, 1]."""
    top = block.max(1, keepdims=True)
    top = np.where(np.isfinite(top), top, 0.0)
    with np.errstate(divide="ignore"):
        total = np.log(np.exp(block - top).sum(1, keepdims=True)) + top
    return np.where(np.isfinite(total), total, 0.0)


def log_shares(score: np.ndarray) -> np.ndarray:
    """Eq. 3's scores as log p(category | user), [B, C]; a large negative number where the score is 0."""
    return np.log(np.maximum(score / np.maximum(score.sum(1, keepdims=True), 1e-30), 1e-30))
