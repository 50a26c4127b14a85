"""AdamW for dense weights, row-wise Adam for embedding tables: a step touches only the rows it read."""

import math
from collections.abc import Sequence

import tensorflow as tf

WEIGHT_DECAY = 1e-2
"""Of kernels, in every run."""

_SMALL_TABLE = 16_384
"""Elements up to which passing over a whole table costs less than finding and moving the rows that a step read."""


class LazyAdamW(tf.Module):
    """Two Adams over one list of variables, with one learning rate.

    Tables (2-D weights read by `tf.gather`, whose gradients are `IndexedSlices`) get a lazy Adam: Keras's own decays
    the times of every row at every step, which costs more than the towers when a table holds 100,000 rows.

    Args:
      variables: trainable variables.
      learning_rate: peak.
      weight_decay: on kernels alone.
      total_steps: steps of the schedule: linear warm-up over the first 5%, cosine to 0 after it.
    """

    def __init__(
        self, variables: Sequence[tf.Variable], learning_rate: float, weight_decay: float, total_steps: int
    ) -> None:
        super().__init__(name="split_adam")
        self.step = tf.Variable(0, dtype=tf.int64, trainable=False, name="step")
        self._peak, self._decay, self._total = learning_rate, weight_decay, total_steps
        self._variables = list(variables)
        self._mean = [tf.Variable(tf.zeros_like(v), trainable=False, name="mean") for v in variables]
        self._square = [tf.Variable(tf.zeros_like(v), trainable=False, name="square") for v in variables]

    def learning_rate(self) -> tf.Tensor:
        """The learning rate of the coming step, scalar float32."""
        step, warm = tf.cast(self.step, tf.float32), max(1.0, 0.05 * self._total)
        cosine = 0.5 * (1.0 + tf.cos(math.pi * tf.minimum(step / self._total, 1.0)))
        return self._peak * tf.minimum((step + 1.0) / warm, 1.0) * cosine

    def apply(self, gradients: Sequence[tf.Tensor | tf.IndexedSlices | None], whole_tables: bool = False) -> None:
        """One step; a None gradient leaves its variable alone.

        Args:
          gradients: of the variables, in order.
          whole_tables: update tables by a mask over all their rows rather than row by row: the same step in static
            shapes, which XLA asks for.
        """
        rate = self.learning_rate()
        step = tf.cast(self.step + 1, tf.float32)
        rate_now = rate * tf.sqrt(1.0 - tf.pow(0.999, step)) / (1.0 - tf.pow(0.9, step))
        for variable, mean, square, gradient in zip(self._variables, self._mean, self._square, gradients, strict=True):
            if isinstance(gradient, tf.IndexedSlices):
                is_small = variable.shape.num_elements() <= _SMALL_TABLE
                update = _update_masked if whole_tables or is_small else _update_rows
                update(variable, mean, square, gradient, rate_now)
            elif gradient is not None:
                self._update(variable, mean, square, gradient, rate, rate_now)
        self.step.assign_add(1)

    def _update(
        self,
        variable: tf.Variable,
        mean: tf.Variable,
        square: tf.Variable,
        gradient: tf.Tensor,
        rate: tf.Tensor,
        rate_now: tf.Tensor,
    ) -> None:
        mean.assign_add((gradient - mean) * 0.1)
        square.assign_add((tf.square(gradient) - square) * 0.001)
        decay = rate * self._decay if "kernel" in variable.name else 0.0
        variable.assign_sub(rate_now * mean / (tf.sqrt(square) + 1e-7) + decay * variable)


def _update_rows(
    variable: tf.Variable, mean: tf.Variable, square: tf.Variable, gradient: tf.IndexedSlices, rate: tf.Tensor
) -> None:
    """Adam on the rows that the gradient holds; times of other rows wait."""
    rows, where = tf.unique(gradient.indices)
    values = tf.math.unsorted_segment_sum(gradient.values, where, tf.size(rows))
    new_mean = 0.9 * tf.gather(mean, rows) + 0.1 * values
    new_square = 0.999 * tf.gather(square, rows) + 0.001 * tf.square(values)
    mean.scatter_update(tf.IndexedSlices(new_mean, rows))
    square.scatter_update(tf.IndexedSlices(new_square, rows))
    variable.scatter_sub(tf.IndexedSlices(rate * new_mean / (tf.sqrt(new_square) + 1e-7), rows))


def _update_masked(
    variable: tf.Variable, mean: tf.Variable, square: tf.Variable, gradient: tf.IndexedSlices, rate: tf.Tensor
) -> None:
    """The same as `_update_rows`, written as a pass over the whole table."""
    num_rows = variable.shape[0]
    values = tf.math.unsorted_segment_sum(gradient.values, gradient.indices, num_rows)
    reads = tf.math.unsorted_segment_sum(tf.ones_like(gradient.indices, tf.float32), gradient.indices, num_rows)
    is_read = tf.cast(reads > 0, tf.float32)[:, None]
    mean.assign_add(is_read * 0.1 * (values - mean))
    square.assign_add(is_read * 0.001 * (tf.square(values) - square))
    variable.assign_sub(is_read * rate * mean / (tf.sqrt(square) + 1e-7))
