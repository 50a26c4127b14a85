"""Pre-LN Transformer (eq. 1): LayerNorm before attention and before the feed-forward block, residual around each."""

import math
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from longretriever_tf.models.stateless_dropout import StatelessRng, dropout

_EPSILON = 1e-6
"""Added to the variance of LayerNorm."""

_NEVER = -1e9
"""Added to the logit of a padded token: its share of the attention is 0, to the last digit."""


@tf.custom_gradient
def _standardise(x: tf.Tensor) -> tuple[tf.Tensor, Callable[[tf.Tensor], tf.Tensor]]:
    """Rows of mean 0 and variance 1, [n, D] float32 -> [n, D].

    Plainly `(x - mean(x)) / sqrt(var(x) + epsilon)`, as Keras's LayerNormalization has it (held to it, gradients too,
    by tests/test_encoder.py). Its own gradient takes seven operations, half of what TensorFlow derives: five norms were
    a quarter of a training step of two layers (benchmarks/bench_training.py, --num_layers=2).
    """
    centred = x - tf.reduce_mean(x, 1, keepdims=True)
    scale = tf.math.rsqrt(tf.reduce_mean(tf.square(centred), 1, keepdims=True) + _EPSILON)
    standard = centred * scale

    def gradient(upstream: tf.Tensor) -> tf.Tensor:
        along = tf.reduce_mean(upstream * standard, 1, keepdims=True)
        return (upstream - tf.reduce_mean(upstream, 1, keepdims=True) - standard * along) * scale

    return standard, gradient


class LayerNorm(tf.keras.layers.Layer):
    """LayerNorm over the last axis, computed in float32 whatever the policy."""

    def build(self, shape: Any) -> None:
        """Makes gain and offset, [D] each."""
        self.gamma = self.add_weight(name="gamma", shape=[shape[-1]], initializer="ones")
        self.beta = self.add_weight(name="beta", shape=[shape[-1]], initializer="zeros")
        super().build(shape)

    def call(self, x: tf.Tensor) -> tf.Tensor:
        """[n, D] -> [n, D]."""
        return self.standardise(x) * self.gamma + self.beta

    def standardise(self, x: tf.Tensor) -> tf.Tensor:
        """Without gain and offset, for `project`: [n, D] -> [n, D]."""
        return tf.cast(_standardise(tf.cast(x, tf.float32)), x.dtype)

    def project(self, rows: tf.Tensor, dense: tf.keras.layers.Dense, scale: float = 1.0) -> tf.Tensor:
        """The Dense layer that reads this norm, from rows that `standardise` returned: [n, D] -> [n, width].

        Plainly `dense.activation(scale * (tf.matmul(rows * gamma + beta, dense.kernel) + dense.bias))` (held to it by
        tests/test_encoder.py). Gain and offset are folded into the layer, (x g + b) W + c = x (g W) + (b W + c), which
        spares two passes over all tokens forward and four backward (benchmarks/bench_training.py, "steps"); so is the
        scale.
        """
        with tf.name_scope(dense.name):
            weights = (dense.kernel, dense.bias, self.gamma, self.beta)
            kernel, bias, gain, offset = (tf.cast(weight, rows.dtype) for weight in weights)
            bias = scale * (bias + tf.matmul(offset[None], kernel)[0])
            return dense.activation(tf.nn.bias_add(tf.matmul(rows, scale * gain[:, None] * kernel), bias))


class PreLNLayer(tf.keras.layers.Layer):
    """One Pre-LN Transformer layer.

    Args:
      dim: D, width.
      num_heads: heads, a divisor of D.
      ff_dim: width of the feed-forward block.
      rate: dropout of both branches.
      dtype: precision policy; float32 by default.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        ff_dim: int,
        rate: float,
        name: str | None = None,
        dtype: tf.keras.mixed_precision.Policy | None = None,
    ) -> None:
        super().__init__(name=name, dtype=dtype)
        self._num_heads, self._head_dim, self._rate = num_heads, dim // num_heads, rate
        self._norm_attention = LayerNorm(dtype=dtype, name="norm_attention")
        self._norm_ff = LayerNorm(dtype=dtype, name="norm_ff")
        self._query = tf.keras.layers.Dense(dim, dtype=dtype, name="query")
        self._key_value = tf.keras.layers.Dense(2 * dim, dtype=dtype, name="key_value")
        self._output = tf.keras.layers.Dense(dim, dtype=dtype, name="output")
        self._expand = tf.keras.layers.Dense(ff_dim, activation="relu", dtype=dtype, name="expand")
        self._contract = tf.keras.layers.Dense(dim, dtype=dtype, name="contract")

    def build(self, shape: Any) -> None:
        """Makes all weights: what `LayerNorm.project` reads is never called."""
        dim, ff_dim = self._output.units, self._expand.units
        parts = [self._norm_attention, self._query, self._key_value, self._output, self._norm_ff, self._expand]
        for part, width in [*((part, dim) for part in parts), (self._contract, ff_dim)]:
            with tf.name_scope(part.name):
                part.build([None, width])
        super().build(shape)

    def call(
        self, x: tf.Tensor, mask: tf.Tensor, num_queries: int | None = None, random: StatelessRng | None = None
    ) -> tf.Tensor:
        """Reads all tokens, writes the first `num_queries` of them (all by default).

        The last layer of a tower that is read at [CLS] alone needs only that row: K and V span all tokens, while Q,
        the output projection and the feed-forward block are computed for one.

        Args:
          x: [B, S, D] float.
          mask: [B, S] bool, True where a token is real.
          num_queries: rows to write.
          random: draws of this training step; None at inference.

        Returns:
          [B, num_queries or S, D] float.
        """
        shape, rows = tf.shape(x), self._norm_attention.standardise(flat_rows(x))
        read, queries = x, rows
        if num_queries is not None:
            read = x[:, :num_queries]
            queries = flat_rows(tf.reshape(rows, shape)[:, :num_queries])
        q = self._norm_attention.project(queries, self._query, 1.0 / math.sqrt(self._head_dim))
        key_value = self._norm_attention.project(rows, self._key_value)
        y = read + dropout(self._attend(self._split(q, read), self._split(key_value, x, 2), mask), self._rate, random)
        hidden = self._norm_ff.project(self._norm_ff.standardise(flat_rows(y)), self._expand)
        return y + dropout(tf.reshape(self._contract(hidden), tf.shape(y)), self._rate, random)

    def _attend(self, query: tf.Tensor, key_value: tf.Tensor, mask: tf.Tensor) -> tf.Tensor:
        """[B, Q, H, D/H], scaled, and [B, S, 2, H, D/H] -> [B, Q, D]."""
        shape = tf.shape(query)
        q = tf.transpose(query, [0, 2, 1, 3])  # [B, H, Q, D/H]
        k, v = tf.unstack(tf.transpose(key_value, [2, 0, 3, 1, 4]))  # [B, H, S, D/H]
        # Added, since choosing costs as much as half a product, and as much again backward. The scale is in q: with a
        # scale and a sum behind it a product is fused into a kernel whose last digits vary between runs.
        bias = tf.cast(tf.where(mask, 0.0, _NEVER), q.dtype)
        logits = tf.matmul(q, k, transpose_b=True) + bias[:, None, None, :]  # [B, H, Q, S]
        mixed = tf.transpose(tf.matmul(tf.nn.softmax(logits), v), [0, 2, 1, 3])  # [B, Q, H, D/H]
        dim = self._num_heads * self._head_dim
        return tf.reshape(self._output(tf.reshape(mixed, [-1, dim])), [shape[0], shape[1], dim])

    def _split(self, projected: tf.Tensor, like: tf.Tensor, *parts: int) -> tf.Tensor:
        """By head: [B S, width] and [B, S, D] -> [B, S, *parts, H, D/H]."""
        shape = tf.shape(like)
        return tf.reshape(projected, [shape[0], shape[1], *parts, self._num_heads, self._head_dim])


def flat_rows(x: tf.Tensor) -> tf.Tensor:
    """[..., D] -> [n, D]: a Dense layer takes ten operations more for three axes than for two."""
    return tf.reshape(x, [-1, x.shape[-1]])


class Encoder(tf.keras.layers.Layer):
    """A stack of Pre-LN layers with a last LayerNorm; row 0 is [CLS]."""

    def __init__(
        self,
        dim: int,
        num_layers: int,
        num_heads: int,
        ff_dim: int,
        rate: float,
        dtype: tf.keras.mixed_precision.Policy | None = None,
    ) -> None:
        super().__init__(name="encoder", dtype=dtype)
        self._layers = [PreLNLayer(dim, num_heads, ff_dim, rate, f"layer_{i}", dtype) for i in range(num_layers)]
        self._final_norm = LayerNorm(dtype=dtype, name="final_norm")

    def call(self, x: tf.Tensor, mask: tf.Tensor, cls_only: bool, random: StatelessRng | None = None) -> tf.Tensor:
        """[B, S, D] -> [B, 1, D] if `cls_only`, else [B, S, D]; `mask` is [B, S] bool."""
        for layer in self._layers[:-1]:
            x = layer(x, mask, random=random)
        x = self._layers[-1](x, mask, num_queries=1 if cls_only else None, random=random)
        return tf.reshape(self._final_norm(flat_rows(x)), tf.shape(x))
