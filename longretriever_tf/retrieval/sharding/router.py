"""The router: everything of a request but the search. It tells what each shard must be asked, and how lists weigh.

Its `serving_default`, `top_k` and `retrieve_in_category` take what those of one export take; in place of lists they
answer with queries, which `longretriever_tf.serving.fan_out` hands to the shards. All others answer as they do in one
export.
"""

import numpy as np
import tensorflow as tf

from longretriever_tf.common import schema
from longretriever_tf.retrieval.index.exact import PackedIndex
from longretriever_tf.retrieval.interests import Interests
from longretriever_tf.retrieval.merge import MERGES
from longretriever_tf.retrieval.merge_lists import weigh_interests
from longretriever_tf.retrieval.multi_context import MultiContextRetriever
from longretriever_tf.retrieval.request_options import RequestOptions
from longretriever_tf.retrieval.requests import Requests, Subsequences
from longretriever_tf.retrieval.sharding.ranges import ShardLayout


class ItemRows(tf.Module):
    """Vectors and biases of single items, without an index: what the signature `item_embeddings` needs.

    Args:
      vectors: variable, [V, D], not divided by the temperature; it is shared with the tokens.
      bias: [V] float32.
      temperature: what an index divides vectors by.
    """

    def __init__(self, vectors: tf.Variable, bias: np.ndarray, temperature: float) -> None:
        super().__init__(name="item_rows")
        self._vectors, self._temperature = vectors, temperature
        self._bias = tf.Variable(bias, trainable=False, name="item_bias")

    def rows(self, item: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Vectors [n, D] and biases [n] of some rows, as `PackedIndex.rows`."""
        return tf.gather(self._vectors, item) / self._temperature, tf.gather(self._bias, item)


class Router(MultiContextRetriever):
    """A `MultiContextRetriever` whose index lies in other processes, once it has given it away.

    Attributes:
      layout: which shard gets what; to be set before any signature is made.
    """

    layout: ShardLayout

    def give_index_away(self) -> PackedIndex:
        """The index of all items, which this one no longer holds."""
        index = self.index
        self.index = ItemRows(self._token_vectors, index.item_bias.numpy(), self._config.model.temperature)
        return index

    def retrieve(self, requests: Requests, interests: Interests, options: RequestOptions) -> dict[str, tf.Tensor]:
        """Encodes, and says what to ask and how to merge.

        Args:
          requests: B requests.
          interests: the chosen ones, [B, N].
          options: k, merge, exclusions.

        Returns:
          `_ask`'s, a query for each of R interests; query_interest [R] int32, its position among the N; log_interest
          and quota [B, N] float32, of `weigh_interests`; k [B] int32; merge [B] string.
        """
        where = tf.cast(tf.where(interests.is_real), tf.int32)
        category = tf.gather_nd(interests.category, where)
        share = self.log_share(requests, options)
        asked = self._ask(self.encode(requests, where[:, 0], category), options, share)
        log_interest, quota = weigh_interests(interests, share, options)
        merge = tf.gather(tf.constant(list(MERGES)), options.merge)
        weights = {"log_interest": log_interest, "quota": quota, "merge": merge}
        return asked | weights | {"query_interest": where[:, 1]}

    def retrieve_in_category(self, pairs: Subsequences, options: RequestOptions) -> dict[str, tf.Tensor]:
        """A query for each of the B pairs; see `_ask`."""
        return self._ask(pairs, options)

    def _ask(
        self, pairs: Subsequences, options: RequestOptions, share: tf.Tensor | None = None
    ) -> dict[str, tf.Tensor]:
        """R queries, for a merge by `share` [B, C] or each by itself.

        Returns:
          query_shard [R] int32 (-1: no shard, the category is unknown), query_request [R] int32, query_category [R]
          int32, query_embedding [R, D] float32, query_token_item [R, L] int32, query_repeat_logit [R, L] float32,
          query_excluded_item [R, E] int32 (0: padding); k [B] int32; shards_export [1] string; num_shards [1]
          int32; padding_item_id [1], what pads lists of ids. Where own items are corrected: query_own_gain [R, L] and
          query_own_slope [R] float32 (`index.exact.Queries`).
        """
        queries, own = self.queries(pairs, options, share), {}
        if self.own_correction is not None:  # a query by itself gains nothing
            gain, slope = queries.own_gain, queries.own_slope
            own["query_own_gain"] = tf.zeros_like(queries.repeat_logit) if gain is None else gain
            own["query_own_slope"] = tf.zeros(tf.shape(queries.category)) if slope is None else slope
        by_row = tf.argsort(queries.excluded_row, stable=True)
        item, row = (tf.gather(part, by_row) for part in (queries.excluded_item, queries.excluded_row))
        excluded = tf.RaggedTensor.from_value_rowids(item, row, tf.size(pairs.row), validate=False)
        return {
            "query_shard": tf.gather(tf.constant(self.layout.shard_of_category()), queries.category),
            "query_request": pairs.row,
            "query_category": queries.category,
            "query_embedding": queries.embedding,
            "query_token_item": queries.token_item,
            "query_repeat_logit": queries.repeat_logit,
            "query_excluded_item": excluded.to_tensor(0),
            "k": options.k,
            "shards_export": tf.constant([self.layout.export]),
            "padding_item_id": self.ids_of(tf.constant([schema.PADDING])),
            "num_shards": tf.constant([len(self.layout.ranges)]),
            **own,
        }
