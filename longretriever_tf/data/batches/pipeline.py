"""The `tf.data` part of every input pipeline: batches by their numbers, each built in the graph."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from longretriever_tf.common.graph import as_it_stands, graph_function

_AHEAD = 4
"""Batches that wait for the step."""

_ASKED_AHEAD = 8
"""Batches between one step of getting ready and the next."""


def numbered_batches(
    make: Callable[[tf.Tensor], Any],
    first: int,
    stop: int,
    numbers: np.ndarray | None = None,
    ready: Sequence[Callable[[tf.Tensor], tf.Tensor]] = (),
) -> tf.data.Dataset:
    """Batches `first`, `first + 1`, ..., `stop - 1`, in order, built in parallel and ahead of time.

    Args:
      make: batch from its number, scalar int64; a graph of it is traced once.
      first: the first batch's number.
      stop: the number after the last.
      numbers: of the batches instead of these, in their order, [n] int64: what one of several machines takes of an
        epoch.
      ready: what is done for a number some batches before, one after the other, each some batches after the one
        before it: from the number to the number.
    """
    options = tf.data.Options()
    # Rewriting the graph has nothing to find in a range and a map, but copies every tensor that the map reads, once for
    # each iterator: gigabytes of kept histories, at each epoch.
    options.experimental_optimization.apply_default_optimizations = False
    if numbers is None:
        chosen = tf.data.Dataset.range(first, stop)
    else:
        with tf.device("/CPU:0"):
            chosen = tf.data.Dataset.from_tensor_slices(numbers.astype(np.int64))
    for step in ready:
        chosen = chosen.map(as_it_stands(step)).prefetch(_ASKED_AHEAD)
    batches = chosen.map(as_it_stands(make), num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    return batches.prefetch(_AHEAD).with_options(options)


class BatchGraph:
    """Batches by their numbers, built in one graph for all epochs: tracing it takes longer than a small epoch.

    Args:
      make: batch from its number, scalar int64, and the columns of its epoch, [n] each.

    Attributes:
      element_spec: of a batch; None before the first dataset.
    """

    def __init__(self, make: Callable[..., Any]) -> None:
        self._make = make
        self._graph: tf.types.experimental.ConcreteFunction | None = None
        self.element_spec: Any = None

    def make_dataset(
        self, columns: Sequence[np.ndarray], first: int, stop: int, numbers: np.ndarray | None = None
    ) -> tf.data.Dataset:
        """Batches `first` to `stop - 1` of an epoch, or those of `numbers`; see `numbered_batches`.

        Args:
          columns: of the epoch, [n] each; of the same types at every call.
          first: the first batch's number.
          stop: the number after the last.
          numbers: of the batches instead of these, [m] int64.
        """
        with tf.device("/CPU:0"):
            given = [tf.constant(column) for column in columns]
        graph = self._traced(given)

        def make(i: tf.Tensor) -> Any:
            return graph(i, *given)

        dataset = numbered_batches(make, first, stop, numbers)
        self.element_spec = dataset.element_spec
        return dataset

    def _traced(self, columns: list[tf.Tensor]) -> tf.types.experimental.ConcreteFunction:
        if self._graph is None:
            specs = [tf.TensorSpec([None] * column.shape.rank, column.dtype) for column in columns]

            def make(i: tf.Tensor, *given: tf.Tensor) -> Any:
                with tf.device("/CPU:0"):  # as all of an input pipeline, wherever the model is
                    return self._make(i, *given)

            number = tf.TensorSpec([], tf.int64)
            self._graph = graph_function(make, input_signature=[number, *specs]).get_concrete_function()
        return self._graph
