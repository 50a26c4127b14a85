"""How much of TensorFlow's own matrix-multiply rate a training step reaches on useful work.

Useful work of a batch: the matrix products of the towers and the loss over its real tokens, forward and twice backward.
Their own rate is measured by running those very products, unpadded, back to back.
"""

import time

import numpy as np
import tensorflow as tf

from longretriever_tf.config.config import ModelConfig
from longretriever_tf.data.batches.in_context import Batch

Product = tuple[int, int, int, int]
"""A batched product [b, m, k] x [b, k, n] as (b, m, k, n)."""


def useful_products(config: ModelConfig, batch: Batch) -> list[Product]:
    """The forward products of one batch of LongRetriever, counted on real tokens."""
    rows, dim = int(batch.category.shape[0]), config.dim
    real = int(np.count_nonzero(batch.token_item))
    prefix = 1 + int(config.reads_history_embedding) + (int(batch.profile.shape[1]) if config.profile else 0)
    tokens, items, width = real + rows * prefix, int(batch.item.shape[1]), int(batch.features.shape[2])
    length = max(1, round(tokens / rows))
    products = [(1, real, width, dim)]
    for layer in range(config.num_layers):
        is_last = layer == config.num_layers - 1 and not config.repeat_term
        written = rows if is_last else tokens
        queries, heads, head = (1 if is_last else length), config.num_heads, dim // config.num_heads
        products += [(1, written, dim, dim), (1, tokens, dim, 2 * dim), (1, written, dim, dim)]
        products += [(rows * heads, queries, head, length), (rows * heads, queries, length, head)]
        products += [(1, written, dim, config.ff_dim), (1, written, config.ff_dim, dim)]
    if config.repeat_term:
        products += [(1, real, dim + width, dim), (1, real, dim, 1)]
    if config.reads_history_embedding:
        products.append((1, rows, config.svd_dim, dim))
    if config.svd_dim:
        products.append((1, items, config.svd_dim, dim))
    return [product for product in [*products, (1, rows, dim, items)] if min(product) > 0]


def work_of(products: list[Product]) -> float:
    """Floating point operations of a step: forward, and as much again for each of the two gradients."""
    return 3.0 * sum(2.0 * b * m * k * n for b, m, k, n in products)


def products_s(products: list[Product], repeats: int = 3) -> float:
    """Seconds that TensorFlow takes for the products and the two of each one's gradient, the best of `repeats`."""
    operands = []
    for b, m, k, n in products:
        shapes = ([b, m, k], [b, k, n], [b, m, n]) if b > 1 else ([m, k], [k, n], [m, n])
        operands.append(tuple(tf.random.normal(shape) for shape in shapes))

    @tf.function
    def run() -> tf.Tensor:
        out = []
        for left, right, gradient in operands:
            out += [
                tf.matmul(left, right),
                tf.matmul(gradient, right, transpose_b=True),
                tf.matmul(left, gradient, transpose_a=True),
            ]
        return tf.add_n([tf.reshape(x, [-1])[0] for x in out])

    float(run())
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        float(run())
        times.append(time.perf_counter() - start)
    return min(times)
