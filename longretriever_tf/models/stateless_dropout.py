"""Dropout whose masks are a pure function of (seed, step, group): a resumed run draws the same ones, and so does each
of several machines for the batches that it takes.
"""

from typing import NamedTuple

import tensorflow as tf


class Groups(NamedTuple):
    """The batches of a step, its groups, that the tensors hold: every one draws as it would alone.

    Attributes:
      first: number of the first of them in the step, scalar int32.
      stacked: how many of one shape lie side by side; 0: one alone, and groups may differ in shape.
    """

    first: tf.Tensor
    stacked: int = 0


class StatelessRng:
    """Draws for one training step; each call site gets its own stream by order of call.

    Args:
      seed: of the run.
      step: of the optimizer, scalar.
      groups: what the tensors hold of the step; None: one stream for all, which is that of group 0.
    """

    def __init__(self, seed: int, step: tf.Tensor, groups: Groups | None = None) -> None:
        self._seed, self._step, self._site = seed, tf.cast(step, tf.int32), 0
        self._groups = groups

    def keep(self, shape: tf.Tensor, rate: float) -> tf.Tensor:
        """A mask that is True with probability 1 - rate, to the nearest 1/256, bool.

        Plainly `tf.random.stateless_uniform(shape, seed) >= rate`; see the comment.
        """
        self._site += 1
        seed = tf.stack([self._seed * 1009 + self._site, self._step])
        if self._groups is None:
            return _draw(shape, rate, seed)
        first, stacked = self._groups
        if stacked:
            return _draw_stacked(shape, rate, seed, first, stacked)
        return _draw(shape, rate, tf.where(first > 0, tf.random.fold_in(seed, first), seed))


def _draw(shape: tf.Tensor, rate: float, seed: tf.Tensor) -> tf.Tensor:
    # One random byte per element: a quarter of the random words that uniform floats would cost on a CPU
    # (benchmarks/bench_training.py, "steps"). tests/test_encoder.py holds its rate and its independence.
    size = tf.reduce_prod(shape)
    words = tf.random.stateless_uniform(
        [(size + 3) // 4],
        seed=seed,
        minval=None,
        maxval=None,
        dtype=tf.int32,
    )
    bits = tf.reshape(tf.bitcast(words, tf.uint8), [-1])[:size]
    return _reaches(bits, shape, rate)


def _draw_stacked(shape: tf.Tensor, rate: float, seed: tf.Tensor, first: tf.Tensor, stacked: int) -> tf.Tensor:
    """Groups of one shape read one stream one after the other: one draw for however many of them."""
    size = tf.reduce_prod(shape) // stacked
    blocks = (size + 15) // 16  # Philox makes 16 bytes a count
    key, counter = tf.raw_ops.StatelessRandomGetKeyCounter(seed=seed)
    skipped = tf.stack([tf.cast(first * blocks, tf.int64), tf.constant(0, tf.int64)])
    words = tf.raw_ops.StatelessRandomUniformFullIntV2(
        shape=tf.stack([stacked * blocks * 4]),
        key=key,
        counter=tf.bitcast(tf.bitcast(counter, tf.int64) + skipped, tf.uint64),  # GPUs add no uint64
        alg=tf.random.Algorithm.PHILOX.value,
        dtype=tf.int32,
    )
    bits = tf.reshape(tf.bitcast(words, tf.uint8), [stacked, -1])[:, :size]
    return _reaches(bits, shape, rate)


def _reaches(bits: tf.Tensor, shape: tf.Tensor, rate: float) -> tf.Tensor:
    return tf.reshape(bits >= tf.constant(round(rate * 256), tf.uint8), shape)


def dropout(x: tf.Tensor, rate: float, random: StatelessRng | None) -> tf.Tensor:
    """Inverted dropout, x * keep / (1 - rate); the identity at inference (`random` None) or at rate 0."""
    rate = round(rate * 256) / 256
    if random is None or rate == 0:
        return x
    # Scaling the mask, not x, spares a pass over x backward; two passes over it take half of what choosing would.
    scale = tf.constant(1.0 / (1.0 - rate), x.dtype)
    return x * (tf.cast(random.keep(tf.shape(x), rate), x.dtype) * scale)
