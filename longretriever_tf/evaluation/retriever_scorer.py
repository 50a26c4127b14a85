"""Scores the whole corpus for users of a log: what evaluation reads, by the code that serves."""

import copy

import numpy as np
import tensorflow as tf

from longretriever_tf.common import schema
from longretriever_tf.config.config import Config, RetrievalConfig
from longretriever_tf.data.batches.interests import HistoryReader
from longretriever_tf.data.batches.prepared_data import Prepared
from longretriever_tf.data.ranges import flat_ranges
from longretriever_tf.data.search.history_limit import visible_histories
from longretriever_tf.evaluation.category_scorer import CategoryScorer
from longretriever_tf.models.interest_model import GOALS, InterestModel
from longretriever_tf.models.retriever import LongRetriever
from longretriever_tf.retrieval.interests import draw_interests
from longretriever_tf.retrieval.merge import MERGES, Candidates

_QUOTA_K = 100
"""List length that the quota merge shares out in evaluation: the requests' default k."""

_CORPUS_K = 500
"""search=corpus, merged in turn: how long each interest's list is; the longest list that evaluation looks at."""

_MAX_HISTORY_PAIRS = 400_000
"""(user, category) pairs whose interest features are held at once."""


class _Answers:
    """What all the ways of asking share of some users: logits and interest scores, each computed once.

    Attributes:
      logits: by goal, [B, V] float32; the goal "novel" leaves owned items out (-inf). Read only.
      interest: log p(category | user) by goal, [B, C] float32.
      owned: (row, item) of every event that the histories show, flat.
    """

    def __init__(
        self,
        users: np.ndarray,
        interest: dict[str, np.ndarray],
        logits: np.ndarray,
        interacted: tuple[np.ndarray, np.ndarray],
        category_offset: np.ndarray,
    ) -> None:
        self.users, self.interest, self.interacted = users, interest, interacted
        self._logits, self._offset = {"all": logits}, category_offset
        self._partition: dict[str, np.ndarray] = {}
        self.eq3: dict[float, np.ndarray] = {}

    def logits(self, goal: str) -> np.ndarray:
        if goal not in self._logits:
            novel = self._logits["all"].copy()
            novel[self.interacted] = -np.inf
            self._logits[goal] = novel
        return self._logits[goal]

    def partition(self, goal: str) -> np.ndarray:
        """Log of each category's summed exponentials, [B, C] float32; 0 where nothing is left."""
        if goal not in self._partition:
            offset, logits = self._offset, self.logits(goal)
            blocks = [logits[:, low:high] for low, high in zip(offset[:-1], offset[1:], strict=True)]
            self._partition[goal] = np.concatenate([_logsumexp(block) for block in blocks], axis=1)
        return self._partition[goal]


class LongRetrieverScorer:
    """The `Scorer` of a trained run: merged scores of the chosen interests' items, -inf elsewhere.

    Args:
      config: the run's config.
      prepared: the window before the time of the requests.
      model: the towers.
      interest: the learned interest score; read where `retrieval.interest` says so.
      name: what the table calls it.
      retrieval: how interests are scored, drawn and merged.
      every_category: search every category, each for its own items, instead of drawing interests (the retriever at its
        best).
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
        self._reader = HistoryReader(prepared.corpus, prepared.log, prepared.stats, retrieval.day_floor)
        rows = tf.TensorSpec([None], tf.int64)
        self._draw = 0
        row, floor = tf.TensorSpec([None], tf.int32), tf.TensorSpec([], tf.float32)
        history_embedding = tf.TensorSpec([None, prepared.history_embedding.shape[1]], tf.float32)
        self._read = tf.function(
            self._read_histories, input_signature=[rows] * 3 + [row, history_embedding], autograph=False
        )
        self._eq3 = tf.function(self._reader.score, input_signature=[rows] * 3 + [floor], autograph=False)
        everyone = np.arange(prepared.log.num_users)
        as_of = np.full(len(everyone), prepared.as_of)
        self._visible = visible_histories(prepared.log, everyone, as_of, config.model.history_events)
        self._cache: dict[bytes, _Answers] = {}

    def with_retrieval(
        self, name: str, retrieval: RetrievalConfig, every_category: bool = False, draw: int = 0
    ) -> "LongRetrieverScorer":
        """The same models, asked in another way; all share the cached logits of the latest users.

        Args:
          name: what the table calls it.
          retrieval: how interests are scored, drawn and merged.
          every_category: search every category instead of drawing interests.
          draw: which draw of random interests; each user has a seed of its own, made from the user's row and this.
        """
        other = copy.copy(self)
        other.name, other._retrieval, other._every_category, other._draw = name, retrieval, every_category, draw
        return other

    @property
    def is_probability(self) -> bool:
        """Whether `score` is log p(item | user) over the whole corpus."""
        return self._retrieval.merge == "calibrated" and self._every_category

    def score(self, users: np.ndarray) -> np.ndarray:
        """Merged scores for the goal "all items", [B, V] float32."""
        return self._merge(self._answers(users), "all")

    def score_novel(self, users: np.ndarray) -> np.ndarray:
        """Merged scores for the goal "novel items": owned items leave the candidates before each softmax."""
        return self._merge(self._answers(users), "novel")

    def within(self, users: np.ndarray) -> np.ndarray:
        """Logits, comparable inside a category alone, [B, V]."""
        return self._answers(users).logits("all").copy()

    def interest(self, users: np.ndarray, kind: str) -> np.ndarray:
        """Interest scores, [B, C] float32: log p(category | user) of a goal ("all", "novel"), or "paper": eq. 3."""
        answers, floor = self._answers(users), self._retrieval.day_floor
        if kind != "paper":
            return answers.interest[kind]
        if floor not in answers.eq3:
            answers.eq3[floor] = self._eq3(*self._histories(users), tf.constant(floor, tf.float32)).numpy()
        return answers.eq3[floor]

    def _answers(self, users: np.ndarray) -> _Answers:
        """What every question about these users shares, kept for the latest users: many questions, one pass."""
        if users.tobytes() not in self._cache:
            self._cache.clear()  # first, so that two chunks are never held at once
            interest, logits = self._score_interests(users), self._categories.all_logits(users)
            interacted = self._interacted_pairs(users)
            offset = self._prepared.corpus.category_offset
            self._cache[users.tobytes()] = _Answers(users, interest, logits, interacted, offset)
        return self._cache[users.tobytes()]

    def _score_interests(self, users: np.ndarray) -> dict[str, np.ndarray]:
        """Learned scores by goal, [B, C] each; in parts where categories are many."""
        row = np.full(len(users), len(self._prepared.stats.time) - 1, np.int32)
        step = max(1, _MAX_HISTORY_PAIRS // self._prepared.corpus.num_categories)
        parts = [
            self._read(*self._histories(some), row[: len(some)], self._prepared.history_embedding[some]).numpy()
            for some in (users[start : start + step] for start in range(0, len(users), step))
        ]
        log_p = np.concatenate(parts)
        return {goal: log_p[:, :, g] for g, goal in enumerate(GOALS)}

    def _histories(self, users: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Where each visible history starts and stops in the log, and the time; [B] int64 each."""
        start, stop = self._visible
        return start[users], stop[users], np.full(len(users), self._prepared.as_of)

    def _interacted_pairs(self, users: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(place in `users`, item) of every event of the visible histories; an item as often as it was taken."""
        start, stop, _ = self._histories(users)
        row, event = flat_ranges(start, stop)
        return row, self._prepared.log.item[event]

    def _read_histories(
        self, start: tf.Tensor, stop: tf.Tensor, time: tf.Tensor, row: tf.Tensor, history_embedding: tf.Tensor
    ) -> tf.Tensor:
        features, bag = self._reader.read(start, stop, time, row)
        return self._interest(features, bag, history_embedding)

    def _merge(self, answers: _Answers, goal: str) -> np.ndarray:
        by_eq3 = self._retrieval.interest == "paper"
        interest = self.interest(answers.users, "paper" if by_eq3 else goal)
        log_interest = log_shares(interest) if by_eq3 else interest
        known = np.broadcast_to(np.arange(interest.shape[1]) >= schema.FIRST_KNOWN, interest.shape)
        if self._every_category:
            return self._merge_categories(answers, goal, log_interest, known, np.zeros(interest.shape, np.float32))
        allowed = known & (interest > 0) if by_eq3 else known
        # Drawn by the score for all items, whatever the goal: see `requests.InterestScores`.
        drawn_by = interest if by_eq3 else self.interest(answers.users, "all")
        row, place, category = self._draw_interests(answers.users, drawn_by, allowed)
        if self._retrieval.search == "corpus":
            return self._merge_corpora(answers, goal, row, place, category)
        chosen, order = np.zeros(interest.shape, bool), np.zeros(interest.shape, np.float32)
        chosen[row, category] = True
        order[row, category] = place
        return self._merge_categories(answers, goal, log_interest, chosen, order)

    def _draw_interests(
        self, users: np.ndarray, interest: np.ndarray, allowed: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The interests drawn, flat: row of the user, place among the drawn, category."""
        retrieval = self._retrieval
        many = [np.full(len(users), n, np.int32) for n in (retrieval.num_interests, retrieval.top_interests)]
        # A user's draw depends on the user's row and on which draw it is, not on the chunk.
        seed = users + (np.int64(self._draw) << 32)
        drawn = draw_interests(*map(tf.constant, (interest, allowed, *many, seed)))
        row, place = np.nonzero(drawn.is_real.numpy())
        return row, place, drawn.category.numpy()[row, place]

    def _merge_corpora(
        self, answers: _Answers, goal: str, row: np.ndarray, place: np.ndarray, category: np.ndarray
    ) -> np.ndarray:
        """Merged scores where each drawn interest searches the whole corpus, [B, V]; an item counts where it does best.

        In turn, an interest's list ends after `_CORPUS_K` items.
        """
        num, is_left_out = self._retrieval.num_interests, answers.logits(goal) == -np.inf
        out = np.full(is_left_out.shape, -np.inf, np.float32)
        for at in np.unique(place):
            mine = place == at
            rows = row[mine]
            logits = self._categories.corpus_logits(answers.users[rows], category[mine])
            logits[is_left_out[rows]] = -np.inf
            if self._retrieval.merge == "round_robin":
                logits = _places(logits, _CORPUS_K) * num - at
            out[rows] = np.maximum(out[rows], logits)
        return out

    def _merge_categories(
        self, answers: _Answers, goal: str, log_interest: np.ndarray, chosen: np.ndarray, order: np.ndarray
    ) -> np.ndarray:
        """Merged scores of the chosen categories' items, [B, V]; -inf elsewhere."""
        retrieval, offset = self._retrieval, self._prepared.corpus.category_offset
        logits = answers.logits(goal)
        needs_rank = retrieval.merge in ("round_robin", "quota")
        partition = answers.partition(goal) if retrieval.merge == "calibrated" else np.zeros(chosen.shape, np.float32)
        out = np.full(logits.shape, -np.inf, np.float32)
        for category in np.flatnonzero(chosen.any(0) & (np.diff(offset) > 0)):
            rows = slice(None) if chosen[:, category].all() else np.flatnonzero(chosen[:, category])
            items = slice(offset[category], offset[category + 1])
            block = logits[rows, items]
            rank = _ranks(block) if needs_rank else np.zeros((1, 1), np.float32)
            share = log_interest[rows, category][:, None]
            merged = MERGES[retrieval.merge](
                Candidates(
                    logit=block,
                    log_probability=block - partition[rows, category][:, None],
                    rank=rank,
                    log_interest=share,
                    order=order[rows, category][:, None],
                    num_interests=retrieval.num_interests,
                    is_beyond_quota=(rank >= np.ceil(_QUOTA_K * np.exp(share))) * 1.0,
                )
            )
            # What is left out (-inf) stays so under every merge.
            out[rows, items] = np.where(block > -np.inf, merged, block) if needs_rank else merged
        return out


def _places(logits: np.ndarray, k: int) -> np.ndarray:
    """0 for the best item of each row, -1 for the next, ...; -inf beyond the k best and where the logit is, [B, V]."""
    best = np.argpartition(-logits, min(k, logits.shape[1] - 1), axis=1)[:, :k]
    found = np.take_along_axis(logits, best, axis=1)
    best = np.take_along_axis(best, np.lexsort((best, -found), axis=1), axis=1)
    is_real = np.take_along_axis(logits, best, axis=1) > -np.inf
    out = np.full(logits.shape, -np.inf, np.float32)
    np.put_along_axis(out, best, np.where(is_real, -np.arange(best.shape[1]), -np.inf).astype(np.float32), axis=1)
    return out


def _ranks(block: np.ndarray) -> np.ndarray:
    """Place of each column within its row, 0 the best, equal ones by column, [n, m] int64."""
    rank = np.empty(block.shape, np.int64)
    places = np.broadcast_to(np.arange(block.shape[1]), block.shape)
    np.put_along_axis(rank, np.argsort(-block, axis=1, kind="stable"), places, axis=1)
    return rank


def _logsumexp(block: np.ndarray) -> np.ndarray:
    """Row-wise log sum exp, 0 where a row has nothing left, [n, 1]."""
    top = block.max(1, keepdims=True, initial=-np.inf)
    top = np.where(np.isfinite(top), top, 0.0)
    with np.errstate(divide="ignore"):
        total = np.log(np.exp(block - top).sum(1, keepdims=True)) + top
    return np.where(np.isfinite(total), total, 0.0)


def log_shares(score: np.ndarray) -> np.ndarray:
    """Eq. 3's scores as log p(category | user), [B, C]; a large negative number where the score is 0."""
    return np.log(np.maximum(score / np.maximum(score.sum(1, keepdims=True), 1e-30), 1e-30))
