"""Multi-context retrieval (section 5 of the paper) as the exported graph: raw ids in, one explained top-k out."""

from collections.abc import Mapping

import numpy as np
import tensorflow as tf

from longretriever_tf.common import schema
from longretriever_tf.common.text import as_raw_ids, as_text, is_text
from longretriever_tf.config.config import Config
from longretriever_tf.config.input_names import profile_inputs
from longretriever_tf.data.corpus import Corpus
from longretriever_tf.data.recipe.history_embedding import item_keys
from longretriever_tf.data.recipe.interest_features import (
    category_bag,
    history_activity,
    interest_features,
    summarise_history,
)
from longretriever_tf.data.recipe.tokens import make_tokens, max_sliced
from longretriever_tf.data.search import hard_search
from longretriever_tf.data.search.request_history import RawHistories, order_segments, read_folds, read_histories
from longretriever_tf.data.search.unique_items import embed_history_before
from longretriever_tf.models.interest_model import TASKS, InterestModel
from longretriever_tf.models.retriever import LongRetriever, embed_corpus
from longretriever_tf.models.towers import UserInputs, UserState
from longretriever_tf.retrieval.admission import bounds_of, require
from longretriever_tf.retrieval.best_of import Lists, merge_lists
from longretriever_tf.retrieval.fingerprint import UNSTAMPED, Fingerprint
from longretriever_tf.retrieval.freeze import freeze
from longretriever_tf.retrieval.index.exact import PackedIndex, Queries, SearchResult
from longretriever_tf.retrieval.interests import ORIGINS, Interests, choose_interests
from longretriever_tf.retrieval.length_buckets import encode_by_length
from longretriever_tf.retrieval.request_options import (
    RequestOptions,
    check_history,
    read_request_options,
    unknown_names,
)
from longretriever_tf.retrieval.requests import Histories, InterestScores, Requests, Subsequences


class MultiContextRetriever(tf.Module):
    """Everything that answers a request: vocabularies, towers, interest score, index.

    Args:
      config: the run's config; `retrieval` holds the defaults of a request.
      corpus: the corpus.
      retriever: trained towers.
      interest: trained interest score.
      arrays: as of the cut: `item_stats` [V, 3], `category_stats` [C, 3], and `taste_rows`, what the history token
        reads, a table per fold, [K, V, D]; D = 0 where the tower has none.
      fingerprint: of the towers and the catalogue; the model refuses variables that do not belong to its graph.
    """

    def __init__(
        self,
        config: Config,
        corpus: Corpus,
        retriever: LongRetriever,
        interest: InterestModel,
        arrays: Mapping[str, np.ndarray],
        fingerprint: Fingerprint = UNSTAMPED,
    ) -> None:
        super().__init__(name="multi_context_retriever")
        self.fingerprint = fingerprint
        self._fingerprint = tf.Variable([fingerprint.towers, fingerprint.items], trainable=False, name="fingerprint")
        self._config, self._num_categories = config, corpus.num_categories
        self.item_id_dtype = tf.string if is_text(corpus.item_id) else tf.int64
        # A signature asks for what the towers read, no more.
        self.profile_names = profile_inputs(corpus.profile_values, config.model.profile)
        item_id = as_raw_ids(corpus.item_id)
        self._item_index = _lookup(item_id[schema.FIRST_KNOWN :])
        self._category_index = _lookup(corpus.category_name[schema.FIRST_KNOWN :])
        self._profile_index = [
            _lookup(values[schema.FIRST_KNOWN :])
            for _, values in zip(self.profile_names, corpus.profile_values.values(), strict=False)
        ]
        self._item_id = tf.Variable(item_id, trainable=False)
        self._category_name = tf.constant(as_text(corpus.category_name))
        self._item_category = tf.constant(corpus.item_category)
        self._item_key = tf.constant(item_keys(corpus.item_id))
        self._category_size = tf.constant(corpus.category_size, tf.float32)
        self._num_offered = corpus.num_offered
        self._largest = int(np.diff(corpus.category_offset).max(initial=1))
        self._has_items = tf.constant(np.diff(corpus.category_offset) > 0)
        self._item_stats = tf.Variable(arrays["item_stats"][None], trainable=False, name="item_stats")
        self._category_stats = tf.constant(arrays["category_stats"][None])
        self._user_tower, self._interest = freeze(retriever.user_tower), freeze(interest)
        history_embedding_rows = arrays["taste_rows"]
        self._num_folds, num_items, dim = history_embedding_rows.shape
        # Histories read a thousand of these rows each, from all over memory: half as wide, they are read in half the
        # time.
        halved = tf.cast(history_embedding_rows.reshape(self._num_folds * num_items, dim), tf.bfloat16)
        self._history_embedding_rows = tf.Variable(halved, trainable=False, name="taste_rows") if dim else None
        vectors, bias = embed_corpus(retriever, corpus, arrays["item_stats"])
        # Two copies on purpose: one is gathered (tokens), one is read densely by the index; sharing one variable would
        # make each dense read copy it.
        self._token_vectors = tf.Variable(vectors, trainable=False, name="token_vectors")
        self.index = PackedIndex(vectors / config.model.temperature, bias, corpus.category_offset)
        self.bounds = bounds_of(config.retrieval, corpus.num_categories, self.index.widest_together(), corpus.cut)

    def read(
        self, history_item_id: tf.Tensor, history_timestamp: tf.Tensor, history_weight: tf.Tensor, time: tf.Tensor
    ) -> Histories:
        """The raw columns of `look_up` to what they say of each category, seen or not."""
        with tf.control_dependencies(check_history(history_item_id, history_timestamp, history_weight)):
            item_id, timestamp = tf.identity(history_item_id), tf.identity(history_timestamp)
            weight = tf.broadcast_to(history_weight, tf.shape(item_id))
        raw = RawHistories(item_id, timestamp, weight, time)
        visible = self._config.model.history_events
        raw_histories = read_histories(raw, self._item_index.lookup, self._item_category, self._num_categories, visible)
        num, floor = tf.shape(time)[0], self._config.retrieval.day_floor
        fold = read_folds(raw_histories.begun, self._item_key, num, self._num_folds)
        categories = self._item_category, num, self._num_categories
        summary = summarise_history(
            raw_histories.history, *categories, floor, raw_histories.interacted, raw_histories.item_ages(time)
        )
        stats = tf.broadcast_to(self._category_stats, [num, self._num_categories, self._category_stats.shape[2]])
        features = interest_features(summary, stats, self._category_size)
        return Histories(raw_histories, fold, summary, category_bag(summary), features, stats)

    def look_up(
        self,
        history_item_id: tf.Tensor,
        history_timestamp: tf.Tensor,
        history_weight: tf.Tensor,
        time: tf.Tensor,
        profile: list[tf.Tensor],
    ) -> Requests:
        """Raw columns to everything that interests and towers read.

        Args:
          history_item_id: [B, T] raw ids; unknown ones (and padding, as any id the model does not know) are ignored.
          history_timestamp: [B, T] int64 seconds; 0 is padding.
          history_weight: weight of each event in eq. 3, [B, T] float32, or one for all, [1, 1].
          time: [B] int64 seconds; events at or after it are ignored.
          profile: one [B] string tensor for each of `profile_names`; unknown values count as missing.
        """
        histories = self.read(history_item_id, history_timestamp, history_weight, time)
        columns = [table.lookup(column) for table, column in zip(self._profile_index, profile, strict=True)]
        user_history_embedding = self._history_embedding(histories, tf.shape(time)[0])
        interests = self._interests(histories, user_history_embedding)
        return Requests(
            histories=histories.histories,
            count=histories.summary.count,
            time=time,
            profile=tf.stack(columns, 1) if columns else tf.zeros([tf.shape(time)[0], 0], tf.int32),
            activity=history_activity(histories.summary),
            history_embedding=user_history_embedding,
            interests=interests,
        )

    def _history_embedding(self, histories: Histories, num_requests: tf.Tensor) -> tf.Tensor:
        if self._history_embedding_rows is None:
            return tf.zeros([num_requests, 0])
        first_row = histories.fold * self._item_category.shape[0]
        return embed_history_before(
            histories.histories.interacted, self._history_embedding_rows.read_value(), first_row, num_requests
        )

    def _interests(self, histories: Histories, user_history_embedding: tf.Tensor) -> InterestScores:
        known = (tf.range(self._num_categories) >= schema.FIRST_KNOWN)[None]
        summary, stats = histories.summary, histories.stats
        if self._config.train.interest_epochs:
            learned = self._interest(histories.features, histories.bag, user_history_embedding)
            every, novel = learned[:, :, TASKS.index("all")], learned[:, :, TASKS.index("novel")]
        else:
            every = novel = tf.nn.log_softmax(tf.where(known, stats[:, :, 0], stats.dtype.min), 1)
        if self._config.retrieval.interest != "paper":
            return InterestScores(every, tf.broadcast_to(known, tf.shape(every)), every, novel, novel)
        # Without history eq. 3 is silent: everyone's categories speak. Untouched ones count as the weakest seen one.
        seen = summary.count > 0
        nobody = ~tf.reduce_any(seen, 1, keepdims=True)
        least = tf.reduce_min(tf.where(seen, summary.score, summary.score.dtype.max), 1, keepdims=True)
        filled = tf.where(nobody, tf.exp(every), tf.where(seen, summary.score, least))
        total = tf.reduce_sum(tf.where(seen | nobody, filled, 0.0), 1, keepdims=True)
        log_share = tf.math.log(tf.maximum(filled / tf.maximum(total, 1e-30), 1e-30))
        score = tf.where(nobody, tf.exp(every), summary.score)
        # Eq. 3 knows one goal: the share that it merges novel items by is the same.
        return InterestScores(score, known & (seen | nobody), log_share, log_share, novel)

    def encode(self, requests: Requests, row: tf.Tensor, category: tf.Tensor) -> Subsequences:
        """Hard search and user tower for R (request, category) pairs, in one batched run.

        Args:
          requests: B requests.
          row: request of each pair, [R] int32; no pair occurs twice.
          category: [R] int32.
        """
        runs = order_segments(requests.histories, row, category, tf.size(requests.count), self._num_categories)
        start = tf.maximum(runs.start, runs.stop - max_sliced(self._config.model))
        events = hard_search.slice_events(
            runs.item, runs.timestamp, runs.weight, start, runs.stop, tf.gather(requests.time, row)
        )
        tokens = make_tokens(
            self._config.model,
            events,
            runs.stop - runs.start,
            self._item_stats,
            tf.zeros_like(row),
            tf.gather(requests.activity, row),
        )

        def run_tower(some: hard_search.Tokens, pairs: tf.Tensor) -> UserState:
            vectors, request = tf.gather(self._token_vectors, some.item), tf.gather(row, pairs)
            profile, user_history_embedding = (
                tf.gather(requests.profile, request),
                tf.gather(requests.history_embedding, request),
            )
            asked = tf.gather(category, pairs)
            return self._user_tower(
                UserInputs(vectors, some.item > 0, some.features, asked, profile, user_history_embedding)
            )

        return Subsequences(row, category, runs, tokens, encode_by_length(run_tower, tokens, self._config.model.dim))

    def search(self, pairs: Subsequences, options: RequestOptions) -> SearchResult:
        """The best items of each pair's category, less the excluded ones: as many as the longest list asked for.

        No list is longer than the largest category, however large k is.
        """
        row, item = self._exclusions(pairs, options)
        # Retired items are read as history, but no index holds them: they are padding there.
        tokens = tf.where(pairs.tokens.item < self._num_offered, pairs.tokens.item, schema.PADDING)
        queries = Queries(pairs.state.embedding, pairs.category, tokens, pairs.state.repeat_logit, row, item)
        return self.index.search(queries, tf.minimum(tf.reduce_max(options.k), self._largest))

    def choose(self, requests: Requests, options: RequestOptions) -> Interests:
        """The interests of each request; see `interests.choose_interests`."""
        seen = requests.count > 0
        scores = requests.interests
        chosen = choose_interests(scores.drawn_by, scores.affinity, scores.is_interest, seen, options)
        # Who has no history is shown what everyone likes, and the answer says so.
        nobody = ~tf.reduce_any(seen, 1, keepdims=True) & (chosen.origin == ORIGINS.index("drawn"))
        return chosen._replace(origin=tf.where(nobody, ORIGINS.index("popular"), chosen.origin))

    def retrieve(self, requests: Requests, interests: Interests, options: RequestOptions) -> dict[str, tf.Tensor]:
        """Encodes, searches and merges.

        Args:
          requests: B requests.
          interests: the chosen ones, [B, N].
          controls: k (the result is as wide as the largest), merge, exclusions.

        Returns:
          item_id [B, K], score, category [B, K] string, interest_rank [B, K] int32 (which interest brought it),
          num_valid [B] int32; rows are padded by 0, 0.0 and "".
        """
        where = tf.where(interests.is_real)
        row, category = tf.cast(where[:, 0], tf.int32), tf.gather_nd(interests.category, where)
        found = self.search(self.encode(requests, row, category), options)
        shape = tf.concat([tf.shape(interests.category), tf.shape(found.item)[1:]], 0)  # [B, N, W]
        shape = tf.cast(shape, tf.int64)
        lists = Lists(
            tf.scatter_nd(where, found.item, shape),
            tf.scatter_nd(where, found.logit, shape),
            tf.scatter_nd(where, found.log_partition, shape[:2]),
        )
        scores = requests.interests
        share = tf.where(options.is_novel[:, None], scores.log_share_novel, scores.log_share)
        merged = merge_lists(lists, interests, share, options)
        rank = tf.gather(interests.rank, merged.place, batch_dims=1)
        return {
            "item_id": tf.gather(self._item_id, merged.item),
            "score": merged.score,
            "category": tf.gather(self._category_name, tf.gather(self._item_category, merged.item)),
            "interest_rank": tf.where(merged.is_real, rank, 0),
            "num_valid": tf.reduce_sum(tf.cast(merged.is_real, tf.int32), 1),
        }

    def explain(self, requests: Requests, interests: Interests) -> dict[str, tf.Tensor]:
        """The chosen interests: names, scores, ranks, origins, events, time of the last one; [B, N] each."""
        at = interests.category
        count = tf.where(interests.is_real, tf.gather(requests.count, at, batch_dims=1), 0.0)
        raw_histories, shape = requests.histories, tf.shape(requests.count)
        last = tf.math.unsorted_segment_max(raw_histories.last, raw_histories.interacted.run, tf.size(requests.count))
        last = tf.gather(tf.reshape(last, shape), at, batch_dims=1)
        origin = tf.gather(tf.constant(ORIGINS), interests.origin)
        return {
            "interest_category": tf.gather(self._category_name, at),
            "interest_score": interests.score,
            "interest_rank_drawn": interests.rank,
            "interest_origin": tf.where(interests.is_real, origin, ""),
            "interest_num_events": tf.cast(count, tf.int32),
            "interest_last_timestamp": tf.where(count > 0, last, 0),
            "num_interests_drawn": tf.reduce_sum(tf.cast(interests.is_real, tf.int32), 1),
        }

    def read_options(self, columns: Mapping[str, tf.Tensor], num_requests: tf.Tensor) -> RequestOptions:
        """Looks the optional columns up; categories that a refresh emptied are allowed to no one."""
        tables = self._category_index, self._item_index
        options = read_request_options(
            columns, num_requests, *tables, self._num_categories, self._config.retrieval.strict
        )
        return options._replace(is_allowed=options.is_allowed & self._has_items)

    def find_category(self, name: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Category index of each name, UNKNOWN where there is none, and the names that are none ("" elsewhere), [n].

        Fails with InvalidArgument at such a name, where the export is strict.
        """
        index = self._category_index.lookup(name)
        return index, unknown_names(name, index, "category", self._config.retrieval.strict)

    def item_embedding(self, item_id: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Vectors [n, D] and biases [n] of raw item ids; zeros for unknown ones."""
        item = self._item_index.lookup(item_id)
        known = tf.cast(item >= schema.FIRST_KNOWN, tf.float32)
        vectors, bias = self.index.rows(item)
        return vectors * known[:, None], bias * known

    def ids_of(self, item: tf.Tensor) -> tf.Tensor:
        """Raw ids of item indices."""
        return tf.gather(self._item_id, item)

    def check_fingerprint(self, expected: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """The fingerprints of the towers and of the items, [n] string each.

        Fails with InvalidArgument where the variables are not those of this graph (files of two versions were mixed),
        or where an element of `expected` is neither "" nor the towers' fingerprint, [n] string.
        """
        loaded = self._fingerprint.read_value()
        graph = tf.constant([self.fingerprint.towers, self.fingerprint.items])
        says = "the variables are not those of this saved_model.pb: fingerprints"
        whole = require(tf.reduce_all(loaded == graph), says, loaded, "and", graph)
        known = tf.reduce_all((expected == "") | (expected == graph[0]))
        fits = require(known, "these towers have the fingerprint", graph[0], "; expected was", expected)
        with tf.control_dependencies(whole + fits):
            return tuple(tf.fill(tf.shape(expected), loaded[part]) for part in range(2))

    def _exclusions(self, pairs: Subsequences, options: RequestOptions) -> tuple[tf.Tensor, tf.Tensor]:
        """(pair, item) of every item that must not come back, items of other categories left out: [X] int32 each."""
        is_any = tf.reduce_any(options.is_novel) | (tf.size(options.excluded) > 0)
        nothing = tf.zeros([0], tf.int32)
        # A branch, since few requests exclude anything.
        return tf.cond(is_any, lambda: self._find_excluded(pairs, options), lambda: (nothing, nothing))

    def _find_excluded(self, pairs: Subsequences, options: RequestOptions) -> tuple[tf.Tensor, tf.Tensor]:
        listed, size = options.excluded, tf.shape(options.excluded)[0] * self._num_categories
        # Each listed item asks for the pair of its own category, if there is one: no list is laid beside every pair.
        cell = (pairs.row * self._num_categories + pairs.category)[:, None]
        pair_of = tf.tensor_scatter_nd_update(tf.fill([size], -1), cell, tf.range(tf.size(pairs.row)))
        request = tf.range(tf.shape(listed)[0])[:, None]
        pair = tf.gather(pair_of, request * self._num_categories + tf.gather(self._item_category, listed))  # [B, E]
        where = tf.where((pair >= 0) & (listed >= schema.FIRST_KNOWN))
        start, stop = pairs.runs.start, pairs.runs.stop
        owner, interacted = hard_search.flat_ranges(
            start, tf.where(tf.gather(options.is_novel, pairs.row), stop, start)
        )
        row = tf.concat([tf.gather_nd(pair, where), owner], 0)
        item = tf.concat([tf.gather_nd(listed, where), tf.gather(pairs.runs.item, interacted)], 0)
        offered = tf.where(item < self._num_offered)[:, 0]  # the others are in no index, so nothing is to be excluded
        return tf.gather(row, offered), tf.gather(item, offered)


def _lookup(known: np.ndarray) -> tf.lookup.StaticHashTable:
    """Raw value -> index (from FIRST_KNOWN on), UNKNOWN where absent."""
    values = np.arange(len(known), dtype=np.int32) + schema.FIRST_KNOWN
    initializer = tf.lookup.KeyValueTensorInitializer(tf.constant(known), tf.constant(values))
    return tf.lookup.StaticHashTable(initializer, schema.UNKNOWN)
