"""What a request may turn, asked of the exported signature's own function: each knob changes what it says, no more."""

import numpy as np
import pytest
import tensorflow as tf

from longretriever_tf.data.load import load_log
from longretriever_tf.data.prepared import load_saved
from longretriever_tf.models.finished import load_models
from longretriever_tf.retrieval.controls import default_columns
from longretriever_tf.retrieval.explanation import request_columns
from longretriever_tf.retrieval.multi_context import MultiContextRetriever
from longretriever_tf.retrieval.signatures import make_signatures

K, N = 23, 3


class Asker:
    """Asks the serving signature about users 3 and 7 of the log, at the cut."""

    def __init__(self, trained) -> None:
        config = trained.config
        self.corpus, arrays = load_saved(trained.run_dir)
        models = load_models(config, self.corpus, arrays["item_svd"])
        served = MultiContextRetriever(config, self.corpus, models.retriever, models.interest, arrays)
        self._call = make_signatures(served, config.retrieval)["serving_default"]
        self.defaults = default_columns(config.retrieval, tf.int64)
        self.log = load_log(config.data)
        rows = [request_columns(self.log, user, self.corpus.cut, list(self.corpus.profile_values)) for user in (3, 7)]
        width = max(row["history_item_id"].shape[1] for row in rows)
        self.history = {
            name: tf.concat([_padded(row[name], width) if name.startswith("history") else row[name] for row in rows], 0)
            for name in rows[0]
        }

    def __call__(self, **options) -> dict[str, np.ndarray]:
        fixed = {"k": tf.constant([K]), "num_interests": tf.constant([N]), "top_interests": tf.constant([N])}
        columns = {**self.defaults, **self.history, **fixed, "seed": tf.constant([5], tf.int64), **options}
        answer = {name: value.numpy() for name, value in self._call(**columns).items()}
        assert all(value.dtype.kind != "f" or np.isfinite(value).all() for value in answer.values())
        return answer

    def owned(self, user: int) -> set[int]:
        start, stop = self.log.offset[user : user + 2]
        past = self.log.timestamp[start:stop] < self.corpus.cut
        return set(self.log.items.item_id[self.log.item_row[start:stop][past]].tolist())


def _padded(row: tf.Tensor, width: int) -> tf.Tensor:
    return tf.pad(row, [[0, 0], [0, width - row.shape[1]]])


@pytest.fixture(scope="module")
def ask(trained) -> Asker:
    return Asker(trained)


def categories(answer: dict[str, np.ndarray], row: int) -> list[str]:
    return [name.decode() for name in answer["interest_category"][row] if name]


def items(answer: dict[str, np.ndarray], row: int) -> list[int]:
    return answer["item_id"][row, : answer["num_valid"][row]].tolist()


def names(*rows: tuple[str, ...]) -> tf.Tensor:
    return tf.constant([list(row) for row in rows])


def test_excluded_items_leave_and_the_rest_moves_up(ask):
    plain = ask()
    out = items(plain, 0)[:4]
    answer = ask(exclude_item_id=tf.constant([[*out, 999_999], [999_999] * 5], tf.int64))
    assert not set(out) & set(items(answer, 0))
    assert items(answer, 1) == items(plain, 1)
    # An excluded item leaves its probability to its category: across categories the tail may change, inside one not.
    category = dict(zip(items(plain, 0), plain["category"][0], strict=False))
    rest, moved = items(plain, 0)[4:], items(answer, 0)
    assert len(moved) == len(items(plain, 0)) and len(set(rest) & set(moved)) > len(rest) / 2
    for name in set(category.values()):
        of_name = [item for item in rest if category[item] == name and item in moved]
        assert of_name == [item for item in moved if category.get(item) == name and item in rest]


def test_goal_novel_holds_nothing_that_the_history_holds(ask):
    answer = ask(goal=tf.constant(["novel", "all"]))
    assert items(answer, 0) and not set(items(answer, 0)) & ask.owned(3)
    assert items(answer, 1) == items(ask(), 1)
    assert set(items(answer, 1)) & ask.owned(7)  # the control: "all" does hold some


def test_allowed_and_forbidden_categories_per_row(ask):
    own = categories(ask(), 0)
    allowed = ask(allowed_category=names((own[1], ""), ("", "")))
    assert categories(allowed, 0) == [own[1]] and len(categories(allowed, 1)) == N
    assert {name.decode() for name in allowed["category"][0] if name} == {own[1]}
    forbidden = ask(forbidden_category=names((own[0],), ("",)))
    assert own[0] not in categories(forbidden, 0) and len(categories(forbidden, 0)) == N
    assert categories(forbidden, 1) == categories(ask(), 1)


def test_all_forbidden_is_an_empty_list_not_an_error(ask):
    every = names(tuple(ask.corpus.category_name[2:]))
    answer = ask(forbidden_category=every)
    assert answer["num_valid"].tolist() == [0, 0] and not answer["item_id"].any() and answer["item_id"].shape == (2, K)


def test_forced_categories_are_searched_and_their_weight_counts(ask):
    absent = sorted(set(ask.corpus.category_name[2:]) - set(categories(ask(), 0)))[0]
    light = ask(forced_category=names((absent,)), forced_weight=tf.constant([[1e-6]]))
    heavy = ask(forced_category=names((absent,)), forced_weight=tf.constant([[1e6]]))
    for answer in (light, heavy):
        assert absent in categories(answer, 0) and len(categories(answer, 0)) == N
        assert answer["interest_origin"][0, categories(answer, 0).index(absent)] == b"forced"
    assert heavy["category"][0, 0].decode() == absent
    assert light["category"][0, 0].decode() != absent


def test_exploration_gives_slots_to_untouched_categories(ask):
    answer = ask(exploration=tf.constant([1, 0]))
    origins = [name.decode() for name in answer["interest_origin"][0]]
    assert sorted(filter(None, origins)) == ["drawn", "drawn", "explored"]
    assert answer["interest_num_events"][0, origins.index("explored")] == 0
    assert categories(answer, 1) == categories(ask(), 1)


@pytest.mark.parametrize("column", ["merge", "goal"])
def test_unknown_words_are_refused_by_name(ask, column):
    with pytest.raises(tf.errors.InvalidArgumentError, match=f"`{column}` must be one of"):
        ask(**{column: tf.constant(["no such word"])})


def test_one_weight_per_forced_category_or_none(ask):
    with pytest.raises(tf.errors.InvalidArgumentError, match="one weight per `forced_category`"):
        ask(forced_category=names(("c1", "c2")), forced_weight=tf.constant([[1.0]]))


def test_numbers_out_of_range_become_the_nearest_possible(ask):
    answer = ask(k=tf.constant([0]), num_interests=tf.constant([-3]), top_interests=tf.constant([0]))
    assert answer["num_valid"].tolist() == [1, 1] and answer["num_interests_drawn"].tolist() == [1, 1]
    many = ask(num_interests=tf.constant([2**31 - 1]), top_interests=tf.constant([2**31 - 1]))
    assert many["interest_category"].shape[1] == ask.corpus.num_categories


def test_a_list_longer_than_the_limit_is_refused_by_name(ask):
    for k in (10_001, 2**31 - 1):
        with pytest.raises(tf.errors.InvalidArgumentError, match="`k` must be at most 10000"):
            ask(k=tf.constant([k]))
    assert len(items(ask(k=tf.constant([10_000])), 0)) > K


@pytest.mark.parametrize(
    ("column", "value", "words"),
    [
        ("history_weight", [[np.nan]], "`history_weight` must be numbers from 0"),
        ("history_weight", [[-1.0], [1.0]], "`history_weight` must be numbers from 0"),
        ("history_weight", [[3e38]], "`history_weight` must be numbers from 0"),
        ("history_weight", [[1.0, 1.0]], "`history_weight` must hold one weight per `history_item_id`"),
        ("forced_weight", [[np.inf]], "`forced_weight` must be numbers up to"),
        ("history_timestamp", [[1_600_000_000]] * 2, "`history_timestamp` must hold one time per `history_item_id`"),
    ],
)
def test_columns_that_do_not_fit_are_refused_by_name(ask, column, value, words):
    """Unrefused, a weight that is no number gives an empty list, and an endless one an endless score."""
    value = tf.constant(value, tf.int64 if column == "history_timestamp" else tf.float32)
    with pytest.raises(tf.errors.InvalidArgumentError, match=words):
        ask(forced_category=names(("c1",)), **{column: value})
