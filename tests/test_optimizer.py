"""LazyAdamW against plain numpy: AdamW on dense weights, lazy Adam on the rows of a table that a step reads."""

import math

import numpy as np
import pytest
import tensorflow as tf

from longretriever_tf.models.optimizer import LazyAdamW

PEAK, DECAY, TOTAL = 0.03, 0.2, 40


def rate_at(step: int) -> float:
    """Linear warm-up over 5% of the steps (2 of 40), cosine to 0."""
    return PEAK * min((step + 1) / 2, 1.0) * 0.5 * (1 + math.cos(math.pi * step / TOTAL))


class NumpyAdam:
    """Adam as in its paper (epsilon next to the uncorrected deviation), decay decoupled; rows outside `where` wait."""

    def __init__(self, value: np.ndarray, decay: float) -> None:
        self.value, self.decay = value.astype(np.float64), decay
        self.mean, self.square = np.zeros(value.shape), np.zeros(value.shape)

    def apply(self, gradient: np.ndarray, step: int, where: slice | list = slice(None)) -> None:
        self.mean[where] = 0.9 * self.mean[where] + 0.1 * gradient[where]
        self.square[where] = 0.999 * self.square[where] + 0.001 * gradient[where] ** 2
        corrected = rate_at(step) * math.sqrt(1 - 0.999 ** (step + 1)) / (1 - 0.9 ** (step + 1))
        old = self.value[where]
        self.value[where] = (
            old - corrected * self.mean[where] / (np.sqrt(self.square[where]) + 1e-7) - rate_at(step) * self.decay * old
        )


def test_learning_rate_warms_up_then_fades():
    optimizer = LazyAdamW(PEAK, 0.0, TOTAL)
    optimizer.build([tf.Variable([0.0])])
    for step in (0, 1, 2, 20, 39, 40):
        optimizer.iterations.assign(step)
        assert float(optimizer.learning_rate) == pytest.approx(rate_at(step), rel=1e-5, abs=1e-9)


@pytest.mark.parametrize("name, decay", [("dense/kernel", DECAY), ("dense/bias", 0.0)])
def test_dense_weights_follow_adamw_and_only_kernels_decay(name, decay):
    rng = np.random.default_rng(1)
    start = rng.normal(size=[3, 5]).astype(np.float32)
    variable, expected = tf.Variable(start, name=name), NumpyAdam(start, decay)
    optimizer = LazyAdamW(PEAK, DECAY, TOTAL)
    optimizer.build([variable])
    for step in range(7):
        gradient = rng.normal(size=[3, 5]) * 10.0 ** rng.integers(-3, 3)
        optimizer.apply([tf.constant(gradient, tf.float32)])
        expected.apply(gradient, step)
        np.testing.assert_allclose(variable, expected.value, rtol=1e-4, atol=1e-6)


def test_tables_follow_adam_on_seen_rows_alone():
    rng = np.random.default_rng(2)
    start = rng.normal(size=[11, 3]).astype(np.float32)
    variable, expected = tf.Variable(start, name="item_id"), NumpyAdam(start, 0.0)
    optimizer = LazyAdamW(PEAK, DECAY, TOTAL)
    optimizer.build([variable])
    for step in range(7):
        rows = rng.integers(0, 7, 5)  # duplicates are sure: their gradients add up before the square
        rows[1] = rows[0]
        values = rng.normal(size=[5, 3])
        summed = np.zeros([11, 3])
        np.add.at(summed, rows, values)
        optimizer.apply([tf.IndexedSlices(tf.constant(values, tf.float32), tf.constant(rows), tf.constant([11, 3]))])
        before = expected.value.copy()
        expected.apply(summed, step, sorted(set(rows.tolist())))
        np.testing.assert_allclose(variable, expected.value, rtol=1e-4, atol=1e-6)
        untouched = np.setdiff1d(np.arange(11), rows)
        np.testing.assert_array_equal(expected.value[untouched], before[untouched])
    np.testing.assert_array_equal(variable.numpy()[7:], start[7:])


def test_a_missing_gradient_leaves_its_variable_alone_and_the_step_counts():
    first, second = tf.Variable([1.0, 2.0]), tf.Variable([3.0])
    optimizer = LazyAdamW(PEAK, 0.0, TOTAL)
    optimizer.build([first, second])
    optimizer.apply([None, tf.constant([0.5])])
    assert first.numpy().tolist() == [1.0, 2.0] and int(optimizer.iterations) == 1
    assert second.numpy()[0] == pytest.approx(3.0 - rate_at(0), rel=1e-5)  # Adam's first step has the rate's size
