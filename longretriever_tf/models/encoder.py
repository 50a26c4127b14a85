"""Pre-LN Transformer (eq. 1): LayerNorm before attention and before the feed-forward block, residual around each."""

import math

import tensorflow as tf

from longretriever_tf.models.random import StepRandom, dropout


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
        self._norm_attention = tf.keras.layers.LayerNormalization(epsilon=1e-6, dtype=dtype, name="norm_attention")
        self._norm_ff = tf.keras.layers.LayerNormalization(epsilon=1e-6, dtype=dtype, name="norm_ff")
        self._query = tf.keras.layers.Dense(dim, dtype=dtype, name="query")
        self._key_value = tf.keras.layers.Dense(2 * dim, dtype=dtype, name="key_value")
        self._output = tf.keras.layers.Dense(dim, dtype=dtype, name="output")
        self._expand = tf.keras.layers.Dense(ff_dim, activation="relu", dtype=dtype, name="expand")
        self._contract = tf.keras.layers.Dense(dim, dtype=dtype, name="contract")

    def call(
        self, x: tf.Tensor, mask: tf.Tensor, num_queries: int | None = None, random: StepRandom | None = None
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
        normed = self._norm_attention(x)
        read = x if num_queries is None else x[:, :num_queries]
        attended = self._attend(normed if num_queries is None else normed[:, :num_queries], normed, mask)
        y = read + dropout(attended, self._rate, random)
        hidden = self._contract(self._expand(flat_rows(self._norm_ff(y))))
        return y + dropout(tf.reshape(hidden, tf.shape(y)), self._rate, random)

    def _attend(self, query: tf.Tensor, tokens: tf.Tensor, mask: tf.Tensor) -> tf.Tensor:
        shape = tf.shape(query)
        q = tf.transpose(self._split(self._query, query), [0, 2, 1, 3])  # [B, H, Q, D/H]
        k, v = tf.unstack(tf.transpose(self._split(self._key_value, tokens, 2), [2, 0, 3, 1, 4]))  # [B, H, S, D/H]
        logits = tf.matmul(q, k, transpose_b=True) / math.sqrt(self._head_dim)  # [B, H, Q, S]
        # Chosen, not added: adding a mask is fused with the product into a kernel whose last digits vary between runs.
        logits = tf.where(mask[:, None, None, :], logits, logits.dtype.min)
        mixed = tf.transpose(tf.matmul(tf.nn.softmax(logits), v), [0, 2, 1, 3])  # [B, Q, H, D/H]
        return tf.reshape(self._output(tf.reshape(mixed, [-1, shape[2]])), shape)

    def _split(self, project: tf.keras.layers.Dense, x: tf.Tensor, *parts: int) -> tf.Tensor:
        """Projected and split by head: [B, S, D] -> [B, S, *parts, H, D/H]."""
        shape = tf.shape(x)
        return tf.reshape(project(flat_rows(x)), [shape[0], shape[1], *parts, self._num_heads, self._head_dim])


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
        self._final_norm = tf.keras.layers.LayerNormalization(epsilon=1e-6, dtype=dtype, name="final_norm")

    def call(self, x: tf.Tensor, mask: tf.Tensor, cls_only: bool, random: StepRandom | None = None) -> tf.Tensor:
        """[B, S, D] -> [B, 1, D] if `cls_only`, else [B, S, D]; `mask` is [B, S] bool."""
        for layer in self._layers[:-1]:
            x = layer(x, mask, random=random)
        x = self._layers[-1](x, mask, num_queries=1 if cls_only else None, random=random)
        return self._final_norm(x)
