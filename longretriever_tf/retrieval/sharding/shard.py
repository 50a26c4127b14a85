"""A shard: the index of a range of categories, asked by whoever has a router's queries."""

import numpy as np
import tensorflow as tf

from longretriever_tf.common import schema
from longretriever_tf.common.graph import graph_function
from longretriever_tf.common.text import as_raw_ids
from longretriever_tf.retrieval.admission import require
from longretriever_tf.retrieval.id_tables import id_variable
from longretriever_tf.retrieval.index.exact import PackedIndex, Queries
from longretriever_tf.retrieval.sharding.ranges import ShardLayout


class IndexShard(tf.Module):
    """The items of a range of categories, searched as in one export.

    Args:
      index: of all items.
      item_id: raw ids of all items, [V].
      layout: of the export.
      number: of this shard.
      max_k: longest list.
      corrects_own: whether queries carry a correction of own items.
    """

    def __init__(
        self,
        index: PackedIndex,
        item_id: np.ndarray,
        layout: ShardLayout,
        number: int,
        max_k: int,
        corrects_own: bool = False,
    ) -> None:
        super().__init__(name="index_shard")
        own = layout.ranges[number]
        offset = index.category_offset
        self._low, self._max_k, self.corrects_own = int(offset[own.first_category]), max_k, corrects_own
        self._first, self._stop = own.first_category, own.stop_category
        self._export, self._name_of_shard = layout.export, f"shard {number} of {len(layout.ranges)}"
        self.index = index.part(own.first_category, own.stop_category)
        self._largest = int(np.diff(offset[self._first : self._stop + 1]).max(initial=1))
        ids = np.concatenate([item_id[: schema.FIRST_KNOWN], item_id[self._low : int(offset[own.stop_category])]])
        self._item_id = id_variable(as_raw_ids(ids), "item_id")
        # Once more among the variables: files of two exports that were mixed up refuse their warm-up request.
        self._stored_export = tf.Variable(layout.export, trainable=False, name="export")

    def signature(self) -> tf.types.experimental.GenericFunction:
        """`search`: R queries, an item's list for each.

        Inputs: expected [1] string, the export that the queries come from; k [1] int32; category [R] int32;
        embedding [R, D]; token_item, repeat_logit [R, L]; excluded_item [R, E] int32; where own items are corrected,
        own_gain [R, L] and own_slope [R]. Items are indices of the whole export. Outputs: item_id [R, W] raw ids, logit
        [R, W], log_partition [R], num_valid [R] int32.

        Fails with InvalidArgument where the queries come from another export, or are another shard's.
        """
        dim = self.index.item_vectors.shape[1]
        inputs = {
            "expected": tf.TensorSpec([None], tf.string),
            "k": tf.TensorSpec([None], tf.int32),
            "category": tf.TensorSpec([None], tf.int32),
            "embedding": tf.TensorSpec([None, dim], tf.float32),
            "token_item": tf.TensorSpec([None, None], tf.int32),
            "repeat_logit": tf.TensorSpec([None, None], tf.float32),
            "excluded_item": tf.TensorSpec([None, None], tf.int32),
        }
        if self.corrects_own:
            inputs |= {
                "own_gain": tf.TensorSpec([None, None], tf.float32),
                "own_slope": tf.TensorSpec([None], tf.float32),
            }
        specs = [tf.TensorSpec(spec.shape, spec.dtype, name) for name, spec in inputs.items()]
        return graph_function(self._search, input_signature=specs)

    def _search(  # noqa: PLR0913 - the inputs of a signature
        self,
        expected: tf.Tensor,
        k: tf.Tensor,
        category: tf.Tensor,
        embedding: tf.Tensor,
        token_item: tf.Tensor,
        repeat_logit: tf.Tensor,
        excluded_item: tf.Tensor,
        own_gain: tf.Tensor | None = None,
        own_slope: tf.Tensor | None = None,
    ) -> dict[str, tf.Tensor]:
        with tf.control_dependencies(self._admit(expected, k, category)):
            category, k = tf.identity(category), tf.clip_by_value(tf.reduce_max(k), 1, self._largest)
        excluded = tf.where(excluded_item > 0)
        queries = Queries(
            embedding,
            category,
            self._own_row(token_item),
            repeat_logit,
            tf.cast(excluded[:, 0], tf.int32),
            self._own_row(tf.gather_nd(excluded_item, excluded)),
            own_gain,
            own_slope,
        )
        result = self.index.search(queries, k)
        return {
            "item_id": tf.gather(self._item_id, result.item),
            "logit": result.logit,
            "log_partition": result.log_partition,
            "num_valid": tf.reduce_sum(tf.cast(result.item >= schema.FIRST_KNOWN, tf.int32), 1),
        }

    def _own_row(self, item: tf.Tensor) -> tf.Tensor:
        """Rows of this shard's tables, which begin with the placeholders."""
        return tf.where(item > 0, item - self._low + schema.FIRST_KNOWN, schema.PADDING)

    def _admit(self, expected: tf.Tensor, k: tf.Tensor, category: tf.Tensor) -> list[tf.Operation]:
        stored = self._stored_export.read_value()
        whole = stored == tf.constant(self._export)
        is_own = tf.reduce_all((category >= self._first) & (category < self._stop))
        return [
            *require(whole, "the variables are not those of this saved_model.pb: exports", stored, self._export),
            *require(
                tf.reduce_all(expected == stored),
                f"{self._name_of_shard} belongs to the export",
                *(stored, ", and the router's queries come from", expected),
                ": router and shards of two exports are mixed; publish both from one export",
            ),
            *require(
                is_own,
                f"{self._name_of_shard} holds the categories {self._first} to {self._stop - 1}; asked for",
                *(category, ": the shards file names the shards in another order"),
            ),
            *require(tf.reduce_max(k) <= self._max_k, f"`k` must be at most {self._max_k} (export --max_k); got", k),
        ]
