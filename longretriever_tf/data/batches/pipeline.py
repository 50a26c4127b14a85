"""The `tf.data` part of every input pipeline: batches by their numbers, each built in the graph."""

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from longretriever_tf.common.graph import as_it_stands

_AHEAD = 4
"""Batches that wait for the step."""


def numbered_batches(make: Callable[[tf.Tensor], Any], first: int, stop: int) -> tf.data.Dataset:
    """Batches `first`, `first + 1`, ..., `stop - 1`, in order, built in parallel and ahead of time.

    Args:
      make: batch from its number, scalar int64; a graph of it is traced once.
      first: the first batch's number.
      stop: the number after the last.
    """
    options = tf.data.Options()
    # Rewriting the graph has nothing to find in a range and a map, but copies every tensor that the map reads, once for
    # each iterator: gigabytes of kept histories, at each epoch.
    options.experimental_optimization.apply_default_optimizations = False
    numbers = tf.data.Dataset.range(first, stop)
    batches = numbers.map(as_it_stands(make), num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    return batches.prefetch(_AHEAD).with_options(options)


def chosen_batches(make: Callable[[tf.Tensor], Any], numbers: np.ndarray) -> tf.data.Dataset:
    """Batches of the numbers given, in their order: what one of several machines takes of an epoch.

    Args:
      make: as in `numbered_batches`.
      numbers: [n] int64.
    """
    with tf.device("/CPU:0"):
        chosen = tf.constant(numbers, tf.int64)
    return numbered_batches(lambda i: make(chosen[i]), 0, len(numbers))
