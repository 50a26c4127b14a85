"""The `scann` index: a ScaNN searcher for some categories, exact search for the others.

Three rules keep many searchers in one SavedModel right and cheap:

- Every searcher has a shared name of its own. Exported without one, all take the name of their node, and a fresh
  process answers every category from a single searcher, silently.
- Searchers are found by number, in a table of serialised handles that is filled once, while the model loads. A request
  looks its handle up, so neither tracing nor a call depends on how many searchers there are, and the first
  request finds them built.
- Their assets are slices of a few variables, not nine variables each.
"""

import dataclasses
import uuid

import numpy as np
import tensorflow as tf

from longretriever_tf.retrieval.index.exact import OneCategory, PackedIndex, own_correction, pad_best, search_exactly
from longretriever_tf.retrieval.index.scann_ops import load_ops

TUNED_K = 100
"""Searchers are tuned for lists of this length; longer ones search proportionally more leaves."""

MIN_ITEMS = 16
"""Categories with fewer items hold no searcher: ScaNN's hashing needs 16 points."""

_DIMENSIONS_PER_BLOCK = 2
_ANISOTROPIC_THRESHOLD = 0.2


@dataclasses.dataclass(frozen=True)
class SearchParameters:
    """How much of a searcher a request looks at.

    Attributes:
      leaves: of the tree, 0 where all items are scored without one.
      leaves_to_search: at most `leaves`.
      reorder: candidates whose exact inner product is taken.
    """

    leaves: int
    leaves_to_search: int
    reorder: int


@dataclasses.dataclass(frozen=True)
class Searcher:
    """What a searcher is made of, besides its vectors.

    Attributes:
      category: index.
      effort: as tuned.
      strings: its config, partitioner and codebook, serialised, [3].
      leaf_of_item: [n] int32, or a scalar where there is no tree.
      hashed: [n, blocks] uint8, or a scalar.
      sample_item: items drawn for the log-partition, by position within the category, [m] int32.
      sample_log_weight: log of one over the expected number of draws of each, [m] float32.
    """

    category: int
    effort: SearchParameters
    strings: np.ndarray
    leaf_of_item: np.ndarray
    hashed: np.ndarray
    sample_item: np.ndarray
    sample_log_weight: np.ndarray


def build_handle(vectors: np.ndarray, effort: SearchParameters) -> tf.Tensor:
    """Trains a searcher of inner products, [n, D] float32 -> resource handle. A few seconds per 100,000 items."""
    ops = load_ops()
    builder = ops.builder(vectors, min(TUNED_K, len(vectors)), "dot_product")
    if not effort.leaves:
        return builder.score_brute_force().build().searcher_handle
    builder = builder.tree(effort.leaves, effort.leaves_to_search, training_sample_size=100_000)
    builder = builder.score_ah(_DIMENSIONS_PER_BLOCK, anisotropic_quantization_threshold=_ANISOTROPIC_THRESHOLD)
    return builder.reorder(effort.reorder).build().searcher_handle


def take_apart(
    handle: tf.Tensor, category: int, effort: SearchParameters, sample_item: np.ndarray, sample_log_weight: np.ndarray
) -> Searcher:
    """A trained searcher as arrays."""
    config, partitioner, leaf_of_item, codebook, hashed, *_ = load_ops().scann_to_tensors(handle)
    strings = [tf.reshape(part, [-1]).numpy() for part in (config, partitioner, codebook)]
    return Searcher(
        category=category,
        effort=effort,
        strings=np.array([part[0] if len(part) else b"" for part in strings], object),
        leaf_of_item=leaf_of_item.numpy(),
        hashed=hashed.numpy(),
        sample_item=sample_item,
        sample_log_weight=sample_log_weight,
    )


def search_handle(
    handle: tf.Tensor, queries: tf.Tensor, k: tf.Tensor, leaves_to_search: tf.Tensor, reorder: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """Positions within the category [r, n] int32 and inner products [r, n], best first, n <= k.

    The position is -1 where a row came short.

    ScaNN calls the products distances, and marks what is missing by NaN with the position 0, which is a real item's.
    """
    position, score = load_ops().scann_search_batched(handle, queries, k, reorder, leaves_to_search, False)
    position, score = tf.ensure_shape(position, [None, None]), tf.ensure_shape(score, [None, None])
    real = tf.math.is_finite(score)
    return tf.where(real, position, -1), tf.where(real, score, score.dtype.min)


class SearcherTable(tf.saved_model.experimental.TrackableResource):
    """Searchers by number: a table of serialised handles, filled when the model is loaded.

    Args:
      searchers: S of them.
      category_offset: category c owns rows `category_offset[c]:category_offset[c + 1]`.
      item_vectors: variable, [V, D].
      item_bias: variable, [V].
      bias_scale: a query's last coordinate, against which the items' is divided.
    """

    def __init__(
        self,
        searchers: list[Searcher],
        category_offset: np.ndarray,
        item_vectors: tf.Variable,
        item_bias: tf.Variable,
        bias_scale: float,
    ) -> None:
        super().__init__(device="/CPU:0")
        self._name = f"searchers-{uuid.uuid4()}"
        self._vectors, self._bias, self._bias_scale = item_vectors, item_bias, bias_scale
        self._ranges = [category_offset[one.category : one.category + 2].tolist() for one in searchers]
        self._kinds = [(one.leaf_of_item.ndim > 0, one.hashed.ndim > 0) for one in searchers]
        with tf.device("/CPU:0"):
            self._strings = _variable(np.stack([one.strings for one in searchers]), "strings")
            self._leaf_of_item = _variable(_concat([one.leaf_of_item for one in searchers], 1), "leaf_of_item")
            self._hashed = _variable(_concat([one.hashed for one in searchers], 2), "hashed")

    @property
    def assets(self) -> list[tf.Variable]:
        """What the searchers are made of, besides the vectors: strings, leaf of each item, hashes."""
        return [self._strings, self._leaf_of_item, self._hashed]

    def handle(self, number: tf.Tensor) -> tf.Tensor:
        """The handle of one searcher; scalar int32 -> scalar resource."""
        stored = tf.raw_ops.LookupTableFindV2(
            table_handle=self.resource_handle, keys=tf.cast(number, tf.int64)[None], default_value=tf.constant("")
        )
        return tf.io.parse_tensor(stored[0], tf.resource)

    def shared_names(self) -> list[str]:
        """One name per searcher, like no other's in this or any other export."""
        return [f"{self._name}/{number}" for number in range(len(self._ranges))]

    def _create_resource(self) -> tf.Tensor:
        return tf.raw_ops.MutableHashTableV2(key_dtype=tf.int64, value_dtype=tf.string, shared_name=self._name)

    def _initialize(self) -> None:
        vectors, bias = self._vectors.read_value(), self._bias.read_value() / self._bias_scale
        strings, leaves, hashed = (one.read_value() for one in self.assets)
        handles, leaf_at, hash_at = [], 0, 0
        for number, name in enumerate(self.shared_names()):
            low, high = self._ranges[number]
            has_tree, has_hash = self._kinds[number]
            mine = tf.concat([vectors[low:high], bias[low:high, None]], 1)
            handle = load_ops().tensors_to_scann(
                mine,
                strings[number, :1],
                strings[number, 1:2] if has_tree else tf.constant(""),
                leaves[leaf_at : leaf_at + high - low] if has_tree else tf.constant(0),
                strings[number, 2:3] if has_hash else tf.constant(""),
                hashed[hash_at : hash_at + high - low] if has_hash else tf.constant(0, tf.uint8),
                tf.constant(0, tf.int8),
                tf.constant(0.0),
                tf.constant(0.0),
                shared_name=name,
            )
            leaf_at, hash_at = leaf_at + has_tree * (high - low), hash_at + has_hash * (high - low)
            handles.append(tf.io.serialize_tensor(handle))
        tf.raw_ops.LookupTableInsertV2(
            table_handle=self.resource_handle, keys=tf.range(len(handles), dtype=tf.int64), values=tf.stack(handles)
        )

    def destroy(self) -> None:
        """Frees the searchers' memory. Never of itself: `load(path).signatures` outlives the loaded object."""
        for number in range(len(self._ranges)):
            tf.raw_ops.DestroyResourceOp(resource=self.handle(tf.constant(number)), ignore_lookup_error=True)


@dataclasses.dataclass(frozen=True)
class _MadeOf:
    """What an index was made of, kept from what is saved: a tuple of its own would be taken for a part of the model."""

    searchers: tuple[Searcher, ...]


class ScannIndex(PackedIndex):
    """Searchers for some categories, exact search for the others, and wherever a searcher's list comes short.

    Args:
      packed: the same items, searched exactly.
      searchers: at least one.
      bias_scale: above 0; see `SearcherTable`.
    """

    def __init__(self, packed: PackedIndex, searchers: list[Searcher], bias_scale: float) -> None:
        offset = packed.category_offset
        super().__init__(packed.item_vectors.numpy(), packed.item_bias.numpy(), offset)
        self._bias_scale = bias_scale
        self._made_of = _MadeOf(tuple(searchers))
        number = np.full(len(offset) - 1, -1, np.int32)
        number[[one.category for one in searchers]] = np.arange(len(searchers))
        self._number = tf.constant(number)
        self._effort = tf.constant([dataclasses.astuple(one.effort) for one in searchers], tf.int32)  # [S, 3]
        width = max(len(one.sample_item) for one in searchers)
        unused = tf.float32.min / 2  # exp of it is 0, and adding a logit does not overflow
        self._sample_item = tf.constant([_widen(one.sample_item, width, 0) for one in searchers])
        self._sample_log_weight = tf.constant([_widen(one.sample_log_weight, width, unused) for one in searchers])
        self.searchers = SearcherTable(searchers, offset, self.item_vectors, self.item_bias, bias_scale)
        self._assets = self.searchers.assets  # a resource's own attributes are not saved; a module's are
        self.searchers._initialize()

    @tf.function(input_signature=[])
    def release(self) -> None:
        """Frees the searchers of a model that answers no more requests; saved with it, so a loaded one has it too."""
        self.searchers.destroy()

    def part(self, first_category: int, stop_category: int) -> PackedIndex:
        """As of any index; a part without searchers is searched exactly."""
        packed = super().part(first_category, stop_category)
        own = [one for one in self._made_of.searchers if first_category <= one.category < stop_category]
        return ScannIndex(packed, own, self._bias_scale) if own else packed

    def _searched_alone(self) -> np.ndarray:
        return super()._searched_alone() | (self._number.numpy() >= 0)

    def _best(
        self, asked: OneCategory, vectors: tf.Tensor, bias: tf.Tensor, k: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        number = tf.gather(self._number, asked.category)
        return tf.cond(
            number >= 0,
            lambda: self._approximately(asked, number, vectors, bias, k),
            lambda: search_exactly(asked, vectors, bias, k),
        )

    def _approximately(
        self, asked: OneCategory, number: tf.Tensor, vectors: tf.Tensor, bias: tf.Tensor, k: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """The searcher's list, less the excluded, with the user's own items scored exactly and added."""
        size = tf.cast(asked.high - asked.low, tf.int64)
        own = tf.where(asked.token_item > 0)  # [o, 2]
        own_key = own[:, 0] * size + tf.cast(tf.gather_nd(asked.token_item, own) - asked.low, tf.int64)
        out_key = tf.cast(asked.excluded_row, tf.int64) * size
        out_key = tf.sort(tf.unique(out_key + tf.cast(asked.excluded_item - asked.low, tf.int64)).y)
        aside = tf.sort(tf.unique(tf.concat([own_key, out_key], 0)).y)  # what the list must not bring
        # As many more as may have to be dropped: else a long exclusion list would leave a short answer.
        num_aside = _per_row(aside, size, tf.shape(asked.embedding)[0])
        fetch = tf.minimum(k + tf.reduce_max(num_aside), asked.high - asked.low)
        position, score = self._consult(asked.embedding, number, fetch, asked.high - asked.low)
        key = _keys(position, size)
        kept = (position >= 0) & (position < asked.high - asked.low) & ~_holds(aside, key)
        wanted = tf.minimum(k, asked.high - asked.low - num_aside)
        is_short = tf.reduce_any(tf.reduce_sum(tf.cast(kept, tf.int32), 1) < wanted)

        def merge() -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
            own_logit = _score_own(asked, vectors, bias, out_key)
            logit = tf.concat([tf.where(kept, score, score.dtype.min), own_logit], 1)
            item = tf.concat([position + asked.low, asked.token_item], 1)
            seen = tf.sort(tf.concat([aside, tf.boolean_mask(key, kept)], 0))
            tail = self._sampled_tail(asked, number, vectors, bias, seen)
            partition = tf.reduce_logsumexp(tf.concat([logit, tail], 1), 1)
            if asked.own_gain is not None and asked.own_slope is not None:
                slope = asked.own_slope[:, None]
                own_gain = own_correction(own_logit, partition[:, None], asked.own_gain, slope)
                logit += tf.concat([tf.zeros_like(score), own_gain], 1)
            best, at = tf.math.top_k(logit, tf.minimum(k, tf.shape(logit)[1]))
            return *pad_best(tf.gather(item, at, batch_dims=1), best, k), partition

        return tf.cond(is_short, lambda: search_exactly(asked, vectors, bias, k), merge)

    def _consult(
        self, embedding: tf.Tensor, number: tf.Tensor, fetch: tf.Tensor, size: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """`search_handle` of one searcher, with more effort for longer lists."""
        effort = tf.gather(self._effort, number)
        leaves, leaves_to_search, reorder = effort[0], effort[1], effort[2]
        longer = tf.maximum(1.0, tf.cast(fetch, tf.float32) / TUNED_K)
        more_leaves = tf.cast(tf.math.ceil(tf.cast(leaves_to_search, tf.float32) * longer), tf.int32)
        more = tf.maximum(fetch, tf.cast(tf.cast(reorder, tf.float32) * longer, tf.int32))
        queries = tf.pad(embedding, [[0, 0], [0, 1]], constant_values=self._bias_scale)
        return search_handle(
            self.searchers.handle(number), queries, fetch, tf.minimum(more_leaves, leaves), tf.minimum(more, size)
        )

    def _sampled_tail(
        self, asked: OneCategory, number: tf.Tensor, vectors: tf.Tensor, bias: tf.Tensor, seen: tf.Tensor
    ) -> tf.Tensor:
        """Logits plus log weights of the sampled items not seen already, the dtype's minimum elsewhere: [r, m]."""
        position = tf.gather(self._sample_item, number)
        at = position + asked.low
        logit = tf.matmul(asked.embedding, tf.gather(vectors, at), transpose_b=True) + tf.gather(bias, at)
        shape = tf.shape(logit)
        key = _keys(tf.broadcast_to(position, shape), tf.cast(asked.high - asked.low, tf.int64))
        weighted = logit + tf.gather(self._sample_log_weight, number)
        return tf.where(_holds(seen, key), logit.dtype.min, weighted)


def _score_own(asked: OneCategory, vectors: tf.Tensor, bias: tf.Tensor, out_key: tf.Tensor) -> tf.Tensor:
    """Logits of the subsequence's items, [r, L]: at an item's first position with all its repeat logits.

    Excluded items are left out.
    """
    item, real = asked.token_item, asked.token_item > 0
    logit = tf.einsum("rd,rld->rl", asked.embedding, tf.gather(vectors, item)) + tf.gather(bias, item)
    same = (item[:, :, None] == item[:, None, :]) & real[:, None, :]  # [r, L, L]
    logit += tf.einsum("rlm,rm->rl", tf.cast(same, tf.float32), asked.repeat_logit)
    earlier = tf.linalg.band_part(tf.cast(same, tf.int32), -1, 0)  # an item's occurrences up to each position
    is_first = tf.reduce_sum(earlier, 2) == 1
    size = tf.cast(asked.high - asked.low, tf.int64)
    stays = real & is_first & ~_holds(out_key, _keys(item - asked.low, size))
    return tf.where(stays, logit, logit.dtype.min)


def _keys(position: tf.Tensor, size: tf.Tensor) -> tf.Tensor:
    """(row, position within the category) as one number, [r, n] int64."""
    row = tf.range(tf.shape(position, tf.int64)[0])[:, None]
    return row * size + tf.cast(position, tf.int64)


def _holds(ascending: tf.Tensor, keys: tf.Tensor) -> tf.Tensor:
    """Whether each key is among the ascending ones, [s] and [r, n] -> [r, n] bool."""
    ascending = tf.concat([ascending, [tf.int64.max]], 0)
    at = tf.searchsorted(ascending, tf.reshape(keys, [-1]))
    return tf.reshape(tf.gather(ascending, at), tf.shape(keys)) == keys


def _per_row(keys: tf.Tensor, size: tf.Tensor, num_rows: tf.Tensor) -> tf.Tensor:
    """How many keys each row has, [s] -> [r] int32."""
    return tf.math.unsorted_segment_sum(tf.ones_like(keys, tf.int32), keys // size, num_rows)


def _variable(value: np.ndarray, name: str) -> tf.Variable:
    return tf.Variable(tf.constant(value, tf.string) if value.dtype == object else value, trainable=False, name=name)


def _concat(parts: list[np.ndarray], rank: int) -> np.ndarray:
    """The parts that are there, one after another; scalars stand for nothing."""
    full = [part for part in parts if part.ndim]
    return np.concatenate(full) if full else np.zeros([0] * rank, parts[0].dtype)


def _widen(row: np.ndarray, width: int, value: float) -> np.ndarray:
    return np.pad(row, (0, width - len(row)), constant_values=value)
