"""Multi-context retrieval (section 5 of the paper) as the exported graph: raw ids in, one explained top-k out."""

import copy
import dataclasses
from collections.abc import Mapping

import numpy as np
import tensorflow as tf

from longretriever_tf.common import schema
from longretriever_tf.common.graph import graph_function
from longretriever_tf.common.text import as_raw_ids, as_text, is_text
from longretriever_tf.config.config import Config, RetrievalConfig
from longretriever_tf.config.input_names import profile_inputs
from longretriever_tf.data.corpus import Corpus
from longretriever_tf.data.recipe.history_embedding import item_keys
from longretriever_tf.data.recipe.interest_features import interest_features
from longretriever_tf.data.recipe.own_correction import correction_of
from longretriever_tf.data.recipe.request_embedding import embed_history_before, read_folds
from longretriever_tf.data.recipe.request_features import with_request_columns
from longretriever_tf.data.recipe.score_weights import weights_of
from longretriever_tf.data.recipe.tokens import make_tokens
from longretriever_tf.data.search import hard_search
from longretriever_tf.data.search.behavior_index import max_sliced
from longretriever_tf.data.search.history_summary import category_bag, history_activity, summarise_history
from longretriever_tf.data.search.request_history import (
    RawHistories,
    order_segments,
    read_histories,
    tells_targets,
)
from longretriever_tf.models.interest_model import InterestModel
from longretriever_tf.models.logit_terms import weigh_items, weigh_repeats
from longretriever_tf.models.retriever import LongRetriever, embed_corpus
from longretriever_tf.models.towers import UserInputs, UserState
from longretriever_tf.retrieval.actions import ActionTable
from longretriever_tf.retrieval.admission import bounds_of
from longretriever_tf.retrieval.exclusions import find_exclusions
from longretriever_tf.retrieval.fingerprint import UNSTAMPED, Fingerprint
from longretriever_tf.retrieval.freeze import freeze
from longretriever_tf.retrieval.id_tables import IdTable, id_variable
from longretriever_tf.retrieval.index.exact import PackedIndex, Queries, SearchResult
from longretriever_tf.retrieval.interest_scores import by_eq3, by_learned_score, learned_scores
from longretriever_tf.retrieval.interests import ORIGINS, Interests, best_log_share, choose_interests, estimate_best
from longretriever_tf.retrieval.length_buckets import encode_by_length
from longretriever_tf.retrieval.merge_lists import Lists, Merged, can_merge_flat, merge_flat, merge_lists
from longretriever_tf.retrieval.own_correction import own_gains
from longretriever_tf.retrieval.request_options import (
    RequestOptions,
    check_history,
    read_request_options,
    unknown_names,
)
from longretriever_tf.retrieval.requests import Histories, Requests, Subsequences


class MultiContextRetriever(tf.Module):
    """Everything that answers a request: vocabularies, towers, interest score, index.

    Args:
      config: the run's config; `retrieval` holds the defaults of a request.
      corpus: the corpus.
      retriever: trained towers.
      interest: trained interest score; None: popularity stands in for it.
      arrays: as of the cut: `item_stats` [V, 3], `category_stats` [C, 3], and `taste_rows`, what the history token
        reads, a table per fold, [K, V, D]; D = 0 where the tower has none. Optional: `score_weights` [9],
        `item_takers` [V], `own_correction`.
      freezes: weights of the towers are constants of the graph; without, they are read as they are, see `renew`.
      fingerprint: of the towers and the catalogue; the model refuses variables that do not belong to its graph.
    """

    def __init__(
        self,
        config: Config,
        corpus: Corpus,
        retriever: LongRetriever,
        interest: InterestModel | None,
        arrays: Mapping[str, np.ndarray],
        fingerprint: Fingerprint = UNSTAMPED,
        freezes: bool = True,
    ) -> None:
        super().__init__(name="multi_context_retriever")
        self.fingerprint = fingerprint
        stored = [fingerprint.towers, fingerprint.items]
        self.stored_fingerprint = tf.Variable(stored, trainable=False, name="fingerprint")
        self._config, self._num_categories = config, corpus.num_categories
        self.item_id_dtype = tf.string if is_text(corpus.item_id) else tf.int64
        # A signature asks for what the towers read, no more.
        self.profile_names = profile_inputs(corpus.profile_values, config.model.profile)
        self.event_names = list(corpus.event_values)
        # What grows with items or users is a variable: constants of the graph end at a protobuf's 2 GB.
        self._item_id = id_variable(as_raw_ids(corpus.item_id), "item_id")
        profile_values = [*corpus.profile_values.values()][: len(self.profile_names)] + [*corpus.event_values.values()]
        self._vocabularies = [id_variable(names, "names") for names in (corpus.category_name, *profile_values)]
        self._item_index = IdTable(self._item_id)
        self._category_index, *self._profile_index = map(IdTable, self._vocabularies)
        self.category_name = tf.constant(as_text(corpus.category_name))
        self._item_category = tf.Variable(corpus.item_category, trainable=False, name="item_category")
        self._item_key = tf.Variable(item_keys(corpus.item_id), trainable=False, name="item_key")
        self._category_size = tf.constant(corpus.category_size, tf.float32)
        self._num_offered = corpus.num_offered
        self._largest = int(np.diff(corpus.category_offset).max(initial=1))
        self._has_items = tf.constant(np.diff(corpus.category_offset) > 0)
        self._item_stats = tf.Variable(arrays["item_stats"][None], trainable=False, name="item_stats")
        self._category_stats = tf.constant(arrays["category_stats"][None])
        self._user_tower = freeze(retriever.user_tower) if freezes else retriever.user_tower
        self._interest = freeze(interest) if freezes and interest is not None else interest
        history_embedding_rows = arrays["taste_rows"]
        self._num_folds, num_items, dim = history_embedding_rows.shape
        # Histories read a thousand of these rows each, from all over memory: half as wide, they are read in half the
        # time.
        halved = tf.cast(history_embedding_rows.reshape(self._num_folds * num_items, dim), tf.bfloat16)
        self._history_embedding_rows = tf.Variable(halved, trainable=False, name="taste_rows") if dim else None
        self._weights = weights_of(arrays.get("score_weights"))
        self._item_takers = arrays.get("item_takers")
        vectors, weighed, bias = self._embed_items(retriever, corpus, arrays["item_stats"])
        # Two copies on purpose: one is gathered (tokens), one is read densely by the index; sharing one variable would
        # make each dense read copy it.
        self._token_vectors = tf.Variable(vectors, trainable=False, name="token_vectors")
        self.own_correction = correction_of(arrays.get("own_correction"))
        self.index = PackedIndex(weighed, bias, corpus.category_offset)
        self._best_share = tf.constant(best_log_share(bias, corpus.category_offset))
        self.actions = ActionTable(config.data, corpus.action_name) if len(corpus.action_name) else None
        self.bounds = bounds_of(config.retrieval, corpus.num_categories, self.index.widest_together(), corpus.cut)

    def _embed_items(
        self, retriever: LongRetriever, corpus: Corpus, item_stats: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Vectors of items as tokens and in the index, [V, D] each, and their biases there, [V]."""
        vectors, bias = embed_corpus(retriever, corpus, item_stats)
        scaled = vectors / self._config.model.temperature
        return vectors, *weigh_items(self._weights, scaled, bias, item_stats, self._item_takers)

    def renew(self, retriever: LongRetriever, corpus: Corpus, item_stats: np.ndarray) -> None:
        """Embeds the items anew, after training has moved the towers that this module reads (`freezes=False`)."""
        vectors, weighed, bias = self._embed_items(retriever, corpus, item_stats)
        self._token_vectors.assign(vectors)
        self.index.item_vectors.assign(weighed)
        self.index.item_bias.assign(bias)
        self._best_share = tf.constant(best_log_share(bias, corpus.category_offset))

    def read(
        self,
        history_item_id: tf.Tensor,
        history_timestamp: tf.Tensor,
        history_weight: tf.Tensor,
        time: tf.Tensor,
        is_target: tf.Tensor | None = None,
    ) -> Histories:
        """What the raw columns of `look_up` say of each category, seen or not."""
        with tf.control_dependencies(check_history(history_item_id, history_timestamp, history_weight)):
            item_id, timestamp = tf.identity(history_item_id), tf.identity(history_timestamp)
            weight = tf.broadcast_to(history_weight, tf.shape(item_id))
        if is_target is not None:
            is_target = tf.broadcast_to(is_target, tf.shape(item_id))
        raw = RawHistories(item_id, timestamp, weight, time, is_target)
        visible = self._config.model.history_events
        item_category = self._item_category.read_value()
        histories = read_histories(raw, self._item_index.lookup, item_category, self._num_categories, visible)
        num, floor = tf.shape(time)[0], self._config.retrieval.day_floor
        fold = read_folds(histories.begun, self._item_key.read_value(), num, self._num_folds)
        categories = item_category, num, self._num_categories
        summary = summarise_history(
            histories.history, *categories, floor, histories.interacted, histories.item_ages(time)
        )
        stats = tf.broadcast_to(self._category_stats, [num, self._num_categories, self._category_stats.shape[2]])
        features = interest_features(summary, stats, self._category_size)
        return Histories(histories, fold, summary, category_bag(summary), features, stats)

    def look_up(
        self,
        history_item_id: tf.Tensor,
        history_timestamp: tf.Tensor,
        history_weight: tf.Tensor,
        time: tf.Tensor,
        profile: list[tf.Tensor],
        is_target: tf.Tensor | None = None,
    ) -> Requests:
        """Raw columns to everything that interests and towers read.

        Args:
          history_item_id: [B, T] raw ids; unknown ones (and padding, as any id the model does not know) are ignored.
          history_timestamp: [B, T] int64 seconds; 0 is padding.
          history_weight: weight of each event in eq. 3, [B, T] float32, or one for all, [1, 1].
          time: [B] int64 seconds; events at or after it are ignored.
          profile: a [B] string tensor for each of `profile_names`, then of `event_names`; others count as unknown.
          is_target: events of target actions, [B, T] bool, or one for all, [1, 1]; None: every event is.
        """
        histories = self.read(history_item_id, history_timestamp, history_weight, time, is_target)
        columns = [table.lookup(column) for table, column in zip(self._profile_index, profile, strict=True)]
        num_requests, summary = tf.shape(time)[0], histories.summary
        stacked = tf.stack(columns, 1) if columns else tf.zeros([num_requests, 0], tf.int32)
        embedding = tf.zeros([num_requests, 0])
        if self._history_embedding_rows is not None:
            rows, first_row = self._history_embedding_rows.read_value(), histories.fold * self._item_category.shape[0]
            embedding = embed_history_before(histories.histories.interacted, rows, first_row, num_requests)
        every, novel = learned_scores(self._interest, histories, embedding, self._weights)
        if self._config.retrieval.interest == "paper":
            interests = by_eq3(summary.score, summary.count > 0, every, novel)
        else:
            raised = self._config.retrieval.unseen_boost, self._config.retrieval.unseen_weight
            interests = by_learned_score(every, novel, summary.count > 0, histories.stats[:, :, 0], *raised)
        return Requests(
            histories=histories.histories,
            count=summary.count,
            time=time,
            profile=with_request_columns(self._config.model, stacked, time),
            activity=history_activity(summary),
            history_embedding=embedding,
            interests=interests,
        )

    def encode(self, requests: Requests, row: tf.Tensor, category: tf.Tensor) -> Subsequences:
        """Hard search and user tower for R (request, category) pairs, in one batch.

        Args:
          requests: B requests.
          row: request of each pair, [R] int32; no pair occurs twice.
          category: [R] int32.
        """
        segments = order_segments(requests.histories, row, category, tf.size(requests.count), self._num_categories)
        start = tf.maximum(segments.start, segments.stop - max_sliced(self._config.model))
        time = tf.gather(requests.time, row)
        is_target = segments.is_target if tells_targets(segments.is_target) else None
        events = hard_search.slice_events(
            segments.item, segments.timestamp, segments.weight, start, segments.stop, time, is_target
        )
        num_before, stats_row = segments.stop - segments.start, tf.zeros_like(row)
        activity = tf.gather(requests.activity, row)
        tokens = make_tokens(self._config.model, events, num_before, self._item_stats, stats_row, activity)

        def run_tower(some: hard_search.Tokens, pairs: tf.Tensor) -> UserState:
            vectors, request = tf.gather(self._token_vectors, some.item), tf.gather(row, pairs)
            inputs = UserInputs(
                vectors,
                some.item > 0,
                some.features,
                tf.gather(category, pairs),
                tf.gather(requests.profile, request),
                tf.gather(requests.history_embedding, request),
            )
            return self._user_tower(inputs)

        state = encode_by_length(run_tower, tokens, self._config.model.dim)
        if self._config.model.repeat_term:
            state = weigh_repeats(self._weights, state, tokens)
        return Subsequences(row, category, segments, tokens, state)

    def trace_look_up(self, tells: bool) -> tf.types.experimental.ConcreteFunction:
        """`look_up` as a graph; `tells`: with the column `is_target`, which is an argument of the graph only then."""
        table, column = [None, None], tf.TensorSpec([None], tf.int64)
        columns = [tf.TensorSpec(table, kind) for kind in (self.item_id_dtype, tf.int64, tf.float32)]
        profile = [tf.TensorSpec([None], tf.string) for _ in self._profile_index]
        signature = [*columns, column, profile, *([tf.TensorSpec(table, tf.bool)] if tells else [])]
        return graph_function(lambda *given: self.look_up(*given), input_signature=signature).get_concrete_function()

    def search(self, queries: Queries, options: RequestOptions) -> SearchResult:
        """The best items of each query's category: as many as the longest list asked for, or as the largest holds."""
        return self.index.search(queries, tf.minimum(tf.reduce_max(options.k), self._largest))

    def queries(self, pairs: Subsequences, options: RequestOptions, share: tf.Tensor | None = None) -> Queries:
        """What an index is asked for these pairs; for a merge by `share` [B, C], own items are corrected."""
        item_category = self._item_category.read_value()
        row, item = find_exclusions(pairs, options, item_category, self._num_categories, self._num_offered)
        # Retired items are read as history, but no index holds them: they are padding there.
        tokens = tf.where(pairs.tokens.item < self._num_offered, pairs.tokens.item, schema.PADDING)
        correction = None if share is None else self.own_correction
        own = () if correction is None else own_gains(correction, pairs, share, options)
        return Queries(pairs.state.embedding, pairs.category, tokens, pairs.state.repeat_logit, row, item, *own)

    def choose(self, requests: Requests, options: RequestOptions) -> Interests:
        """The interests of each request; see `interests.choose_interests`."""
        seen = requests.count > 0
        scores = requests.interests
        best = estimate_best(self.log_share(requests, options), self._best_share, seen, options.is_novel)
        chosen = choose_interests(scores.drawn_by, best, scores.affinity, scores.is_interest, seen, options)
        # Who has no history is shown what everyone likes, and the answer says so.
        nobody = ~tf.reduce_any(seen, 1, keepdims=True) & (chosen.origin == ORIGINS.index("drawn"))
        return chosen._replace(origin=tf.where(nobody, ORIGINS.index("popular"), chosen.origin))

    def retrieve(self, requests: Requests, interests: Interests, options: RequestOptions) -> dict[str, tf.Tensor]:
        """Encodes, searches and merges.

        Args:
          requests: B requests.
          interests: the chosen ones, [B, N].
          options: k (the result is as wide as the largest), merge, exclusions.

        Returns:
          item_id [B, K], score, category [B, K] string, interest_rank [B, K] int32 (which interest brought it),
          num_valid [B] int32; rows are padded by 0, 0.0 and "".
        """
        where = tf.cast(tf.where(interests.is_real), tf.int32)
        pairs = self.encode(requests, where[:, 0], tf.gather_nd(interests.category, where))
        share = self.log_share(requests, options)
        queries = self.queries(pairs, options, share)

        def by_lists() -> Merged:
            result = self.search(queries, options)
            shape = tf.concat([tf.shape(interests.category), tf.shape(result.item)[1:]], 0)  # [B, N, W]
            lists = Lists(
                tf.scatter_nd(where, result.item, shape),
                tf.scatter_nd(where, result.logit, shape),
                tf.scatter_nd(where, result.log_partition, shape[:2]),
            )
            return merge_lists(lists, interests, share, options)

        def at_once() -> Merged:
            scores, first_item = self.index.score(queries), self.index.first_item(pairs.category)
            return merge_flat(scores, first_item, where, interests, share, options)

        # Most requests need no list of each interest.
        together = self.index.searches_together()
        merged = Merged(*tf.cond(can_merge_flat(options), at_once, by_lists)) if together else by_lists()
        rank = tf.gather(interests.rank, merged.interest, batch_dims=1)
        return {
            "item_id": tf.gather(self._item_id, merged.item),
            "score": merged.score,
            "category": tf.gather(self.category_name, tf.gather(self._item_category.read_value(), merged.item)),
            "interest_rank": tf.where(merged.is_real, rank, 0),
            "num_valid": tf.reduce_sum(tf.cast(merged.is_real, tf.int32), 1),
        }

    def retrieve_in_category(self, pairs: Subsequences, options: RequestOptions) -> dict[str, tf.Tensor]:
        """The list of one category for each of B requests.

        Args:
          pairs: one for each request.
          options: k, exclusions.

        Returns:
          item_id [B, K], score (log softmax within the category) [B, K], num_valid [B] int32.
        """
        result = self.search(self.queries(pairs, options), options)
        width = tf.reduce_max(options.k)  # of the answer, however small the category is
        pad = [[0, 0], [0, width - tf.shape(result.item)[1]]]
        item, score = tf.pad(result.item, pad), tf.pad(result.logit - result.log_partition[:, None], pad)
        real = (item >= schema.FIRST_KNOWN) & (tf.range(width)[None] < options.k[:, None])
        return {
            "item_id": self.ids_of(tf.where(real, item, 0)),
            "score": tf.where(real, score, 0.0),
            "num_valid": tf.reduce_sum(tf.cast(real, tf.int32), 1),
        }

    def log_share(self, requests: Requests, options: RequestOptions) -> tf.Tensor:
        """Log p(category | user) for each request's task, [B, C]."""
        scores = requests.interests
        return tf.where(options.is_novel[:, None], scores.log_share_novel, scores.log_share)

    def under(self, retrieval: RetrievalConfig) -> "MultiContextRetriever":
        """The same models, tables and index under other defaults of requests."""
        other = copy.copy(self)
        other._config = dataclasses.replace(self._config, retrieval=retrieval)
        return other

    @property
    def is_strict(self) -> bool:
        """Whether requests that name what the model does not know fail."""
        return self._config.retrieval.strict

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
