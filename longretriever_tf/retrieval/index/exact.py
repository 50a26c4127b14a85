"""The `packed` index: all item vectors in one matrix sorted by category; exact search of a slice; no custom op."""

from typing import NamedTuple

import numpy as np
import tensorflow as tf

from longretriever_tf.common import schema
from longretriever_tf.common.graph import graph_function
from longretriever_tf.data.search.hard_search import flat_ranges
from longretriever_tf.models.logit_terms import add_repeat_logits

_MAX_WIDTH = 1 << 14
"""Wider categories are searched one by one: the logits of all queries side by side would take too much memory."""

_PER_TURN = 8
"""Categories that a turn of the loop over them takes: a turn costs a request as much as two small products."""

_ALWAYS_TOGETHER = 1 << 11
"""Categories up to this size are searched together, however small the others are."""


class SearchResult(NamedTuple):
    """The best items of each request in its category, best first, padded to K.

    Attributes:
      item: item index, [R, K] int32, 0 where padded.
      logit: repeat logits and own gains included, [R, K] float32, 0 where padded.
      log_partition: log of the category's summed exponentials, before own gains, [R] float32: without these,
        logit - log_partition is a log softmax.
    """

    item: tf.Tensor
    logit: tf.Tensor
    log_partition: tf.Tensor


class FlatScores(NamedTuple):
    """Scores of all items of R queries' categories, one block of items for each query, blocks by category.

    Attributes:
      order: query of each block, [R] int32.
      block: of each item, [n] int32.
      start: where each block begins, [R] int32.
      size: items of each block, [R] int32.
      logit: repeat logits and own gains included, the dtype's minimum where an item is left out, [n] float32.
      log_partition: log of each block's summed exponentials, before own gains, [R] float32.
    """

    order: tf.Tensor
    block: tf.Tensor
    start: tf.Tensor
    size: tf.Tensor
    logit: tf.Tensor
    log_partition: tf.Tensor


class Queries(NamedTuple):
    """What is asked of an index: R user vectors, each of one category.

    Attributes:
      embedding: e_u(c), [R, D].
      category: [R] int32.
      token_item: items of the subsequence, all of that category, [R, L] int32, 0 where padded.
      repeat_logit: what each of them gains (the repeat term), [R, L] float32.
      excluded_row: query of each excluded item, [X] int32.
      excluded_item: item index, of the query's own category, [X] int32.
      own_gain, own_slope: a correction of the tokens' items that comes after the softmax, [R, L] and [R] float32: the
        logit gains `own_gain + own_slope * (logit - log_partition)`; None for none.
    """

    embedding: tf.Tensor
    category: tf.Tensor
    token_item: tf.Tensor
    repeat_logit: tf.Tensor
    excluded_row: tf.Tensor
    excluded_item: tf.Tensor
    own_gain: tf.Tensor | None = None
    own_slope: tf.Tensor | None = None


class OneCategory(NamedTuple):
    """The queries of one category, r of them, and where its items lie.

    Attributes:
      category: scalar int32.
      low, high: it owns the items `low:high`, scalars int32.
      embedding, token_item, repeat_logit, excluded_row, excluded_item, own_gain, own_slope: as in `Queries`.
    """

    category: tf.Tensor
    low: tf.Tensor
    high: tf.Tensor
    embedding: tf.Tensor
    token_item: tf.Tensor
    repeat_logit: tf.Tensor
    excluded_row: tf.Tensor
    excluded_item: tf.Tensor
    own_gain: tf.Tensor | None = None
    own_slope: tf.Tensor | None = None


class PackedIndex(tf.Module):
    """Exact search of one category's slice.

    Args:
      item_vectors: [V, D] float32, divided by the temperature.
      item_bias: [V] float32.
      category_offset: category c owns rows `category_offset[c]:category_offset[c + 1]`, [C + 1].
    """

    def __init__(self, item_vectors: np.ndarray, item_bias: np.ndarray, category_offset: np.ndarray) -> None:
        super().__init__(name="category_index")
        width = tf.TensorSpec([None, item_vectors.shape[1]], tf.float32)
        signature = [width, tf.TensorSpec([None], tf.int32), tf.TensorSpec([], tf.int32)]
        self.ask = graph_function(self._ask, input_signature=signature)
        self.item_vectors = tf.Variable(item_vectors, trainable=False, name="item_vectors")
        self.item_bias = tf.Variable(item_bias, trainable=False, name="item_bias")
        self._offset = tf.constant(category_offset, tf.int32)

    @property
    def category_offset(self) -> np.ndarray:
        """Category c owns rows `category_offset[c]:category_offset[c + 1]`, [C + 1] int32."""
        return self._offset.numpy()

    def part(self, first_category: int, stop_category: int) -> "PackedIndex":
        """The index of some categories alone, behind the two placeholders; categories keep their numbers."""
        return PackedIndex(*self._part(first_category, stop_category))

    def _part(self, first_category: int, stop_category: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Vectors, biases and offsets of `part`."""
        offset = self.category_offset
        low, high = offset[[first_category, stop_category]]
        own = np.clip(offset, low, high) - low + schema.FIRST_KNOWN
        own[: schema.FIRST_KNOWN] = np.arange(schema.FIRST_KNOWN)  # category i of the placeholders owns row i
        rows = [slice(0, schema.FIRST_KNOWN), slice(low, high)]
        vectors, bias = self.item_vectors.numpy(), self.item_bias.numpy()
        return *(np.concatenate([array[one] for one in rows]) for array in (vectors, bias)), own

    def first_item(self, category: tf.Tensor) -> tf.Tensor:
        """The first item of some categories, [n] int32."""
        return tf.gather(self._offset, category)

    def rows(self, item: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Vectors [n, D] and biases [n] of some rows."""
        return tf.gather(self.item_vectors.read_value(), item), tf.gather(self.item_bias.read_value(), item)

    def _ask(self, embedding: tf.Tensor, category: tf.Tensor, k: tf.Tensor) -> SearchResult:
        """`search` without repeat logits and exclusions, saved with the index as `ask`: checks and warm-up call it."""
        num, nothing = tf.shape(embedding)[0], tf.zeros([0], tf.int32)
        tokens, repeat_logit = tf.zeros([num, 1], tf.int32), tf.zeros([num, 1])
        return self.search(Queries(embedding, category, tokens, repeat_logit, nothing, nothing), k)

    def search(self, queries: Queries, k: tf.Tensor) -> SearchResult:
        """The k best items of each query's category, repeat logits included.

        Args:
          queries: R of them.
          k: K, scalar int32.
        """
        is_alone = self._searched_alone()
        if not is_alone.any():
            return self._search_together(queries, k)
        alone = tf.gather(is_alone, queries.category)
        rows = [tf.where(mine)[:, 0] for mine in (~alone, alone)]
        parts = self._search_together(_take(queries, rows[0]), k), self._search_alone(_take(queries, rows[1]), k)
        back = tf.math.invert_permutation(tf.concat(rows, 0))
        return SearchResult(*(tf.gather(tf.concat(pair, 0), back) for pair in zip(*parts, strict=True)))

    def searches_together(self) -> bool:
        """Whether `score` may be asked: no category is so wide, or searched in such a way, that it stands alone."""
        return not self._searched_alone().any()

    def score(self, queries: Queries) -> FlatScores:
        """All items of each query's category, for a merge that needs no list of each: one pass, nothing padded.

        Args:
          queries: R of them; every category holds an item.
        """
        logit, order, size = self._multiply(queries.embedding, queries.category)
        start, block_of = tf.cumsum(size, exclusive=True), tf.math.invert_permutation(order)
        # The first item of a query's category lies where its block begins.
        base = tf.gather(start, block_of) - tf.gather(self._offset, queries.category)
        tokens = tf.where(queries.token_item > 0)
        own_at = tf.gather(base, tokens[:, 0]) + tf.gather_nd(queries.token_item, tokens)
        logit = tf.tensor_scatter_nd_add(logit, own_at[:, None], tf.gather_nd(queries.repeat_logit, tokens))
        at = tf.gather(base, queries.excluded_row) + queries.excluded_item
        logit = tf.tensor_scatter_nd_min(logit, at[:, None], tf.fill(tf.shape(at), logit.dtype.min))
        block, _ = flat_ranges(start, start + size)
        largest = tf.math.segment_max(logit, block)
        total = tf.math.segment_sum(tf.exp(logit - tf.gather(largest, block)), block)
        partition = tf.math.log(total) + largest
        if queries.own_gain is not None and queries.own_slope is not None:
            of_token = tf.gather(tf.gather(partition, block_of), tokens[:, 0])
            slope, own = tf.gather(queries.own_slope, tokens[:, 0]), tf.gather(logit, own_at)
            gain = own_correction(own, of_token, tf.gather_nd(queries.own_gain, tokens), slope)
            logit = tf.tensor_scatter_nd_add(logit, own_at[:, None], gain)
        return FlatScores(order, block, start, size, logit, partition)

    def widest_together(self) -> int:
        """Items of the largest category whose logits share an array with those of others."""
        return int(np.diff(self.category_offset)[~self._searched_alone()].max(initial=1))

    def _searched_alone(self) -> np.ndarray:
        """Categories whose logits share no array with those of others, [C] bool; another kind of index adds its own."""
        size = np.diff(self.category_offset)
        # One wide category widens the rows of all: side by side lies at most some times what is asked.
        even = 8 * int(size.sum()) // max(int(np.count_nonzero(size)), 1)
        return size > min(_MAX_WIDTH, max(_ALWAYS_TOGETHER, even))

    def _search_together(self, queries: Queries, k: tf.Tensor) -> SearchResult:
        """Exact search of all queries: what follows the products is done once for all, not once for each category."""
        low = tf.gather(self._offset, queries.category)
        return SearchResult(*take_best(self._score(queries.embedding, queries.category), low, queries, k))

    def _score(self, embedding: tf.Tensor, category: tf.Tensor) -> tf.Tensor:
        """Logits of each query's category, [R, D] and [R] -> [R, W]: as wide as the largest, the minimum beyond."""
        logit, order, size = self._multiply(embedding, category)
        table = tf.RaggedTensor.from_row_lengths(logit, size, validate=False).to_tensor(logit.dtype.min)
        return tf.ensure_shape(tf.gather(table, tf.math.invert_permutation(order)), [None, None])

    def _multiply(self, embedding: tf.Tensor, category: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """Logits of each query's category, [R, D] and [R]: one product per distinct category, over a slice not copied.

        Returns:
          Logits [n], a block for each query, by category; the query of each block, [R] int32; its items, [R] int32.
        """
        order = tf.argsort(category)
        embedding, category = tf.gather(embedding, order), tf.gather(category, order)
        sizes = tf.gather(self._offset, category + 1) - tf.gather(self._offset, category)
        distinct, _, count = tf.unique_with_counts(category)
        # Filled up with categories of no rows, to whole turns of the loop: one at least, since an empty array has no
        # shape to concatenate.
        num = tf.maximum(-(-tf.size(distinct) // _PER_TURN), 1)
        fill = [[0, num * _PER_TURN - tf.size(distinct)]]
        distinct, count = tf.pad(distinct, fill), tf.pad(count, fill)
        low, first, zero = tf.gather(self._offset, distinct), tf.cumsum(count, exclusive=True), tf.zeros_like(count)
        size = tf.gather(self._offset, distinct + 1) - low
        # Begin and size of each slice that a category takes, of the queries, the vectors, the biases: computed for all
        # at once, since within the loop each operation costs a request as much as a small product.
        slices = (first, zero), (count, zero - 1), (low, zero), (size, zero - 1), (zero, low), (zero + 1, size)
        cuts = tf.reshape(tf.stack([tf.stack(pair, 1) for pair in slices], 1), [num, 6 * _PER_TURN, 2])
        vectors, bias = self.item_vectors.read_value(), self.item_bias.read_value()[None]
        arrays = tf.TensorArray(tf.float32, num, infer_shape=False)

        def multiply(bounds: list[tf.Tensor]) -> tf.Tensor:
            mine, items, biases = map(tf.slice, (embedding, vectors, bias), bounds[::2], bounds[1::2])
            return tf.reshape(tf.matmul(mine, items, transpose_b=True) + biases, [-1])

        def turn(i: tf.Tensor, array: tf.TensorArray) -> tuple[tf.Tensor, tf.TensorArray]:
            bounds = tf.unstack(tf.gather(cuts, i))
            logits = [multiply(bounds[at : at + 6]) for at in range(0, len(bounds), 6)]
            return i + 1, array.write(i, tf.concat(logits, 0))

        array = tf.while_loop(lambda i, _: i < num, turn, (0, arrays), parallel_iterations=1)[1]
        return tf.ensure_shape(array.concat(), [None]), order, sizes

    def _search_alone(self, queries: Queries, k: tf.Tensor) -> SearchResult:
        """Category by category: those that are wide, and those that are not searched by products alone."""
        distinct, group = tf.unique(queries.category)
        vectors, bias = self.item_vectors.read_value(), self.item_bias.read_value()
        num, distinct = tf.maximum(tf.size(distinct), 1), tf.concat([distinct, [0]], 0)  # as in `_score`
        arrays = [tf.TensorArray(kind, num, infer_shape=False) for kind in (tf.int64, tf.int32, tf.float32, tf.float32)]

        def one(i: tf.Tensor, *written: tf.TensorArray) -> tuple:
            rows, category = tf.where(group == i)[:, 0], distinct[i]
            bounds = {"low": self._offset[category], "high": self._offset[category + 1]}
            asked = OneCategory(**_take(queries, rows)._asdict() | bounds | {"category": category})
            parts = rows, *self._best(asked, vectors, bias, k)
            return i + 1, *(array.write(i, part) for array, part in zip(written, parts, strict=True))

        arrays = tf.while_loop(lambda i, *_: i < num, one, (0, *arrays), parallel_iterations=1)[1:]
        rows, item, logit, partition = (array.concat() for array in arrays)
        back = tf.math.invert_permutation(rows)
        item, logit = (tf.ensure_shape(tf.gather(part, back), [None, None]) for part in (item, logit))
        return SearchResult(item, logit, tf.gather(partition, back))

    def _best(
        self, asked: OneCategory, vectors: tf.Tensor, bias: tf.Tensor, k: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """Items [r, K], logits [r, K] and log-partitions [r] of one category; another kind of index puts its own."""
        return search_exactly(asked, vectors, bias, k)


def search_exactly(
    asked: OneCategory, vectors: tf.Tensor, bias: tf.Tensor, k: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Scores the whole slice: items [r, K], logits [r, K], log-partitions [r].

    Args:
      asked: r queries of one category.
      vectors: [V, D].
      bias: [V].
      k: K, scalar int32.
    """
    low, high = asked.low, asked.high
    logits = tf.matmul(asked.embedding, vectors[low:high], transpose_b=True) + bias[low:high]  # [r, n]
    return take_best(logits, low[None], asked, k)


def take_best(
    logits: tf.Tensor, low: tf.Tensor, queries: Queries | OneCategory, k: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Repeat logits and exclusions, then the best: items [R, K], logits [R, K], log-partitions [R].

    Args:
      logits: of each query's category, its first item in column 0, [R, W]; the dtype's minimum beyond its last.
      low: that first item, [R] int32, or one for all, [1].
      queries: R of them.
      k: K, scalar int32.
    """
    logits = add_repeat_logits(logits, queries.repeat_logit, queries.token_item > 0, queries.token_item - low[:, None])
    excluded_low = tf.gather(tf.broadcast_to(low, tf.shape(logits)[:1]), queries.excluded_row)
    at = tf.stack([queries.excluded_row, queries.excluded_item - excluded_low], 1)
    logits = tf.tensor_scatter_nd_min(logits, at, tf.fill([tf.shape(at)[0]], logits.dtype.min))
    if queries.own_gain is not None and queries.own_slope is not None:
        partition = _log_partition(logits, tf.reduce_max(logits, 1))
        tokens = tf.where(queries.token_item > 0)
        of_token, slope = (tf.gather(part, tokens[:, 0]) for part in (partition, queries.own_slope))
        column = tf.cast(tf.gather_nd(queries.token_item - low[:, None], tokens), tokens.dtype)
        at = tf.stack([tokens[:, 0], column], 1)
        gain = own_correction(tf.gather_nd(logits, at), of_token, tf.gather_nd(queries.own_gain, tokens), slope)
        logits = tf.tensor_scatter_nd_add(logits, at, gain)
        best, at = tf.math.top_k(logits, tf.minimum(k, tf.shape(logits)[1]))
    else:
        best, at = tf.math.top_k(logits, tf.minimum(k, tf.shape(logits)[1]))
        # The largest of the few best; a log-sum-exp would look through all once more.
        partition = _log_partition(logits, tf.reduce_max(best, 1))
    return *pad_best(at + low[:, None], best, k), partition


def own_correction(logit: tf.Tensor, log_partition: tf.Tensor, gain: tf.Tensor, slope: tf.Tensor) -> tf.Tensor:
    """What the logits of own items gain after the softmax, of one shape all; 0 where an item is left out."""
    return tf.where(logit > logit.dtype.min, gain + slope * (logit - log_partition), 0.0)


def _log_partition(logits: tf.Tensor, largest: tf.Tensor) -> tf.Tensor:
    """Log of the summed exponentials of each row, [R, W] and the rows' largest [R] -> [R]."""
    return tf.math.log(tf.reduce_sum(tf.exp(logits - largest[:, None]), 1)) + largest


def _take(queries: Queries, rows: tf.Tensor) -> Queries:
    """Some of the queries, `rows` [r] int64 ascending, with what they exclude."""
    new_row = tf.tensor_scatter_nd_update(
        tf.fill(tf.shape(queries.category), -1), rows[:, None], tf.range(tf.size(rows))
    )
    row = tf.gather(new_row, queries.excluded_row)
    kept = tf.where(row >= 0)[:, 0]
    of_rows = [tf.gather(part, rows) for part in queries[:4]]
    own = [None if part is None else tf.gather(part, rows) for part in (queries.own_gain, queries.own_slope)]
    return Queries._make([*of_rows, tf.gather(row, kept), tf.gather(queries.excluded_item, kept), *own])


def pad_best(item: tf.Tensor, logit: tf.Tensor, k: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Brings lists to the width K, 0 where there is nothing: items [r, K] int32, logits [r, K].

    Args:
      item: [r, n] int32, n at most K.
      logit: [r, n] float32; the dtype's minimum marks a candidate that was left out.
      k: K, scalar int32.
    """
    real, pad = logit > logit.dtype.min, [[0, 0], [0, k - tf.shape(logit)[1]]]
    return tf.pad(tf.where(real, item, 0), pad), tf.pad(tf.where(real, logit, 0.0), pad)
