"""Scores the whole corpus for users of a log: the serving module, asked in process, in batches.

`MultiContextRetriever` reads histories, scores and draws interests, searches categories and computes user vectors, as
for a request. A request ends with a list; evaluation needs the rank of every item. So here the same vectors meet all
items, and `MERGES` merges whole categories.
"""

import copy
import dataclasses
import functools
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from longretriever_tf.common import schema
from longretriever_tf.common.graph import graph_function
from longretriever_tf.common.ranges import flat_ranges
from longretriever_tf.common.text import as_raw_ids
from longretriever_tf.config.config import Config, RetrievalConfig
from longretriever_tf.data.batches.prepared_data import Prepared
from longretriever_tf.evaluation.dense_rows import logsumexp, ranks, ranks_of_best
from longretriever_tf.evaluation.evaluator import TaskScorer
from longretriever_tf.evaluation.own_items import OwnItems, correct_own_items
from longretriever_tf.models.interest_model import InterestModel
from longretriever_tf.models.retriever import LongRetriever
from longretriever_tf.retrieval.interests import Interests
from longretriever_tf.retrieval.merge import MERGES, Candidates
from longretriever_tf.retrieval.multi_context import MultiContextRetriever
from longretriever_tf.retrieval.own_correction import known_part
from longretriever_tf.retrieval.request_options import DEFAULT_K, MAX_WEIGHT, default_columns
from longretriever_tf.retrieval.requests import InterestScores, Requests, Subsequences

_CORPUS_K = 500
"""search=corpus, merged in turn: how long each interest's list is; the longest list that evaluation looks at."""

_MAX_PAIRS = 20_000
"""(user, category) pairs that are encoded in one call; bounds memory."""

_NO_VALUE = "\x00"
"""Of a profile column: a text that no log holds, so that the look-up finds nothing."""


class _Answers:
    """What all ways of asking about some users share, each computed when it is first needed.

    Attributes:
      requests: by `_history_key`: (rows of `users`, the users' requests), some users at a time.
      logits: by task, [B, V] float32; "novel" leaves interacted items out (-inf). Read only.
      partition: by task, the log of each category's summed exponentials, [B, C] float32; 0 where nothing is left.
      own: the users' own items, where these are corrected; there once `logits` is.
    """

    def __init__(self) -> None:
        self.requests: dict[tuple[str, float, float, float], list[tuple[slice, Requests]]] = {}
        self.logits: dict[str, np.ndarray] = {}
        self.partition: dict[str, np.ndarray] = {}
        self.own: list[OwnItems] = []


class LongRetrieverScorer(TaskScorer):
    """The scorer of a trained run: merged scores of the chosen interests' items, -inf elsewhere.

    Args:
      config: the run's config.
      prepared: the window before the time of the requests.
      model: the towers.
      interest: the learned interest score; read where `retrieval.interest` says so.
      retrieval: how interests are scored, drawn and merged.
      name: what the table calls it.
      every_category: search every category, each for its own items, instead of drawing interests (the retriever at its
        best).
    """

    _freezes = True  # the models' weights do not move

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
        self.name, self._prepared, self._draw = name, prepared, 0
        arrays = {
            "item_stats": prepared.stats.item[-1],
            "category_stats": prepared.stats.category[-1],
            "taste_rows": prepared.history_embedding_rows,
            "score_weights": np.array(prepared.score_weights),
            "item_takers": prepared.stats.takers,
        }
        config = dataclasses.replace(config, retrieval=retrieval)
        learned = interest if config.train.interest_epochs else None
        self._served = MultiContextRetriever(config, prepared.corpus, model, learned, arrays, freezes=self._freezes)
        self._read_items()
        self._item_id = as_raw_ids(prepared.corpus.item_id)
        self._profile = [
            np.append([_NO_VALUE] * schema.FIRST_KNOWN, values[schema.FIRST_KNOWN :])
            for values in prepared.corpus.profile_values.values()
        ][: len(self._served.profile_names)]
        self._look_ups: dict[tuple[str, float, float, float], tf.types.experimental.ConcreteFunction] = {}
        self._cache: dict[bytes, _Answers] = {}
        self._set_retrieval(retrieval, every_category)
        requests = tf.nest.map_structure(tf.TensorSpec.from_tensor, self._look_up.structured_outputs)
        signature = [requests, *[tf.TensorSpec([None], tf.int32)] * 2]
        self._encode = graph_function(self._encode_pairs, input_signature=signature).get_concrete_function()

    def _read_items(self) -> None:
        index = self._served.index
        self._item_vectors, self._item_bias = index.item_vectors.numpy(), index.item_bias.numpy()

    @functools.cached_property
    def _encode_whole(self) -> tf.types.experimental.ConcreteFunction:
        """`MultiContextRetriever.encode`, all that it says; traced where somebody asks."""
        encode = graph_function(self._served.encode, input_signature=self._encode.structured_input_signature[0])
        return encode.get_concrete_function()

    def _set_retrieval(self, retrieval: RetrievalConfig, every_category: bool) -> None:
        self._retrieval, self._every_category = retrieval, every_category
        self.is_probability = retrieval.merge == "calibrated" and every_category
        self._served = self._served.under(retrieval)
        if self._history_key not in self._look_ups:  # traced once for each way of scoring interests
            tells = self._prepared.log.is_target is not None
            self._look_ups[self._history_key] = self._served.trace_look_up(tells)
        self._look_up = self._look_ups[self._history_key]

    @property
    def _history_key(self) -> tuple[str, float, float, float]:
        """The settings that what is read of a history depends on."""
        retrieval = self._retrieval
        return retrieval.interest, retrieval.day_floor, retrieval.unseen_boost, retrieval.unseen_weight

    def with_retrieval(
        self, name: str, retrieval: RetrievalConfig, every_category: bool = False, draw: int = 0
    ) -> "LongRetrieverScorer":
        """The same models, asked in another way; all share the cached logits of the latest users.

        Args:
          name: what the table calls it.
          retrieval: how interests are scored, drawn and merged.
          every_category: search every category instead of drawing interests.
          draw: which draw of random interests; each user has a seed of its own, computed from the user's row and this.
        """
        other = copy.copy(self)
        other.name, other._draw = name, draw
        other._set_retrieval(retrieval, every_category)
        return other

    def score(self, users: np.ndarray) -> np.ndarray:
        """Merged scores for the task "all", own items corrected, [B, V] float32."""
        scores = self._merge(users, "all")
        if self._prepared.own_correction is not None and self._retrieval.merge == "calibrated":
            correct_own_items(scores, self._answers(users).own, self._prepared.own_correction)
        return scores

    def log_probability(self, users: np.ndarray) -> np.ndarray | None:
        """The scores before own items are corrected, after which p does not sum to one."""
        return None if self._prepared.own_correction is None else self._merge(users, "all")

    def score_novel(self, users: np.ndarray) -> np.ndarray:
        """Merged scores for the task "novel": interacted items leave the candidates before each softmax, [B, V]."""
        return self._merge(users, "novel")

    def within(self, users: np.ndarray) -> np.ndarray:
        """Logits, comparable inside a category alone, [B, V] float32."""
        return self._logits(users, "all").copy()

    def interest(self, users: np.ndarray) -> InterestScores:
        """What interests are drawn and merged by, [B, C] arrays."""
        parts = zip(*(requests.interests for _, requests in self._requests(users)), strict=True)
        return InterestScores(*(np.concatenate(part) for part in parts))

    def corpus_logits(self, users: np.ndarray, category: np.ndarray) -> np.ndarray:
        """Logits of the whole corpus by the user vector of one category per user: no search within categories.

        Args:
          users: rows of the log, [B].
          category: of each user, [B].

        Returns:
          [B, V] float32; -inf for reserved rows.
        """
        logits = np.empty((len(users), len(self._item_bias)), np.float32)
        for rows, requests in self._requests(users):
            at = tf.cast(category[rows], tf.int32)
            encoded = self._encode(requests, tf.range(tf.size(at)), at)
            embedding, item, repeat_logit = (part.numpy() for part in encoded[:3])
            logits[rows] = embedding @ self._item_vectors.T + self._item_bias
            row, slot = np.nonzero(item)
            np.add.at(logits[rows], (row, item[row, slot]), repeat_logit[row, slot])
        logits[:, : schema.FIRST_KNOWN] = -np.inf
        return logits

    def encode_pairs(
        self, users: np.ndarray, row: np.ndarray, category: np.ndarray
    ) -> Iterator[tuple[np.ndarray, Subsequences]]:
        """S_u, user vector and repeat logits of some (user, category) pairs, some users at a time.

        Args:
          users: rows of the log, [B].
          row: position in `users` of each pair, [n].
          category: of each pair, [n].

        Yields:
          Positions of the pairs, and what they are encoded to.
        """
        for rows, requests in self._requests(users):
            at = np.flatnonzero((row >= rows.start) & (row < rows.start + requests.count.shape[0]))
            some = tf.cast(row[at] - rows.start, tf.int32), tf.cast(category[at], tf.int32)
            yield at, self._encode_whole(requests, *some)

    def item_rows(self, low: int, high: int) -> tuple[np.ndarray, np.ndarray]:
        """Vectors [n, D] and biases [n] of the items `low:high`."""
        return self._item_vectors[low:high], self._item_bias[low:high]

    def _answers(self, users: np.ndarray) -> _Answers:
        """What every question about these users shares, kept for the latest users: many questions, one pass."""
        if users.tobytes() not in self._cache:
            self._cache.clear()  # first, so that two chunks are never held at once
            self._cache[users.tobytes()] = _Answers()
        return self._cache[users.tobytes()]

    def _requests(self, users: np.ndarray) -> list[tuple[slice, Requests]]:
        """The users' requests, some at a time."""
        answers, key = self._answers(users), self._history_key
        if key not in answers.requests:
            answers.requests[key] = [(rows, self._look_up(*self._columns(users[rows]))) for rows in self._parts(users)]
        return answers.requests[key]

    def _parts(self, users: np.ndarray) -> Iterator[slice]:
        step = max(1, _MAX_PAIRS // self._prepared.corpus.num_categories)
        return (slice(start, start + step) for start in range(0, len(users), step))

    def _columns(self, users: np.ndarray) -> tuple[Any, ...]:
        """What requests of some users say, as `MultiContextRetriever.look_up` takes it."""
        log = self._prepared.log
        start, stop = log.offset[users], log.offset[users + 1]
        row, event = flat_ranges(start, stop)
        column = event - start[row]
        shape = len(users), int((stop - start).max(initial=0))
        item_id = np.full(shape, "" if self._served.item_id_dtype == tf.string else 0, self._item_id.dtype)
        timestamp, weight = np.zeros(shape, np.int64), np.zeros(shape, np.float32)
        item_id[row, column] = self._item_id[log.item[event]]
        timestamp[row, column] = log.timestamp[event]
        weight[row, column] = np.minimum(log.weight[event], MAX_WEIGHT)  # merged events may weigh more together
        profile = [
            tf.constant(values[index].tolist(), tf.string)
            for values, index in zip(self._profile, log.profile[users].T, strict=False)
        ]
        profile += [tf.fill([len(users)], "")] * len(self._served.event_names)  # a window has no one event
        as_of = tf.fill([len(users)], tf.constant(self._prepared.as_of, tf.int64))
        item_id = tf.constant(item_id, self._served.item_id_dtype)
        targets = []
        if log.is_target is not None:
            is_target = np.zeros(shape, bool)
            is_target[row, column] = log.is_target[event]
            targets.append(tf.constant(is_target))
        return item_id, tf.constant(timestamp), tf.constant(weight), as_of, profile, *targets

    def _encode_pairs(self, requests: Requests, row: tf.Tensor, category: tf.Tensor) -> tuple[tf.Tensor, ...]:
        pairs = self._served.encode(requests, row, category)
        correction = self._prepared.own_correction
        known = () if correction is None else (known_part(correction, pairs.tokens),)
        return pairs.state.embedding, pairs.tokens.item, pairs.state.repeat_logit, *known

    def _logits(self, users: np.ndarray, task: str) -> np.ndarray:
        """Logits of every item by its own category's user vector, [B, V]; -inf for reserved rows."""
        logits, requests = self._answers(users).logits, self._requests(users)
        if "all" not in logits:
            logits["all"] = self._all_logits(users)
        if task not in logits:
            logits[task] = logits["all"].copy()
            for rows, some in requests:
                request, item = (part.numpy() for part in some.histories.taken())
                logits[task][rows][request, item] = -np.inf
        return logits[task]

    def _all_logits(self, users: np.ndarray) -> np.ndarray:
        logits = np.full((len(users), self._prepared.corpus.num_items), -np.inf, np.float32)
        for rows, requests in self._requests(users):
            own = self._score_categories(requests, logits[rows])
            self._answers(users).own += [one._replace(row=one.row + rows.start) for one in own]
        return logits

    def _score_categories(self, requests: Requests, logits: np.ndarray) -> list[OwnItems]:
        """Fills the logits [B, V] of some users: each category's user vector against the category's items.

        Returns:
          The users' own items, where these are corrected.
        """
        offset = self._prepared.corpus.category_offset
        categories = np.flatnonzero(np.diff(offset) > 0)
        categories = categories[categories >= schema.FIRST_KNOWN]
        embedding = np.empty((len(logits), len(categories), self._item_vectors.shape[1]), np.float32)
        repeats, own = [], []
        is_seen = requests.count.numpy()[:, categories] > 0
        for mask in (is_seen, ~is_seen):  # apart: what is padded to the longest S_u would mostly be padding
            row, number = np.nonzero(mask)
            pairs = tf.cast(row, tf.int32), tf.cast(categories[number], tf.int32)
            embedding[row, number], item, repeat_logit, *known = (
                part.numpy() for part in self._encode(requests, *pairs)
            )
            pair, slot = np.nonzero(item)
            repeats.append((row[pair], item[pair, slot], repeat_logit[pair, slot]))
            own += [OwnItems(row[pair], item[pair, slot], one[pair, slot]) for one in known]
        for at, (low, high) in enumerate(zip(offset[categories], offset[categories + 1], strict=True)):
            np.matmul(embedding[:, at], self._item_vectors[low:high].T, out=logits[:, low:high])
            logits[:, low:high] += self._item_bias[low:high]
        for rows, items, gain in repeats:
            np.add.at(logits, (rows, items), gain)
        return own

    def _partition(self, users: np.ndarray, task: str) -> np.ndarray:
        partition = self._answers(users).partition
        if task not in partition:
            offset, logits = self._prepared.corpus.category_offset, self._logits(users, task)
            blocks = [logits[:, low:high] for low, high in zip(offset[:-1], offset[1:], strict=True)]
            partition[task] = np.concatenate([logsumexp(block) for block in blocks], axis=1)
        return partition[task]

    def _choose(self, users: np.ndarray, task: str) -> Interests:
        """The interests chosen, [B, N] arrays, by the request options that the retrieval settings stand for."""
        defaults, parts = default_columns(self._retrieval, self._served.item_id_dtype), []
        defaults |= {"goal": tf.constant([task])}
        for rows, requests in self._requests(users):
            # A user's draw depends on the user's row and on which draw it is, not on the chunk.
            seed = tf.constant(users[rows] + (np.int64(self._draw) << 32))
            options = self._served.read_options(defaults | {"seed": seed}, tf.size(seed))
            parts.append(self._served.choose(requests, options))
        width = max(part.is_real.shape[1] for part in parts)
        wide = [[tf.pad(column, [[0, 0], [0, width - column.shape[1]]]) for column in part] for part in parts]
        return Interests(*(np.concatenate(part) for part in zip(*wide, strict=True)))

    def _merge(self, users: np.ndarray, task: str) -> np.ndarray:
        scores = self.interest(users)
        share = scores.log_share_novel if task == "novel" else scores.log_share
        if self._every_category:
            known = np.broadcast_to(np.arange(share.shape[1]) >= schema.FIRST_KNOWN, share.shape)
            return self._merge_categories(users, task, share, known, np.zeros(share.shape, np.float32))
        chosen = self._choose(users, task)
        row, rank = np.nonzero(chosen.is_real)
        category = chosen.category[row, rank]
        if self._retrieval.search == "corpus":
            return self._merge_corpora(users, task, row, rank, category)
        is_chosen, order = np.zeros(share.shape, bool), np.zeros(share.shape, np.float32)
        is_chosen[row, category], order[row, category] = True, rank
        return self._merge_categories(users, task, share, is_chosen, order)

    def _merge_corpora(
        self, users: np.ndarray, task: str, row: np.ndarray, order: np.ndarray, category: np.ndarray
    ) -> np.ndarray:
        """Merged scores where each drawn interest searches the whole corpus, [B, V]; an item counts where it does best.

        In turn, an interest's list ends after `_CORPUS_K` items.
        """
        num, is_left_out = order.max(initial=0) + 1, self._logits(users, task) == -np.inf
        merged = np.full(is_left_out.shape, -np.inf, np.float32)
        for number in np.unique(order):
            rows = row[order == number]
            interest = np.zeros(len(users), np.int64)
            interest[rows] = category[order == number]
            logits = self.corpus_logits(users, interest)[rows]
            logits[is_left_out[rows]] = -np.inf
            if self._retrieval.merge == "round_robin":
                logits = ranks_of_best(logits, _CORPUS_K) * num - number
            merged[rows] = np.maximum(merged[rows], logits)
        return merged

    def _merge_categories(
        self, users: np.ndarray, task: str, log_interest: np.ndarray, chosen: np.ndarray, order: np.ndarray
    ) -> np.ndarray:
        """Merged scores of the chosen categories' items, [B, V]; -inf elsewhere."""
        retrieval, offset = self._retrieval, self._prepared.corpus.category_offset
        logits, needs_rank = self._logits(users, task), retrieval.merge in ("round_robin", "quota")
        partition = self._partition(users, task) if retrieval.merge == "calibrated" else np.zeros_like(order)
        out = np.full(logits.shape, -np.inf, np.float32)
        for category in np.flatnonzero(chosen.any(0) & (np.diff(offset) > 0)):
            rows = slice(None) if chosen[:, category].all() else np.flatnonzero(chosen[:, category])
            items = slice(offset[category], offset[category + 1])
            block, share = logits[rows, items], log_interest[rows, category][:, None]
            rank = ranks(block) if needs_rank else np.zeros((1, 1), np.float32)
            merged = MERGES[retrieval.merge](
                Candidates(
                    logit=block,
                    log_probability=block - partition[rows, category][:, None],
                    rank=rank,
                    log_interest=share,
                    order=order[rows, category][:, None],
                    num_interests=order.max(initial=0) + 1,
                    is_beyond_quota=(rank >= np.ceil(DEFAULT_K * np.exp(share))) * 1.0,
                )
            )
            # What is left out (-inf) stays so under every merge.
            out[rows, items] = np.where(block > -np.inf, merged, block) if needs_rank else merged
        return out
