import numpy as np
import pytest
import reference
from small_histories import NUM_ITEMS, encode, random_histories

from longretriever_tf.evaluation.funnel.channels import (
    COUNTS,
    RATIOS,
    count_channel,
    cut_lists,
    expose,
    pool,
    translate_lists,
)
from longretriever_tf.evaluation.funnel.exposure import bootstrap_ratios, ratios_of
from longretriever_tf.evaluation.funnel.run_funnel import sample_users
from longretriever_tf.evaluation.ground_truth import Truth, build_truth

V = 11
MINE = np.array([[2, 3, 4, 5], [6, 7, 8, -1]])
OTHER = np.array([[2, 9, 10, -1], [7, 9, -1, -1]])
THIRD = np.array([[3, 9, -1, -1], [-1, -1, -1, -1]])
TRUTH = Truth(
    users=np.array([4, 8]),
    offset=np.array([0, 2, 4]),
    item=np.array([4, 9, 6, 10]),
    is_novel=np.array([True, True, False, True]),
    interacted_offset=np.array([0, 1, 3]),
    interacted_item=np.array([3, 6, 9]),
    num_items=V,
)
SCORE = {(0, 2): 9, (0, 3): 1, (0, 4): 8, (0, 5): 7, (0, 9): 7, (0, 10): 2, (1, 6): 3, (1, 7): 3, (1, 8): 1, (1, 9): 2}


def shown(size: int = 3):
    """The pool of the three channels, and the `size` best of each user by `SCORE`."""
    pairs = pool([MINE, OTHER, THIRD], V)
    score = np.array([SCORE[pair] for pair in zip(pairs.row.tolist(), pairs.item.tolist(), strict=True)], float)
    return pairs, expose(pairs, np.ones(len(score), bool), score, size)


def metrics(counts: dict[str, np.ndarray]) -> dict[str, float]:
    sums = np.array([counts[name].sum() for name in COUNTS])
    return dict(zip(RATIOS, ratios_of(sums).tolist(), strict=True))


def test_exposures_by_hand_ties_to_the_lower_item():
    pairs, exposed = shown()
    assert list(zip(pairs.row[exposed].tolist(), pairs.item[exposed].tolist(), strict=True)) == [
        *((0, 2), (0, 4), (0, 5)),  # 5 and 9 tie at 7
        *((1, 6), (1, 7), (1, 9)),
    ]


def test_aer_uer_and_conversion_by_hand():
    pairs, exposed = shown()
    counts = count_channel(pairs, MINE, [OTHER, THIRD], exposed, TRUTH)
    # Exposed and mine: 2, 4, 5 | 6, 7. Of my seven, no one else has 4, 5 | 6, 8; exposed 4, 5 | 6; taken 4 | 6.
    assert {name: count.tolist() for name, count in counts.items()} == {
        "retrieved": [4, 3],
        "exposed": [3, 2],
        "converted": [1, 1],
        "unique": [2, 2],
        "unique_exposed": [2, 1],
        "unique_converted": [1, 1],
        "owned": [1, 1],
        "owned_exposed": [0, 1],
        "novel": [3, 2],
        "novel_exposed": [3, 1],
        "page": [3, 3],
        "page_converted": [1, 1],
    }
    found = metrics(counts)
    assert (found["aer"], found["uer"], found["conversion"]) == pytest.approx((5 / 7, 3 / 7, 2 / 3))
    assert found["uer"] == pytest.approx(found["unique_share"] * found["uer_of_unique"])


def test_a_channel_that_repeats_another_has_no_unique_item_and_no_conversion():
    pairs, exposed = shown()
    found = metrics(count_channel(pairs, MINE, [MINE[:, ::-1], OTHER], exposed, TRUTH))
    assert (found["aer"], found["uer"]) == (5 / 7, 0.0)
    assert np.isnan(found["conversion"])


def test_only_candidates_are_exposed_and_short_users_show_what_they_have():
    pairs, _ = shown()
    exposed = expose(pairs, pairs.has_list(OTHER), np.zeros(len(pairs.row)), 2)
    assert list(zip(pairs.row[exposed].tolist(), pairs.item[exposed].tolist(), strict=True)) == [
        *((0, 2), (0, 9)),
        *((1, 7), (1, 9)),
    ]
    assert expose(pairs, pairs.has_list(THIRD), np.zeros(len(pairs.row)), 5).sum() == 2


def test_counts_against_sets():
    rng = np.random.default_rng(3)
    truth = build_truth(encode(random_histories(8)), NUM_ITEMS, 70, (70, 90))
    drawn = [np.array([rng.permutation(np.arange(2, NUM_ITEMS))[:7] for _ in truth.users]) for _ in range(3)]
    pairs = pool(drawn, NUM_ITEMS)
    exposed = rng.random(len(pairs.row)) < 0.4
    counts = count_channel(pairs, drawn[0], drawn[1:], exposed, truth)
    for u in range(truth.num_users):
        seen = set(pairs.item[exposed & (pairs.row == u)].tolist())
        mine = set(drawn[0][u].tolist())
        unique = mine - set(drawn[1][u].tolist()) - set(drawn[2][u].tolist())
        taken = set(truth.item[truth.offset[u] : truth.offset[u + 1]].tolist())
        interacted = set(truth.interacted_item[truth.interacted_row() == u].tolist())
        expected = [mine, mine & seen, mine & seen & taken, unique, unique & seen, unique & seen & taken]
        expected += [
            mine & interacted,
            mine & interacted & seen,
            mine - interacted,
            (mine - interacted) & seen,
            seen,
            seen & taken,
        ]
        assert [int(counts[name][u]) for name in COUNTS] == [len(items) for items in expected]


class Table:
    name = "table"

    def __init__(self, scores: np.ndarray) -> None:
        self.scores = scores

    def score(self, users: np.ndarray) -> np.ndarray:
        return self.scores[users].copy()


def test_lists_are_the_best_known_items_whatever_the_chunk():
    scores = np.random.default_rng(1).integers(0, 5, (13, NUM_ITEMS)).astype(np.float32)
    scores[:, :2] = 99.0  # padding and unknown are no items
    scores[3, 4:] = -np.inf
    users = np.array([3, 0, 12, 7, 5])
    progress: list[int] = []
    lists = cut_lists([Table(scores)], users, 5, chunk=2, on_progress=progress.append)["table"]
    scores[:, :2] = -np.inf
    for row, user in enumerate(users):
        expected = reference.ranked_list(scores[user], 5)
        assert lists[row].tolist() == expected + [-1] * (5 - len(expected))
    assert lists[0].tolist()[2:] == [-1] * 3 and progress == [2, 2, 1]


def test_lists_translate_and_unknown_items_leave_a_gap():
    new_item = np.array([0, 1, 5, 1, 2])  # 3 is unknown there
    assert translate_lists(np.array([[4, 3, 2, -1]]), new_item).tolist() == [[2, -1, 5, -1]]


def test_bootstrap_against_a_loop_of_repeats():
    counts = np.random.default_rng(5).integers(0, 4, (2, len(COUNTS), 13))
    found = bootstrap_ratios(counts, seed=7, n=3)
    random = np.random.default_rng(7)
    for draw in range(3):
        users = random.integers(13, size=13)
        for row in range(2):
            sums = dict(zip(COUNTS, counts[row][:, users].sum(axis=1).tolist(), strict=True))
            expected = [sums[a] / sums[b] for a, b in RATIOS.values()]
            np.testing.assert_allclose(found[draw, row], expected)


def test_sampled_users_keep_their_truth():
    truth = build_truth(encode(random_histories(8)), NUM_ITEMS, 70, (70, 90))
    sampled = sample_users(truth, 5, seed=2)
    assert sampled.num_users == 5 and sample_users(truth, 0, 2) is truth
    for i, user in enumerate(sampled.users):
        at = int(np.flatnonzero(truth.users == user)[0])
        one = truth.rows(at, at + 1)
        mine = sampled.rows(i, i + 1)
        assert mine.item.tolist() == one.item.tolist() and mine.interacted_item.tolist() == one.interacted_item.tolist()
