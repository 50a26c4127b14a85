"""The gradients of a step: packed into one buffer by batch, summed over batches and replicas, unpacked as their mean.

dense    a weight that every batch reads: its gradient, in the buffer
table    a table of few numbers, or of fewer than the rows that a step is known to read: the gradient of all its rows,
         and how often each was read, in the buffer
rows     another table: the rows that batches read are gathered from all replicas, in the order of the batches
owned    a table whose rows belong to a replica each: rows stay where they are, but for 0 and 1, which all share

One buffer means one reduction a step, whatever the number of weights. Sums over batches are made by halves, so that two
replicas, which make one half each, get the sum of one that makes both, to the last digit.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import tensorflow as tf

from longretriever_tf.common.schema import FIRST_KNOWN
from longretriever_tf.models.optimizer import Gradient, RowGradient
from longretriever_tf.training.distributed.cluster import Cluster

SMALL_TABLE = 131_072
"""Numbers up to which a whole table is reduced: half a megabyte costs less than the two exchanges of a gathering."""


class Packed(NamedTuple):
    """The gradients of a batch, or of several.

    Attributes:
      buffer: what is summed, [P] float32: gradients, then the loss, then the number of batches.
      rows: rows of each larger table that were read, [n] int64 each: int32 would lie in a GPU's host.
      values: their gradients, [n, D] float32 each.
    """

    buffer: tf.Tensor
    rows: list[tf.Tensor]
    values: list[tf.Tensor]


class Tables(NamedTuple):
    """How tables are reduced.

    Attributes:
      owned: those whose rows belong to one replica each.
      whole: reduce the others whole, whatever their size: where batches read most of their rows.
      num_packs: gradients of as many rows as one that a step sums, over all replicas; 0: not known.
    """

    owned: tuple[tf.Variable, ...] = ()
    whole: bool = False
    num_packs: int = 0


REPLICATED = Tables()
"""Every replica holds all rows; small tables are reduced whole."""


class Layout:
    """Where each variable's gradient lies in the buffer.

    Args:
      variables: in the optimizer's order.
      gradients: of one batch, which say what kind each is.
      tables: how tables are reduced.
    """

    def __init__(
        self,
        variables: Sequence[tf.Variable],
        gradients: Sequence[tf.Tensor | tf.IndexedSlices | None],
        tables: Tables = REPLICATED,
    ) -> None:
        names = {id(variable) for variable in tables.owned}
        self._shapes = [variable.shape.as_list() for variable in variables]
        self.kinds = []
        for variable, gradient in zip(variables, gradients, strict=True):
            is_small = tables.whole or variable.shape.num_elements() <= SMALL_TABLE
            kind = "table" if is_small or _costs_less_whole(variable, gradient, tables.num_packs) else "rows"
            if not isinstance(gradient, tf.IndexedSlices):
                kind = "none" if gradient is None else "dense"
            elif id(variable) in names:
                kind = "owned"
            self.kinds.append(kind)
        self._sizes = [_numbers_of(kind, shape) for kind, shape in zip(self.kinds, self._shapes, strict=True)]
        self._apart = [i for i, kind in enumerate(self.kinds) if kind in ("rows", "owned")]

    @property
    def num_numbers(self) -> int:
        """P, the length of the buffer."""
        return sum(self._sizes) + 2

    def pack(
        self, gradients: Sequence[tf.Tensor | tf.IndexedSlices | None], loss: tf.Tensor, num_batches: tf.Tensor
    ) -> Packed:
        """The gradients of one batch, or the sum of several that were stacked."""
        parts: list[tf.Tensor] = []
        for kind, shape, gradient in zip(self.kinds, self._shapes, gradients, strict=True):
            if kind == "dense":
                parts.append(tf.reshape(gradient, [-1]))
            elif kind in ("table", "owned"):
                parts += _whole_table(gradient, shape[0] if kind == "table" else FIRST_KNOWN)
        apart = [gradient for i, gradient in enumerate(gradients) if gradient is not None and i in self._apart]
        rows = [tf.cast(gradient.indices, tf.int64) for gradient in apart]
        buffer = tf.concat([*parts, tf.stack([loss, num_batches])], 0)
        return Packed(buffer, rows, [gradient.values for gradient in apart])

    def _nothing(self) -> Packed:
        """The gradients of no batch."""
        shapes = [self._shapes[i] for i in self._apart]
        return Packed(
            tf.zeros([self.num_numbers]),
            [tf.zeros([0], tf.int64) for _ in shapes],
            [tf.zeros([0, *shape[1:]]) for shape in shapes],
        )

    def reduce(self, packed: Sequence[Packed | None], cluster: Cluster, replica: int) -> Packed:
        """The sum over the batches of this replica and of all others; within `Cluster.run`.

        Args:
          packed: of this replica's batches, in order; None where there is none for a group.
          cluster: the replicas.
          replica: number of this one among all.
        """
        present = [one for one in packed if one is not None] or [self._nothing()]
        buffer = _sum_by_halves([None if one is None else one.buffer for one in packed])
        buffer = present[0].buffer if buffer is None else buffer
        rows = [tf.concat([one.rows[k] for one in present], 0) for k in range(len(self._apart))]
        values = [tf.concat([one.values[k] for one in present], 0) for k in range(len(self._apart))]
        gathered = [k for k, i in enumerate(self._apart) if self.kinds[i] == "rows"]
        if cluster.num_replicas == 1 or not gathered:
            return Packed(cluster.sum(buffer), rows, values)
        counts = tf.stack([tf.size(rows[k]) for k in gathered])  # as floats they are exact up to 16 million rows
        mine = tf.one_hot(replica, cluster.num_replicas)[:, None] * tf.cast(counts, tf.float32)
        reduced = cluster.sum(tf.concat([buffer, tf.reshape(mine, [-1])], 0))
        counts = tf.cast(tf.reshape(reduced[self.num_numbers :], [cluster.num_replicas, -1]), tf.int32)
        # Row numbers travel as the bits of floats, next to the values: one gathering for all tables.
        bits = [tf.reshape(tf.bitcast(rows[k], tf.float32), [-1]) for k in gathered]
        sent = tf.concat([*bits, *(tf.reshape(values[k], [-1]) for k in gathered)], 0)
        widths = [self._width(self._apart[k]) for k in gathered]
        parts = _split(cluster.concat(sent), counts, widths)
        for position, k in enumerate(gathered):
            both = tf.reshape(tf.concat([bits for bits, _ in parts[position]], 0), [-1, 2])
            rows[k] = tf.bitcast(both, tf.int64)
            values[k] = tf.concat([tf.reshape(flat, [-1, widths[position]]) for _, flat in parts[position]], 0)
        return Packed(reduced[: self.num_numbers], rows, values)

    def unpack(self, reduced: Packed, whole_tables: bool) -> tuple[list[Gradient], tf.Tensor]:
        """The mean gradients, as `LazyAdamW.apply` takes them, and the mean loss.

        Args:
          reduced: the sum over all batches of the step.
          whole_tables: in static shapes, which XLA asks for.
        """
        loss, num_batches = reduced.buffer[-2], tf.maximum(reduced.buffer[-1], 1.0)
        pieces = tf.split(reduced.buffer, [*self._sizes, 2])
        gradients: list[Gradient] = []
        for i, (kind, shape) in enumerate(zip(self.kinds, self._shapes, strict=True)):
            piece = pieces[i]
            if kind == "none":
                gradients.append(None)
            elif kind == "dense":
                gradients.append(tf.reshape(piece, shape) / num_batches)
            elif kind == "table":
                gradients.append(_as_rows(piece, shape[0], self._width(i), num_batches))
            else:
                k = self._apart.index(i)
                mine = tf.IndexedSlices(reduced.values[k] / num_batches, reduced.rows[k])
                if kind == "owned":
                    shared = _as_rows(piece, FIRST_KNOWN, self._width(i), num_batches)
                    mine = _with_shared(mine, shared, shape[0] if whole_tables else None)
                gradients.append(mine)
        return gradients, loss / num_batches

    def _width(self, i: int) -> int:
        return int(self._shapes[i][1])


def _costs_less_whole(variable: tf.Variable, gradient: tf.Tensor | tf.IndexedSlices | None, num_packs: int) -> bool:
    """Whether the rows that a step reads, where their number is known, are more to send than the whole table."""
    if not isinstance(gradient, tf.IndexedSlices) or gradient.values.shape[0] is None or len(variable.shape) != 2:
        return False
    num_rows, width = variable.shape
    sent = int(gradient.values.shape[0]) * num_packs * (width + 2)  # with row numbers, of two floats each
    return bool(sent > _numbers_of("table", [num_rows, width]))


def _numbers_of(kind: str, shape: Sequence[int]) -> int:
    """Numbers that a variable has in the buffer."""
    if kind == "dense":
        return math.prod(shape)
    if kind in ("table", "owned"):
        num_rows = shape[0] if kind == "table" else FIRST_KNOWN
        return num_rows * (math.prod(shape[1:]) + 1)
    return 0


def _whole_table(gradient: tf.IndexedSlices, num_rows: int) -> list[tf.Tensor]:
    """The gradient of the first rows of a table, flat, and how often each was read."""
    at = tf.where(gradient.indices < num_rows, gradient.indices, -1)  # rows beyond are left out
    values = tf.math.unsorted_segment_sum(gradient.values, at, num_rows)
    reads = tf.math.unsorted_segment_sum(tf.ones_like(at, tf.float32), at, num_rows)
    return [tf.reshape(values, [-1]), reads]


def _as_rows(piece: tf.Tensor, num_rows: int, width: int, num_batches: tf.Tensor) -> RowGradient:
    values, reads = tf.split(piece, [num_rows * width, num_rows])
    return RowGradient(tf.reshape(values, [num_rows, width]) / num_batches, tf.cast(reads > 0, tf.float32))


def _with_shared(mine: tf.IndexedSlices, shared: RowGradient, num_rows: int | None) -> Gradient:
    """The rows of an owned table that move here: its owner's, and the first ones, which all replicas have summed.

    Args:
      mine: rows that this replica's batches have read.
      shared: the first rows.
      num_rows: of the table, for a gradient of static shape; None: for one of the rows that were read.
    """
    first = len(shared.is_read.shape) and int(shared.is_read.shape[0])
    is_mine = mine.indices >= first
    if num_rows is None:
        shared_rows = tf.cast(tf.where(shared.is_read > 0)[:, 0], mine.indices.dtype)
        rows = tf.concat([shared_rows, tf.boolean_mask(mine.indices, is_mine)], 0)
        values = [tf.gather(shared.values, shared_rows), tf.boolean_mask(mine.values, is_mine)]
        return tf.IndexedSlices(tf.concat(values, 0), rows)
    at = tf.where(is_mine, mine.indices, -1)
    values = tf.math.unsorted_segment_sum(mine.values, at, num_rows)
    reads = tf.math.unsorted_segment_sum(tf.ones_like(at, tf.float32), at, num_rows)
    is_read = tf.concat([shared.is_read, tf.cast(reads[first:] > 0, tf.float32)], 0)
    return RowGradient(tf.concat([shared.values, values[first:]], 0), is_read)


def _sum_by_halves(terms: Sequence[tf.Tensor | None]) -> tf.Tensor | None:
    if len(terms) == 1:
        return terms[0]
    half = len(terms) // 2
    one, other = _sum_by_halves(terms[:half]), _sum_by_halves(terms[half:])
    if one is None or other is None:
        return one if other is None else other
    return one + other


def _split(gathered: tf.Tensor, counts: tf.Tensor, widths: Sequence[int]) -> list[list[tuple[tf.Tensor, tf.Tensor]]]:
    """By table and replica: the bits of the rows, and the values.

    Args:
      gathered: of each replica the bits of all tables' rows, then their values, flat, [n] float32.
      counts: rows of each replica and table, [N, T] int32.
      widths: of the tables, T of them.
    """
    lengths = tf.concat([2 * counts, counts * tf.constant(widths)], 1)  # [N, 2 T]; a row's number has two floats
    num_replicas, num_tables = int(counts.shape[0]), len(widths)
    flat = tf.split(gathered, tf.reshape(lengths, [-1]), num=2 * num_replicas * num_tables)
    by_replica = [flat[r * 2 * num_tables : (r + 1) * 2 * num_tables] for r in range(num_replicas)]
    return [[(pieces[t], pieces[num_tables + t]) for pieces in by_replica] for t in range(num_tables)]
