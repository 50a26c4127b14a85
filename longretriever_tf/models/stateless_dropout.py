"""Dropout whose masks are a pure function of (seed, step, group): a resumed run draws the same ones, and so does each
of several machines for the batches that it takes.
"""

from collections.abc import Sequence

import tensorflow as tf


class StatelessRng:
    """Draws for one training step; each call site gets its own stream by order of call.

    Args:
      seed: of the run.
      step: of the optimizer, scalar.
      groups: numbers of the step's batches that lie side by side in the tensors, scalar int32 each: every one draws as
        it would alone. None: one stream for all, which is that of batch 0.
    """

    def __init__(self, seed: int, step: tf.Tensor, groups: Sequence[tf.Tensor] | None = None) -> None:
        self._seed, self._step, self._site = seed, tf.cast(step, tf.int32), 0
        self._groups = groups

    def keep(self, shape: tf.Tensor, rate: float) -> tf.Tensor:
        """A mask that is True with probability 1 - rate, to the nearest 1/256, bool.

        Plainly `tf.random.stateless_uniform(shape, seed) >= rate`; see the comment.
        """
        self._site += 1
        if self._groups is None:
            return self._draw(shape, rate, None)
        part = tf.concat([shape[:1] // len(self._groups), shape[1:]], 0)
        drawn = [self._draw(part, rate, group) for group in self._groups]
        return drawn[0] if len(drawn) == 1 else tf.concat(drawn, 0)

    def _draw(self, shape: tf.Tensor, rate: float, group: tf.Tensor | None) -> tf.Tensor:
        seed = tf.stack([self._seed * 1009 + self._site, self._step])
        if group is not None:
            seed = tf.where(group > 0, tf.random.fold_in(seed, group), seed)
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
        return tf.reshape(bits >= tf.constant(round(rate * 256), tf.uint8), shape)


def dropout(x: tf.Tensor, rate: float, random: StatelessRng | None) -> tf.Tensor:
    """Inverted dropout, x * keep / (1 - rate); the identity at inference (`random` None) or at rate 0."""
    rate = round(rate * 256) / 256
    if random is None or rate == 0:
        return x
    # Scaling the mask, not x, spares a pass over x backward; two passes over it take half of what choosing would.
    scale = tf.constant(1.0 / (1.0 - rate), x.dtype)
    return x * (tf.cast(random.keep(tf.shape(x), rate), x.dtype) * scale)
