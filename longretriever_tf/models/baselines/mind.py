"""MIND (Li et al., CIKM 2019): interest capsules by dynamic routing, label-aware attention in training."""

import math

import tensorflow as tf

from longretriever_tf.common.graph import as_it_stands
from longretriever_tf.config.config import Config
from longretriever_tf.models.baselines.user_side import Interests, Queries
from longretriever_tf.models.stateless_dropout import StatelessRng

_ROUTING_ITERATIONS = 3
_ATTENTION_POWER = 2.0
"""Of label-aware attention in training; 1 would be plain attention, a large one takes the nearest interest."""


def squash(x: tf.Tensor) -> tf.Tensor:
    """|x|^2 / (1 + |x|^2) x / |x| along the last axis; 0 stays 0."""
    square = tf.reduce_sum(tf.square(x), -1, keepdims=True)
    return x * square / (1.0 + square) * tf.math.rsqrt(square + 1e-9)


def num_interests(num_events: tf.Tensor, most: int) -> tf.Tensor:
    """K'_u = max(1, min(K, log2 |I_u|)), [R] int32: a short history has few interests."""
    log2 = tf.math.log(tf.maximum(tf.cast(num_events, tf.float32), 1.0)) / math.log(2.0)
    return tf.clip_by_value(tf.cast(tf.floor(log2 + 1e-4), tf.int32), 1, most)


def route(
    events: tf.Tensor, is_event: tf.Tensor, is_capsule: tf.Tensor, initial: tf.Tensor, iterations: int
) -> tf.Tensor:
    """Behavior-to-interest dynamic routing.

    b = `initial`; then, `iterations` times: w_ij = softmax_j b_ij over the user's capsules,
    u_j = squash(sum_i w_ij x_i), b_ij += u_j . x_i. Gradients flow through the last u alone, as in the authors' code.

    Args:
      events: x = S e, behaviors times the shared bilinear map, [R, L, D] float32.
      is_event: [R, L] bool.
      is_capsule: [R, K] bool.
      initial: b, one row per position, counted from the newest event, [L, K] float32.
      iterations: at least 1.

    Returns:
      u, [R, K, D] float32; 0 where a capsule is not real.
    """
    fixed = tf.stop_gradient(events)
    closed = tf.where(is_capsule, 0.0, events.dtype.min / 2)[:, None]  # [R, 1, K]
    real = tf.cast(is_event, tf.float32)[:, :, None]
    logits = tf.repeat(initial[None], tf.shape(events)[0], axis=0)  # [R, L, K]
    capsules = tf.zeros([])
    for iteration in range(iterations):
        weight = tf.nn.softmax(logits + closed) * real
        source = events if iteration == iterations - 1 else fixed
        capsules = squash(tf.matmul(weight, source, transpose_a=True))  # [R, K, D]
        if iteration < iterations - 1:
            logits += tf.matmul(fixed, capsules, transpose_b=True)
    return capsules * tf.cast(is_capsule, tf.float32)[:, :, None]


class CapsuleInterests(tf.keras.layers.Layer):
    """Capsules by routing from fixed random logits, then two dense layers that the capsules share."""

    uses_position = False

    def __init__(self, config: Config) -> None:
        super().__init__(name="capsule_interests")
        model, self._config = config.model, config.baseline
        self._bilinear = tf.keras.layers.Dense(model.dim, use_bias=False, name="bilinear")
        # The paper draws b from a normal distribution and never trains it; one draw for all users keeps serving fixed.
        self._initial = self.add_weight(
            name="routing_logits",
            shape=[config.baseline.recent_length, config.baseline.num_capsules],
            initializer=tf.keras.initializers.RandomNormal(stddev=1.0),
            trainable=False,
        )
        self._expand = tf.keras.layers.Dense(model.ff_dim, activation="relu", name="expand")
        self._contract = tf.keras.layers.Dense(model.dim, name="contract")

    @as_it_stands
    def call(self, events: tf.Tensor, is_real: tf.Tensor, random: StatelessRng | None = None) -> Interests:
        """See `interests.UserSide`; K = `num_capsules`."""
        del random
        most = self._config.num_capsules
        many = num_interests(tf.reduce_sum(tf.cast(is_real, tf.int32), 1), most)
        is_capsule = tf.range(most)[None] < many[:, None]
        initial = self._initial[: tf.shape(events)[1]]
        capsules = route(self._bilinear(events), is_real, is_capsule, initial, _ROUTING_ITERATIONS)
        return Interests(self._contract(self._expand(capsules)), is_capsule)

    def queries(self, interests: Interests, target_row: tf.Tensor, target_vector: tf.Tensor) -> Queries:
        """Label-aware attention, one query per target: V softmax(pow(V . e, p)), the power keeping the sign."""
        vectors = tf.gather(interests.vector, target_row)  # [t, K, D]
        product = tf.linalg.matvec(vectors, target_vector)  # [t, K]
        power = tf.sign(product) * tf.pow(tf.abs(product), _ATTENTION_POWER)
        is_real = tf.gather(interests.is_real, target_row)
        weight = tf.nn.softmax(tf.where(is_real, power, power.dtype.min))
        mixed = tf.linalg.matvec(vectors, weight, transpose_a=True)  # [t, D]
        return Queries(mixed, target_row, tf.range(tf.size(target_row)))
