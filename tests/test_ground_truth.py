import pytest
import reference
from small_histories import NUM_ITEMS, encode, random_histories

from longretriever_tf.common.errors import UserError
from longretriever_tf.evaluation.ground_truth import Truth, build_truth


def pairs_of(truth: Truth, i: int) -> slice:
    return slice(truth.offset[i], truth.offset[i + 1])


@pytest.mark.parametrize("cut, window", [(60, (60, 80)), (3, (3, 100)), (50, (70, 71))])
def test_truth_equals_the_oracle(cut, window):
    for seed in range(7):
        histories = random_histories(seed)
        truth = build_truth(encode(histories), NUM_ITEMS, cut, window)
        expected = reference.window_truth(histories, cut, *window)
        assert truth.users.tolist() == sorted(expected)
        for i, user in enumerate(truth.users):
            taken, interacted = expected[user]
            assert truth.item[pairs_of(truth, i)].tolist() == sorted(taken)
            assert truth.is_novel[pairs_of(truth, i)].tolist() == [item not in interacted for item in sorted(taken)]
            assert truth.interacted_item[
                truth.interacted_offset[i] : truth.interacted_offset[i + 1]
            ].tolist() == sorted(interacted)


def test_rows_and_novel_select_the_same_pairs_as_the_whole():
    truth = build_truth(encode(random_histories(1)), NUM_ITEMS, 60, (60, 90))
    novel = truth.novel()
    assert novel.users is truth.users
    for start, stop in ((0, 5), (5, truth.num_users)):
        part = truth.rows(start, stop)
        for i in range(part.num_users):
            whole = pairs_of(truth, start + i)
            assert part.item[pairs_of(part, i)].tolist() == truth.item[whole].tolist()
            assert novel.item[pairs_of(novel, start + i)].tolist() == truth.item[whole][truth.is_novel[whole]].tolist()
            assert set(part.interacted_item[part.interacted_row() == i]) == set(
                truth.interacted_item[truth.interacted_row() == start + i]
            )


def test_zero_users_after_the_split_is_one_clear_error():
    histories = [
        [(5, 10)],
        [(6, 70)],
        [(1, 5), (1, 65)],
    ]  # a past alone, a present alone, an item outside the vocabulary
    with pytest.raises(UserError, match="zero users after the split: of 3 users, 2 have events before the cut"):
        build_truth(encode(histories), NUM_ITEMS, 60, (60, 80))
