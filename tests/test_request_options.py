"""What a request may turn, asked of the exported signature's own function: each options changes what it says, no
more."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from longretriever_tf.data.batches.prepared_data import load_saved
from longretriever_tf.datasets.load import load_log
from longretriever_tf.models.build import load_models
from longretriever_tf.retrieval.export.explanation import request_columns
from longretriever_tf.retrieval.multi_context import MultiContextRetriever
from longretriever_tf.retrieval.request_options import default_columns
from longretriever_tf.retrieval.signatures import make_signatures

K, N = 23, 3


class Asker:
    """Asks the serving signature about users 3 and 7 of the log, at the cut."""

    def __init__(self, trained, **retrieval) -> None:
        config = dataclasses.replace(
            trained.config, retrieval=dataclasses.replace(trained.config.retrieval, **retrieval)
        )
        self.corpus, arrays = load_saved(trained.run_dir)
        models = load_models(config, self.corpus, arrays["item_svd"])
        served = MultiContextRetriever(config, self.corpus, models.retriever, models.interest, arrays)
        self._signatures = make_signatures(served, config.retrieval)
        self.defaults = default_columns(config.retrieval, tf.int64)
        self.log = load_log(config.data)
        rows = [request_columns(self.log, user, self.corpus.cut, list(self.corpus.profile_values)) for user in (3, 7)]
        width = max(row["history_item_id"].shape[1] for row in rows)
        self.history = {
            name: tf.concat([_padded(row[name], width) if name.startswith("history") else row[name] for row in rows], 0)
            for name in rows[0]
        }

    def __call__(self, signature: str = "serving_default", **options) -> dict[str, np.ndarray]:
        fixed = {"k": tf.constant([K]), "num_interests": tf.constant([N]), "top_interests": tf.constant([N])}
        columns = {**self.defaults, **self.history, **fixed, "seed": tf.constant([5], tf.int64), **options}
        answer = {name: value.numpy() for name, value in self._signatures[signature](**columns).items()}
        assert all(value.dtype.kind != "f" or np.isfinite(value).all() for value in answer.values())
        return answer

    def interacted(self, user: int) -> set[int]:
        start, stop = self.log.offset[user : user + 2]
        past = self.log.timestamp[start:stop] < self.corpus.cut
        return set(self.log.items.item_id[self.log.item_row[start:stop][past]].tolist())


def _padded(row: tf.Tensor, width: int) -> tf.Tensor:
    return tf.pad(row, [[0, 0], [0, width - row.shape[1]]])


@pytest.fixture(scope="module")
def ask(trained) -> Asker:
    return Asker(trained)


@pytest.fixture(scope="module")
def narrow(trained) -> Asker:
    """An export that knows its bounds and no unknown names."""
    return Asker(trained, max_k=2000, max_candidates=10_000, max_values=300, strict=True)


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
    assert items(answer, 0) and not set(items(answer, 0)) & ask.interacted(3)
    assert items(answer, 1) == items(ask(), 1)
    assert set(items(answer, 1)) & ask.interacted(7)  # the control: "all" does hold some


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


def test_a_threshold_searches_what_passes_it_and_fixed_numbers_stay(ask):
    least, most = (
        ask(num_interests=tf.constant([0]), top_interests=tf.constant([1]), interest_threshold=tf.constant([threshold]))
        for threshold in (1e9, -1e9)
    )
    assert least["num_interests_drawn"].tolist() == [1, 1]
    assert (most["num_interests_drawn"] == ask.corpus.num_categories - 2).all()
    both = ask(num_interests=tf.constant([0, N]), interest_threshold=tf.constant([-1e9]))
    assert items(both, 0) == items(most, 0) and items(both, 1) == items(ask(), 1)
    with pytest.raises(tf.errors.InvalidArgumentError, match="`interest_threshold` must be a number"):
        ask(interest_threshold=tf.constant([np.nan], tf.float32))


def test_what_a_threshold_lets_in_is_bounded_too(narrow):
    wide = {"num_interests": tf.constant([0]), "interest_threshold": tf.constant([-1e9]), "k": tf.constant([1])}
    with pytest.raises(tf.errors.InvalidArgumentError, match="rows x interests x k .* at most 10000"):
        narrow(**wide, **rows(3, narrow))
    assert narrow(
        **wide | {"top_interests": tf.constant([3]), "interest_threshold": tf.constant([1e9])}, **rows(3, narrow)
    )


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


def test_unknown_names_are_told_and_change_nothing(ask):
    plain = ask()
    assert plain["unknown_category"].shape == (2, 0)
    assert not plain["num_unknown_excluded"].any() and not plain["num_unknown_items"].any()
    own = categories(plain, 0)
    history = {
        "history_weight": tf.constant([[1.0]]),
        "history_item_id": tf.constant([[100, 999_999, 888_888, 999_999]] * 2, tf.int64),
    }
    history["history_timestamp"] = tf.constant(
        [[ask.corpus.cut - 5] * 3 + [0], [ask.corpus.cut - 5] * 2 + [0, 0]], tf.int64
    )
    answer = ask(
        forbidden_category=names((own[0], "drinks", ""), ("", "", "")),
        allowed_category=names(("", "")),
        forced_category=names(("snacks",), ("",)),
        exclude_item_id=tf.constant([[100, 999_999, -(2**63)], [0, 0, -(2**63)]], tf.int64),
        **history,
    )
    assert answer["unknown_category"].tolist() == [[b"drinks", b"snacks"], [b"", b""]]
    assert answer["num_unknown_excluded"].tolist() == [1, 0]
    assert answer["num_unknown_items"].tolist() == [2, 1]
    misspelt = ask(forbidden_category=names(("C1", "c1 "), ("", "")))
    assert items(misspelt, 0) == items(plain, 0) and misspelt["unknown_category"][0].tolist() == [b"C1", b"c1 "]


def test_an_unknown_category_of_a_search_is_told(ask):
    answer = ask("retrieve_in_category", category=tf.constant(["c1", "C1"]), forbidden_category=names(("x",)))
    assert answer["unknown_category"].tolist() == [[b"", b"x"], [b"C1", b"x"]]
    assert answer["num_valid"][0] > 0 and answer["num_valid"][1] == 0 and answer["item_id"].shape == (2, K)


@pytest.mark.parametrize(
    "column",
    [
        {"forbidden_category": names(("c1", "drinks"))},
        {"allowed_category": names(("c1", "drinks"))},
        {"forced_category": names(("c1", "drinks"))},
        {"exclude_item_id": tf.constant([[100, 999_999]], tf.int64)},
    ],
    ids=lambda column: next(iter(column)),
)
def test_a_strict_export_refuses_unknown_names(narrow, column):
    name, value = next(iter(column.items()))
    odd = "999999" if name == "exclude_item_id" else "drinks"
    with pytest.raises(tf.errors.InvalidArgumentError, match=f"`{name}` names .* --strict.*{odd}"):
        narrow(k=tf.constant([20]), **SHORT, **column)
    assert narrow(k=tf.constant([20]), **SHORT, **{name: value[:, :1]})["num_valid"].all()
    with pytest.raises(tf.errors.InvalidArgumentError, match="`category` names .* --strict.*drinks"):
        narrow("retrieve_in_category", k=tf.constant([20]), **SHORT, category=tf.constant(["c1", "drinks"]))


SHORT = {
    "history_item_id": tf.constant([[100, 101], [102, 999_999]], tf.int64),  # a history may hold what is not known
    "history_timestamp": tf.constant([[1_600_000_000] * 2] * 2, tf.int64),
    "history_weight": tf.constant([[1.0]]),
}


def rows(num: int, ask: Asker) -> dict[str, tf.Tensor]:
    """A call of so many rows."""
    return {
        "history_item_id": tf.fill([num, 1], tf.constant(100, tf.int64)),
        "history_timestamp": tf.fill([num, 1], tf.constant(1_600_000_000, tf.int64)),
        "history_weight": tf.constant([[1.0]]),
        "request_timestamp": tf.fill([num], tf.constant(ask.corpus.cut, tf.int64)),
        "taste": tf.fill([num], "b0"),
    }


@pytest.mark.parametrize(
    ("num", "options", "words"),
    [
        (3, {"k": 1700, "num_interests": 2}, "rows x interests x k .* at most 10000 .*max_candidates.*3.*2.*1700"),
        (6, {"k": 1, "num_interests": 2}, "rows x interests x k .* at most 10000 .*k counting as 1000"),
        (2, {"k": 1, "num_interests": 2**31 - 1}, "rows x interests x k"),
        (1, {"k": 2001}, "`k` must be at most 2000 .export --max_k"),
        (38, {"k": 1, "num_interests": 1}, "rows x categories x 30 .* at most 10000 .*max_candidates.*38.*9"),
    ],
)
def test_what_a_call_may_ask_for_is_bounded(narrow, num, options, words):
    options_of_call = {name: tf.constant([value], tf.int32) for name, value in options.items()}
    with pytest.raises(tf.errors.InvalidArgumentError, match=words):
        narrow(**options_of_call, **rows(num, narrow))


def test_what_lies_within_the_bounds_is_answered(narrow):
    assert narrow(k=tf.constant([1600]), num_interests=tf.constant([2]), **rows(3, narrow))["num_valid"].all()
    widest = {"exclude_item_id": tf.fill([1, 150], tf.constant(-(2**63), tf.int64))}
    assert narrow(k=tf.constant([9]), num_interests=tf.constant([2]), **rows(2, narrow), **widest)["num_valid"].all()


@pytest.mark.parametrize("column", ["exclude_item_id", "allowed_category", "forbidden_category", "forced_category"])
def test_a_list_for_all_rows_counts_for_each(narrow, column):
    empty = tf.fill([1, 151], tf.constant(-(2**63), tf.int64)) if column == "exclude_item_id" else tf.fill([1, 151], "")
    with pytest.raises(tf.errors.InvalidArgumentError, match=f"at most 300 .export --max_values.*{column}.*151"):
        narrow(k=tf.constant([9]), **rows(2, narrow), **{column: empty})
    long = {"history_item_id": tf.zeros([2, 151], tf.int64), "history_timestamp": tf.zeros([2, 151], tf.int64)}
    with pytest.raises(tf.errors.InvalidArgumentError, match="--max_values.*history_item_id.*151"):
        narrow(k=tf.constant([9]), **rows(2, narrow) | long)


@pytest.mark.parametrize(
    ("column", "edit"),
    [
        ("request_timestamp", lambda t: t * 1000),
        ("request_timestamp", lambda t: t * 0),
        ("request_timestamp", lambda t: -t),
        ("request_timestamp", lambda t: t // 60),
        ("request_timestamp", lambda t: t * 0 + (2**63 - 1)),
        ("history_timestamp", lambda t: t * 1000),
        ("history_timestamp", lambda t: tf.concat([t[:, :-1], -t[:, -1:] - 1], 1)),
        ("history_timestamp", lambda t: t * 0 + 2**62),
    ],
)
def test_times_that_are_no_seconds_are_refused_by_name(ask, column, edit):
    with pytest.raises(tf.errors.InvalidArgumentError, match=f"`{column}` must be seconds since 1970 UTC"):
        ask(**{column: edit(ask.history[column])})


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("history_timestamp", tf.zeros([3, 4], tf.int64)),
        ("request_timestamp", tf.constant([1_610_000_000] * 3, tf.int64)),
        ("taste", tf.constant(["b0"] * 3)),
        ("k", tf.constant([9] * 3)),
        ("seed", tf.constant([9] * 3, tf.int64)),
        ("merge", tf.constant(["raw"] * 3)),
        ("history_weight", tf.ones([3, 1])),
        ("exclude_item_id", tf.zeros([3, 1], tf.int64)),
        ("forced_category", tf.constant([["c1"]] * 3)),
        ("forced_weight", tf.ones([3, 1])),
    ],
)
def test_columns_of_other_rows_are_named_with_their_rows(ask, column, value):
    with pytest.raises(tf.errors.InvalidArgumentError) as caught:
        ask(**{column: value})
    said = caught.value.message.split("[[")[0] if "rows of each column" in caught.value.message else ""
    assert f"{column}:" in said and "[3]" in said, caught.value.message[:600]
