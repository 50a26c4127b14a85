"""Dropout whose masks are a pure function of (seed, step): a run resumed from a checkpoint draws the same ones."""

import tensorflow as tf


class StatelessRng:
    """Draws for one training step; each call site gets its own stream by order of call."""

    def __init__(self, seed: int, step: tf.Tensor) -> None:
        self._seed, self._step, self._site = seed, tf.cast(step, tf.int32), 0

    def keep(self, shape: tf.Tensor, rate: float) -> tf.Tensor:
        """A mask that is True with probability 1 - rate, to the nearest 1/256, bool.

        Plainly `tf.random.stateless_uniform(shape, seed) >= rate`; see the comment.
        """
        self._site += 1
        # One random byte per element: a quarter of the random words that uniform floats would cost on a CPU
        # (benchmarks/bench_training.py, "steps"). tests/test_encoder.py holds its rate and its independence.
        size = tf.reduce_prod(shape)
        words = tf.random.stateless_uniform(
            [(size + 3) // 4],
            seed=[self._seed * 1009 + self._site, self._step],
            minval=None,
            maxval=None,
            dtype=tf.int32,
        )
        bits = tf.reshape(tf.bitcast(words, tf.uint8), [-1])[:size]
        return tf.reshape(bits >= tf.constant(round(rate * 256), tf.uint8), shape)


def dropout(x: tf.Tensor, rate: float, random: StatelessRng | None) -> tf.Tensor:
    """Inverted dropout, x * keep / (1 - rate); the identity at inference (`random` None) or at rate 0."""
    rate = round(rate * 256) / 256
    if random is None or rate == 0:
        return x
    # Scaling the mask, not x, spares a pass over x backward; two passes over it take half of what choosing would.
    scale = tf.constant(1.0 / (1.0 - rate), x.dtype)
    return x * (tf.cast(random.keep(tf.shape(x), rate), x.dtype) * scale)
