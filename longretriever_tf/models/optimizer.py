"""AdamW for dense weights, row-wise Adam for embedding tables: a step touches only the rows it read."""

import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, TypeAlias

import tensorflow as tf

from longretriever_tf.common.graph import as_it_stands

WEIGHT_DECAY = 1e-2
"""Of kernels, in every run."""

_SMALL_TABLE = 16_384
"""Elements up to which passing over a whole table costs less than finding and moving the rows that a step read."""


class RowGradient(NamedTuple):
    """Gradient of a table as a whole, which keeps apart the rows that were read: what several machines have summed.

    Attributes:
      values: [V, D] float32.
      is_read: 1 for rows that a batch has read, 0 for the others, which do not move, [V] float32.
    """

    values: tf.Tensor
    is_read: tf.Tensor


Gradient: TypeAlias = tf.Tensor | tf.IndexedSlices | RowGradient | None


class WarmupCosine(tf.keras.optimizers.schedules.LearningRateSchedule):
    """Linear warm-up over the first 5% of the steps, then a cosine to 0.

    Args:
      peak: the learning rate at the end of the warm-up.
      total_steps: of the training.
    """

    def __init__(self, peak: float, total_steps: int) -> None:
        self.peak, self.total_steps = peak, total_steps

    def __call__(self, step: tf.Tensor) -> tf.Tensor:
        """The learning rate of a step, counted from 0, scalar float32."""
        step, warm = tf.cast(step, tf.float32), max(1.0, 0.05 * self.total_steps)
        cosine = 0.5 * (1.0 + tf.cos(math.pi * tf.minimum(step / self.total_steps, 1.0)))
        return self.peak * tf.minimum((step + 1.0) / warm, 1.0) * cosine

    def get_config(self) -> dict[str, Any]:
        """The arguments, for Keras."""
        return {"peak": self.peak, "total_steps": self.total_steps}


class LazyAdamW(tf.keras.optimizers.Optimizer):
    """Two Adams over one list of variables, with one learning rate; a Keras optimizer.

    Tables (2-D weights read by `tf.gather`, whose gradients are `IndexedSlices`) get a lazy Adam: Keras's own decays
    the moments of every row at every step, which costs more than the towers when a table holds 100,000 rows.

    Args:
      learning_rate: peak of `WarmupCosine`.
      weight_decay: on kernels alone.
      total_steps: steps of the schedule.
      carries_moments: the moments come from an earlier training: they are whole from the first step on, and need no
        correction for having begun at 0.
    """

    def __init__(
        self,
        learning_rate: float,
        weight_decay: float,
        total_steps: int,
        name: str = "lazy_adamw",
        carries_moments: bool = False,
    ) -> None:
        super().__init__(name, jit_compile=False)
        self._carries_moments = carries_moments
        self._peak, self._decay, self._total = learning_rate, weight_decay, total_steps
        # Keras's callbacks log a schedule of this name.
        self._learning_rate = WarmupCosine(learning_rate, total_steps)
        self.step = self.iterations  # its name in checkpoints
        self._built = False

    def build(self, var_list: Sequence[tf.Variable]) -> None:
        """Makes the moments of each variable, once; `apply` takes gradients in this order."""
        if self._built:
            return
        self._built = True
        with tf.init_scope():
            # Names in checkpoints, where Keras would keep the moments under `_variables`.
            self._variables = list(var_list)
            self._mean = [tf.Variable(tf.zeros_like(v), trainable=False, name="mean") for v in var_list]
            self._square = [tf.Variable(tf.zeros_like(v), trainable=False, name="square") for v in var_list]

    def moments(self, variable: tf.Variable) -> tuple[tf.Variable, tf.Variable]:
        """The two moments of a variable that `build` was given."""
        i = next(i for i, known in enumerate(self._variables) if known is variable)
        return self._mean[i], self._square[i]

    @property
    def trained_variables(self) -> list[tf.Variable]:
        """What `build` was given."""
        return list(self._variables) if self._built else []

    @property
    def variables(self) -> list[tf.Variable]:
        """The step and the moments."""
        return [self.iterations, *self._mean, *self._square] if self._built else [self.iterations]

    @property
    def learning_rate(self) -> tf.Tensor:
        """The learning rate of the coming step, scalar float32."""
        return self._learning_rate(self.iterations)

    def get_config(self) -> dict[str, Any]:
        """The arguments, for Keras."""
        return {
            "name": self.name,
            "learning_rate": self._peak,
            "weight_decay": self._decay,
            "total_steps": self._total,
            "carries_moments": self._carries_moments,
        }

    def apply_gradients(
        self, grads_and_vars: Iterable[tuple[tf.Tensor | tf.IndexedSlices | None, tf.Variable]], **kwargs: Any
    ) -> tf.Variable:
        """Keras's way to make a step; `fit` calls it with all trainable variables."""
        del kwargs
        gradients, variables = zip(*grads_and_vars, strict=True)
        self.build(variables)
        if list(map(id, variables)) != list(map(id, self._variables)):
            raise ValueError("LazyAdamW moves all variables that it was built with, in their order; make another one")
        self.apply(gradients)
        return self.iterations

    def update_step(self, gradient: tf.Tensor, variable: tf.Variable) -> None:
        """Not used: `apply` moves all variables at once."""
        raise NotImplementedError

    @as_it_stands
    def apply(self, gradients: Sequence[Gradient], whole_tables: bool = False) -> None:
        """One step; a None gradient leaves its variable alone.

        Args:
          gradients: of the variables that `build` was given, in order.
          whole_tables: update tables by a mask over all their rows rather than row by row: the same step in static
            shapes, which XLA asks for.
        """
        rate = self.learning_rate
        step, rate_now = tf.cast(self.iterations + 1, tf.float32), rate
        if not self._carries_moments:
            rate_now = rate * tf.sqrt(1.0 - tf.pow(0.999, step)) / (1.0 - tf.pow(0.9, step))
        states = zip(self._variables, self._mean, self._square, gradients, strict=True)
        for *copies, gradient in states:
            variable, mean, square = map(_copy_here, copies)
            if isinstance(gradient, RowGradient):
                _move_read_rows(variable, mean, square, gradient.values, gradient.is_read[:, None], rate_now)
            elif isinstance(gradient, tf.IndexedSlices):
                is_small = variable.shape.num_elements() <= _SMALL_TABLE
                update = _update_masked if whole_tables or is_small else _update_rows
                update(variable, mean, square, gradient, rate_now)
            elif gradient is not None:
                self._update(variable, mean, square, gradient, rate, rate_now)
        _copy_here(self.iterations).assign_add(1)

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


def _copy_here(variable: tf.Variable) -> tf.Variable:
    """The copy of a variable on the device of this replica; the variable where there is one."""
    copies = tf.distribute.get_strategy().experimental_local_results(variable)
    if len(copies) == 1:
        return copies[0]
    replica = tf.get_static_value(tf.distribute.get_replica_context().replica_id_in_sync_group)
    return copies[int(replica)]


def _update_rows(
    variable: tf.Variable, mean: tf.Variable, square: tf.Variable, gradient: tf.IndexedSlices, rate: tf.Tensor
) -> None:
    """Adam on the rows that the gradient holds; the moments of other rows wait."""
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
    _move_read_rows(variable, mean, square, values, tf.cast(reads > 0, tf.float32)[:, None], rate)


def _move_read_rows(
    variable: tf.Variable,
    mean: tf.Variable,
    square: tf.Variable,
    values: tf.Tensor,
    is_read: tf.Tensor,
    rate: tf.Tensor,
) -> None:
    """Adam on the rows of the whole table whose `is_read` is 1, [V, 1]."""
    mean.assign_add(is_read * 0.1 * (values - mean))
    square.assign_add(is_read * 0.001 * (tf.square(values) - square))
    variable.assign_sub(is_read * rate * mean / (tf.sqrt(square) + 1e-7))
