"""The packed index against a numpy search of each category, one request at a time."""

import numpy as np
import pytest
import tensorflow as tf

from longretriever_tf.retrieval.index import exact
from longretriever_tf.retrieval.index.exact import PackedIndex, Queries

DIM = 5
OFFSET = np.array([0, 1, 2, 9, 12, 31])  # padding, unknown, then categories of 7, 3 and 19 items


def made_index() -> tuple[PackedIndex, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(11)
    vectors = rng.normal(size=[OFFSET[-1], DIM]).astype(np.float32)
    bias = rng.normal(size=OFFSET[-1]).astype(np.float32)
    return PackedIndex(vectors, bias, OFFSET), vectors, bias


def requests(categories: list[int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Embeddings [R, D], token items [R, 4] of the right category (padded, one twice), repeat logits [R, 4]."""
    rng = np.random.default_rng(13)
    items = np.zeros([len(categories), 4], np.int32)
    for row, category in enumerate(categories):
        for at in range(row % 4):
            items[row, at] = rng.integers(OFFSET[category], OFFSET[category + 1])
        if row % 4 == 3:
            items[row, 2] = items[row, 1]
    repeat_logit = rng.normal(size=items.shape).astype(np.float32) * 3
    return rng.normal(size=[len(categories), DIM]).astype(np.float32), items, repeat_logit


def queries(embedding, category, items, repeat_logit, excluded: list[tuple[int, int]] | None = None) -> Queries:
    pairs = np.array(excluded or [], np.int32).reshape(-1, 2)
    columns = map(tf.convert_to_tensor, (embedding, category, items, repeat_logit, pairs[:, 0], pairs[:, 1]))
    return Queries(*columns)


def oracle(embedding, category, items, repeat_logit, vectors, bias) -> tuple[list[int], list[float], float]:
    scored = {}
    for v in range(OFFSET[category], OFFSET[category + 1]):
        own = sum(b for item, b in zip(items, repeat_logit, strict=True) if item == v)
        scored[v] = float(embedding @ vectors[v] + bias[v] + own)
    best = sorted(scored, key=lambda v: -scored[v])
    return best, [scored[v] for v in best], float(np.log(np.sum(np.exp(list(scored.values())))))


@pytest.fixture(params=[2, 8, 10**6])
def max_width(request, monkeypatch):
    """All categories searched one by one, the largest alone, or all side by side: the answers are the same."""
    monkeypatch.setattr(exact, "_MAX_WIDTH", request.param)


@pytest.mark.usefixtures("max_width")
@pytest.mark.parametrize("k", [1, 3, 7, 40])
def test_equals_numpy_for_every_category_in_any_order(k):
    index, vectors, bias = made_index()
    categories = [4, 2, 3, 4, 4, 2, 3, 2, 4]  # duplicates across rows, groups interleaved
    embedding, items, repeat_logit = requests(categories)
    found = index.search(queries(embedding, categories, items, repeat_logit), tf.constant(k))
    assert found.item.shape == found.logit.shape == (len(categories), k)
    for row, category in enumerate(categories):
        best, logits, partition = oracle(embedding[row], category, items[row], repeat_logit[row], vectors, bias)
        size = min(k, len(best))
        assert found.item[row].numpy().tolist() == best[:size] + [0] * (k - size)
        np.testing.assert_allclose(found.logit[row], logits[:size] + [0.0] * (k - size), rtol=1e-4, atol=1e-5)
        assert float(found.log_partition[row]) == pytest.approx(partition, rel=1e-5)


@pytest.mark.usefixtures("max_width")
def test_excluded_items_never_come_back_not_even_into_a_short_list():
    index, vectors, bias = made_index()
    categories = [4, 3, 2, 3]
    embedding, items, repeat_logit = requests(categories)
    excluded = [(0, 12), (0, 30), (1, 9), (1, 10), (1, 11), (3, 10)]  # all of row 1's category
    found = index.search(queries(embedding, categories, items, repeat_logit, excluded), tf.constant(40))
    for row, category in enumerate(categories):
        out = {item for at, item in excluded if at == row}
        best, logits, _ = oracle(embedding[row], category, items[row], repeat_logit[row], vectors, bias)
        kept = [(item, logit) for item, logit in zip(best, logits, strict=True) if item not in out]
        got = found.item[row].numpy()
        assert got[got > 0].tolist() == [item for item, _ in kept]
        if kept:
            partition = float(np.log(np.sum(np.exp([logit for _, logit in kept]))))
            assert float(found.log_partition[row]) == pytest.approx(partition, rel=1e-5)
    assert np.isfinite(found.logit).all() and np.isfinite(found.log_partition).all()


@pytest.mark.usefixtures("max_width")
def test_no_requests_no_answers():
    """A request without any interest (eq. 3 on an empty history) is legal: nothing is searched."""
    index, _, _ = made_index()
    none = tf.zeros([0, 4], tf.int32)

    @tf.function
    def search(embedding, category, items, repeat_logit):
        return index.search(queries(embedding, category, items, repeat_logit), tf.constant(3))

    found = search(tf.zeros([0, DIM]), tf.zeros([0], tf.int32), none, tf.zeros([0, 4]))
    assert found.item.shape == (0, 3) and found.logit.shape == (0, 3) and found.log_partition.shape == (0,)


def test_rows_are_vectors_and_biases():
    index, vectors, bias = made_index()
    found = index.rows(tf.constant([5, 2, 5]))
    np.testing.assert_array_equal(found[0], vectors[[5, 2, 5]])
    np.testing.assert_array_equal(found[1], bias[[5, 2, 5]])
