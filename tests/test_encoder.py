"""The Pre-LN layer against numpy, and dropout as a function of (seed, step) alone."""

import math

import numpy as np
import pytest
import tensorflow as tf

from longretriever_tf.models.encoder import Encoder, LayerNorm, PreLNLayer
from longretriever_tf.models.stateless_dropout import StatelessRng, dropout

BATCH, LENGTH, HEADS, HEAD_DIM, FF = 2, 7, 3, 5, 11  # each a different prime: a swapped axis fails
DIM = HEADS * HEAD_DIM


def made_layer() -> tuple[PreLNLayer, dict[str, np.ndarray]]:
    """A layer with no weight at its initial value, and its weights by name."""
    layer = PreLNLayer(DIM, HEADS, FF, rate=0.0)
    layer(tf.zeros([1, 1, DIM]), tf.ones([1, 1], tf.bool))
    rng = np.random.default_rng(5)
    for weight in layer.weights:
        weight.assign(rng.normal(size=weight.shape) * 0.7)
    return layer, {weight.name.split(":")[0].split("/", 1)[-1]: weight.numpy() for weight in layer.weights}


def norm(x: np.ndarray, w: dict[str, np.ndarray], name: str) -> np.ndarray:
    centered = x - x.mean()
    return centered / math.sqrt((centered**2).mean() + 1e-6) * w[f"{name}/gamma"] + w[f"{name}/beta"]


def dense(x: np.ndarray, w: dict[str, np.ndarray], name: str) -> np.ndarray:
    return x @ w[f"{name}/kernel"] + w[f"{name}/bias"]


def oracle(x: np.ndarray, mask: np.ndarray, w: dict[str, np.ndarray]) -> np.ndarray:
    """One example, one token, one head at a time; x [S, D], mask [S]."""
    normed = [norm(row, w, "norm_attention") for row in x]
    out = []
    for s in range(len(x)):
        query = dense(normed[s], w, "query")
        heads = []
        for h in range(HEADS):
            at = slice(h * HEAD_DIM, (h + 1) * HEAD_DIM)
            real = [t for t in range(len(x)) if mask[t]]
            keys = [dense(normed[t], w, "key_value")[:DIM][at] for t in real]
            values = [dense(normed[t], w, "key_value")[DIM:][at] for t in real]
            weights = np.array([math.exp(query[at] @ key / math.sqrt(HEAD_DIM)) for key in keys])
            heads.append(sum(p * value for p, value in zip(weights / weights.sum(), values, strict=True)))
        y = x[s] + dense(np.concatenate(heads), w, "output")
        hidden = np.maximum(dense(norm(y, w, "norm_ff"), w, "expand"), 0)
        out.append(y + dense(hidden, w, "contract"))
    return np.array(out)


def tokens_and_mask() -> tuple[np.ndarray, np.ndarray]:
    x = np.random.default_rng(7).normal(size=[BATCH, LENGTH, DIM]).astype(np.float32)
    mask = np.ones([BATCH, LENGTH], bool)
    mask[0, 3] = mask[1, 4:] = False
    return x, mask


def test_layer_equals_the_oracle():
    layer, weights = made_layer()
    x, mask = tokens_and_mask()
    expected = [oracle(x[b].astype(np.float64), mask[b], weights) for b in range(BATCH)]
    np.testing.assert_allclose(layer(x, tf.constant(mask)), expected, rtol=2e-4, atol=2e-5)


def test_layer_norm_and_its_gradients_are_those_of_keras():
    rng = np.random.default_rng(3)
    x, upstream = (tf.constant(rng.normal(2.0, 3.0, [13, DIM]).astype(np.float32)) for _ in range(2))
    norms = LayerNorm(), tf.keras.layers.LayerNormalization(epsilon=1e-6)
    found = []
    for one in norms:
        one.build([None, DIM])
        for weight, seed in zip(one.weights, (4, 5), strict=True):
            weight.assign(np.random.default_rng(seed).normal(size=DIM))
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = one(x)
        found.append([y, *tape.gradient(y, [x, *one.weights], upstream)])
    for ours, keras in zip(*found, strict=True):
        np.testing.assert_allclose(ours, keras, rtol=1e-4, atol=1e-5)


def test_a_projection_has_the_gain_and_offset_worked_in():
    layer, weights = made_layer()
    x = np.random.default_rng(8).normal(size=[13, DIM]).astype(np.float32)
    rows = layer._norm_ff.standardise(tf.constant(x))
    expected = np.array([dense(norm(row.astype(np.float64), weights, "norm_ff"), weights, "expand") for row in x])
    found = layer._norm_ff.project(rows, layer._expand, 3.0)
    np.testing.assert_allclose(found, 3 * np.maximum(expected, 0), rtol=2e-4, atol=2e-4)


def test_masked_equals_removed():
    layer, _ = made_layer()
    x, mask = tokens_and_mask()
    whole = layer(x, tf.constant(mask)).numpy()
    for b in range(BATCH):
        kept = layer(x[b : b + 1, mask[b]], tf.ones([1, mask[b].sum()], tf.bool)).numpy()
        np.testing.assert_allclose(whole[b, mask[b]], kept[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("num_queries", [1, 3])
def test_few_queries_are_the_first_rows_of_all(num_queries):
    layer, _ = made_layer()
    x, mask = tokens_and_mask()
    few = layer(x, tf.constant(mask), num_queries=num_queries).numpy()
    assert few.shape == (BATCH, num_queries, DIM)
    np.testing.assert_allclose(few, layer(x, tf.constant(mask))[:, :num_queries], rtol=1e-4, atol=1e-5)


def test_encoder_read_at_cls_is_row_0_of_the_whole():
    encoder = Encoder(DIM, num_layers=2, num_heads=HEADS, ff_dim=FF, rate=0.0)
    x, mask = tokens_and_mask()
    whole = encoder(x, tf.constant(mask), cls_only=False).numpy()
    np.testing.assert_allclose(encoder(x, tf.constant(mask), cls_only=True), whole[:, :1], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(whole.mean(-1), 0, atol=1e-5)  # the last norm, at its initial gain


def test_dropout_is_a_function_of_seed_and_step():
    layer = PreLNLayer(DIM, HEADS, FF, rate=0.25)
    x, mask = tokens_and_mask()

    def drop(seed: int, step: int) -> np.ndarray:
        return layer(x, tf.constant(mask), random=StatelessRng(seed, tf.constant(step, tf.int64))).numpy()

    np.testing.assert_array_equal(drop(1, 7), drop(1, 7))
    plain = layer(x, tf.constant(mask)).numpy()
    others = [plain, drop(1, 8), drop(2, 7)]
    assert all(np.abs(drop(1, 7) - other).max() > 1e-3 for other in others)


def test_dropout_keeps_the_mean_and_call_sites_differ():
    random = StatelessRng(3, tf.constant(0))
    first, second = (dropout(tf.ones([101, 103]), 0.25, random).numpy() for _ in range(2))
    assert set(np.unique(first)) == {0.0, np.float32(4 / 3)}
    assert abs((first == 0).mean() - 0.25) < 0.02 and abs(first.mean() - 1) < 0.03
    assert 0.3 < (first != second).mean() < 0.45  # independent: 2 * 0.25 * 0.75 = 0.375
    assert dropout(tf.ones([2]), 0.25, None).numpy().tolist() == [1, 1]


@pytest.mark.parametrize("seed", [0, 3_000_000, 2**31 - 1])
def test_any_seed_of_the_config_draws(seed):
    kept = StatelessRng(seed, tf.constant(5, tf.int64)).keep(tf.constant([1001]), 0.5).numpy()
    assert 0.4 < kept.mean() < 0.6
