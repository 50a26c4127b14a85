"""One top-k over all items of a request's interests gives the list that merging the lists of the interests gives."""

import numpy as np
import pytest
import tensorflow as tf
from test_interests import options

from longretriever_tf.retrieval.index.exact import PackedIndex, Queries
from longretriever_tf.retrieval.interests import Interests
from longretriever_tf.retrieval.merge import MERGES
from longretriever_tf.retrieval.merge_lists import Lists, Merged, can_merge_flat, merge_flat, merge_lists
from longretriever_tf.retrieval.request_options import RequestOptions

DIM, NUM_CATEGORIES = 4, 13
OFFSET = np.array([0, 1, 2, 9, 9, 12, 31, 33, 40, 41, 60, 64, 65, 80])  # category 3 holds nothing


@pytest.fixture(scope="module")
def index() -> PackedIndex:
    rng = np.random.default_rng(5)
    return PackedIndex(
        rng.normal(size=[OFFSET[-1], DIM]).astype(np.float32), rng.normal(size=OFFSET[-1]).astype(np.float32), OFFSET
    )


def make_interests(rng: np.random.Generator, counts: list[int]) -> Interests:
    """So many distinct categories for each request, padded to the most, at least one, as `draw_interests` does."""
    width = max(*counts, 1)
    category, is_real = np.zeros([len(counts), width], np.int32), np.zeros([len(counts), width], bool)
    for row, count in enumerate(counts):
        filled = [c for c in range(2, NUM_CATEGORIES) if c != 3]
        category[row, :count], is_real[row, :count] = rng.permutation(filled)[:count], True
    blank = tf.zeros(category.shape, tf.int32)
    return Interests(tf.constant(category), tf.cast(blank, tf.float32), blank, tf.constant(is_real), blank)


def make_queries(rng: np.random.Generator, category: np.ndarray, corrects_own: bool) -> Queries:
    """User vectors with repeat logits, one item twice among them or all corrected, and some items left out."""
    low, high = OFFSET[category], OFFSET[category + 1]
    token = rng.integers(low[:, None], high[:, None], [len(category), 3]) * (rng.random([len(category), 3]) < 0.6)
    token[:, 2] = 0 if corrects_own else token[:, 1]  # a correction is of tokens that are items, each once
    out = np.flatnonzero(rng.random(len(category)) < 0.5)
    columns = (
        rng.normal(size=[len(category), DIM]).astype(np.float32),
        category.astype(np.int32),
        token.astype(np.int32),
        (rng.normal(size=token.shape) * (token > 0)).astype(np.float32),
        out.astype(np.int32),
        rng.integers(low[out], high[out]).astype(np.int32),
    )
    own = rng.normal(size=token.shape), 0.3 * rng.normal(size=len(category))
    columns += tuple(one.astype(np.float32) for one in own) if corrects_own else ()
    return Queries(*map(tf.constant, columns))


def merge_both_ways(
    index: PackedIndex, queries: Queries, interests: Interests, share: tf.Tensor, asked: RequestOptions
) -> tuple[Merged, Merged]:
    where = tf.cast(tf.where(interests.is_real), tf.int32)
    result = index.search(queries, tf.reduce_max(asked.k))
    shape = tf.concat([tf.shape(interests.category), tf.shape(result.item)[1:]], 0)
    lists = Lists(*(tf.scatter_nd(where, part, shape[: 1 + tf.rank(part)]) for part in result))
    flat = merge_flat(index.score(queries), index.first_item(queries.category), where, interests, share, asked)
    return merge_lists(lists, interests, share, asked), flat


@pytest.mark.parametrize("corrects_own", [False, True])
@pytest.mark.parametrize("counts", [[4], [3, 0, 10, 1], [10, 10], [0, 0], [0, 0, 2]])
def test_the_list_is_that_of_merged_lists(index, counts, corrects_own):
    rng = np.random.default_rng(sum(counts) + len(counts))
    interests = make_interests(rng, counts)
    category = interests.category.numpy()[interests.is_real.numpy()]
    share = tf.math.log_softmax(tf.constant(rng.normal(size=[len(counts), NUM_CATEGORIES]), tf.float32))
    forced = np.zeros(share.shape)
    forced[:, 4] = 3.0  # its probability is multiplied
    for k in (1, 7, 100):
        asked = options([0] * len(counts), 1, -9.0, forced=forced)._replace(
            k=tf.constant([max(1, k - row) for row in range(len(counts))]), merge=tf.zeros([len(counts)], tf.int32)
        )
        expected, found = merge_both_ways(index, make_queries(rng, category, corrects_own), interests, share, asked)
        np.testing.assert_array_equal(found.item, expected.item)
        np.testing.assert_array_equal(found.is_real, expected.is_real)
        np.testing.assert_array_equal(
            tf.where(found.is_real, found.interest, 0), tf.where(expected.is_real, expected.interest, 0)
        )
        np.testing.assert_allclose(found.score, expected.score, rtol=1e-5, atol=1e-5)
        assert found.is_real.numpy().any() == any(counts)


def test_ranks_are_asked_for_by_other_merges_alone():
    names = list(MERGES)
    for merge in names:
        asked = options([0, 0], 1, -9.0)._replace(merge=tf.constant([names.index("calibrated"), names.index(merge)]))
        assert bool(can_merge_flat(asked)) == (merge == "calibrated")
