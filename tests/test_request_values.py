"""What a client's `Request` takes and refuses: lists of any library, whole numbers that fit, times in seconds."""

import datetime

import numpy as np
import pandas as pd
import pytest

from longretriever_tf.common.errors import UserError
from longretriever_tf.serving.client import request_values
from longretriever_tf.serving.client.input_spec import InputSpec
from longretriever_tf.serving.client.request import Request, make_columns

INPUTS = {
    "history_item_id": InputSpec("DT_INT64"),
    "history_timestamp": InputSpec("DT_INT64"),
    "request_timestamp": InputSpec("DT_INT64"),
    "k": InputSpec("DT_INT32", np.array([100], np.int32)),
    "seed": InputSpec("DT_INT64"),
    "forbidden_category": InputSpec("DT_STRING", np.zeros([1, 0], object)),
    "exclude_item_id": InputSpec("DT_INT64", np.zeros([1, 0], np.int64)),
    "forced_category": InputSpec("DT_STRING"),
    "forced_weight": InputSpec("DT_FLOAT"),
    "history_weight": InputSpec("DT_FLOAT"),
}
PLAIN = Request(
    [7, 8],
    [50, 60],
    99,
    k=5,
    seed=4,
    forbidden_category=["tea"],
    forced_category={"jam": 2.0},
    history_weight=[0.5, 1.0],
)


@pytest.mark.parametrize(
    "make_list",
    [
        np.array,
        tuple,
        pd.Series,
        lambda values: pd.Index(values),
        lambda values: [np.array(each)[()] for each in values],
    ],
    ids=["numpy", "tuple", "series", "index", "numpy scalars"],
)
def test_lists_and_numbers_of_any_library_make_the_same_columns(make_list):
    request = Request(
        make_list([7, 8]),
        make_list([50, 60]),
        np.int64(99),
        k=np.int32(5),
        seed=np.array(4),
        forbidden_category=make_list(["tea"]),
        forced_category={"jam": np.float32(2.0)},
        history_weight=make_list([0.5, 1.0]),
    )
    expected, made = make_columns([PLAIN], INPUTS), make_columns([request], INPUTS)
    assert {name: column.tolist() for name, column in made.items()} == {
        name: column.tolist() for name, column in expected.items()
    }
    assert {name: column.dtype for name, column in made.items()} == {n: column.dtype for n, column in expected.items()}
    assert (
        request.takes_options
        and not Request(np.array([7]), np.array([50]), 99, exclude_item_id=np.array([])).takes_options
    )


def _with(**fields):
    return lambda: Request(**{"history_item_id": [7], "history_timestamp": [50], "request_timestamp": 99} | fields)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (
            _with(request_timestamp=1_600_000_000_000),
            ("`request_timestamp`", "1600000000000", "milliseconds", "// 1000"),
        ),
        (_with(history_timestamp=[1_600_000_000_000_000]), ("`history_timestamp`", "milliseconds or finer")),
        (_with(request_timestamp=0), ("`request_timestamp`", "positive")),
        (_with(request_timestamp=-5), ("`request_timestamp`", "-5")),
        (_with(request_timestamp=1.6e9), ("`request_timestamp`", "float", "whole number")),
        (_with(request_timestamp=True), ("`request_timestamp`", "bool")),
        (_with(request_timestamp="99"), ("`request_timestamp`", "'99' (str)")),
        (_with(history_timestamp=[50.5]), ("`history_timestamp`", "50.5", "whole seconds")),
        (_with(history_timestamp=[None]), ("`history_timestamp`", "None")),
        (
            _with(history_timestamp=np.array(["2024-01-01"], "datetime64[ns]")),
            ("`history_timestamp`", "dates", "astype"),
        ),
        (_with(history_timestamp=[datetime.datetime(2024, 1, 1)]), ("`history_timestamp`", "when.timestamp()")),
        (
            _with(history_timestamp=pd.Series(pd.to_datetime(["2024-01-01"]))),
            ("`history_timestamp`", "when.timestamp()"),
        ),
        (_with(k=3_000_000_000), ("`k`", "3000000000", "2147483647")),
        (_with(k=3e9), ("`k`", "3000000000.0 (float)")),
        (_with(k=True), ("`k`", "True (bool)")),
        (_with(k="5"), ("`k`", "'5' (str)")),
        (_with(k=[5]), ("`k`", "[5] (list)")),
        (_with(num_interests=2**31), ("`num_interests`", "2147483648")),
        (_with(interest_threshold=0.5), ("`interest_threshold`", "0.5", "at most 0")),
        (_with(interest_threshold=float("nan")), ("`interest_threshold`", "nan")),
        (_with(interest_threshold="-8"), ("`interest_threshold`", "'-8'")),
        (_with(top_interests=-(2**31) - 1), ("`top_interests`", "-2147483649")),
        (_with(seed=2**63 + 5), ("`seed`", "9223372036854775813")),
        (_with(seed=np.uint64(2**63 + 5)), ("`seed`", "9223372036854775813")),
        (_with(exploration=0.5), ("`exploration`", "0.5")),
        (_with(history_item_id=[2**63 + 5]), ("`history_item_id`", "9223372036854775813")),
        (_with(history_item_id=np.array([2**63 + 5], np.uint64)), ("`history_item_id`", "9223372036854775813")),
        (_with(history_item_id=[True]), ("`history_item_id`", "True (bool)")),
        (_with(history_item_id=[None]), ("`history_item_id`", "None")),
        (_with(history_item_id=[float("nan")]), ("`history_item_id`", "nan", "missing")),
        (_with(history_item_id=pd.Series([7.0])), ("`history_item_id`", "7.0 (float)", 'astype("int64")')),
        (_with(history_item_id=[7, "7"], history_timestamp=[1, 2]), ("`history_item_id`", "of one kind")),
        (_with(history_item_id="7"), ("`history_item_id`", "give a list")),
        (_with(history_item_id=[[7]]), ("`history_item_id`", "[7] (list)")),
        (_with(history_item_id=np.array([[7]])), ("`history_item_id`", "single values")),
        (_with(exclude_item_id=7), ("`exclude_item_id`", "give a list")),
        (_with(exclude_item_id=[2.0]), ("`exclude_item_id`", "2.0")),
        (_with(forbidden_category="tea"), ("`forbidden_category`", "'tea' (str)", "give a list")),
        (_with(allowed_category=[7]), ("`allowed_category`", "7 (int)", "text")),
        (_with(forced_category=["tea"]), ("`forced_category`", "dict")),
        (_with(forced_category={"tea": "2"}), ("`forced_category`", "'2' (str)")),
        (_with(forced_category={"tea": float("inf")}), ("`forced_category`", "inf")),
        (_with(rewards=["tea"]), ("`rewards`", "dict")),
        (_with(rewards={"tea": 3}), ("`rewards`", "3 (int)", "give a list")),
        (_with(rewards={"tea": (3, 5)}), ("`rewards`", "'tea': (3, 5)", "no more than trials")),
        (_with(rewards={"tea": (3,)}), ("`rewards`", "(3,)", "(trials, successes)")),
        (_with(rewards={"tea": (3, -1)}), ("`rewards`", "(3, -1)")),
        (_with(rewards={"tea": (float("nan"), 0)}), ("`rewards`", "nan")),
        (_with(rewards={"": (3, 1)}), ("`rewards`", "name its category")),
        (_with(bandit_prior=0), ("`bandit_prior`", "0 (int)", "above 0")),
        (_with(bandit=1), ("`bandit`", "1 (int)")),
        (_with(history_weight=[float("nan")]), ("`history_weight`", "nan")),
        (_with(history_weight=[-1.0]), ("`history_weight`", "-1.0")),
        (_with(merge=3), ("`merge`", "3 (int)")),
        (_with(profile={"age": 35}), ("`profile`", "35 (int)")),
        (_with(profile=["age"]), ("`profile`", "dict")),
    ],
)
def test_wrong_values_are_named_where_they_are_given(make, words):
    with pytest.raises(UserError) as caught:
        make()
    message = str(caught.value)
    assert [word for word in words if word not in message] == [], message
    assert "\n" not in message


def test_values_are_held_to_the_type_of_the_models_input():
    """The request cannot know it: an export may have narrower inputs than another."""
    narrow = INPUTS | {"seed": InputSpec("DT_INT32"), "history_item_id": InputSpec("DT_INT32")}
    with pytest.raises(UserError, match="`history_item_id` holds 4294967296; give a number from -2147483648"):
        make_columns([Request([2**32], [50], 99, seed=1)], narrow)
    with pytest.raises(UserError, match="`seed` holds 4294967296"):
        make_columns([Request([1], [50], 99, seed=2**32)], narrow)
    with pytest.raises(UserError, match="surrogate"):
        make_columns([Request([1], [50], 99, seed=1, forbidden_category=["\ud800"])], INPUTS)


def test_the_limit_of_times_is_the_exports_own():
    from longretriever_tf.retrieval import admission

    assert request_values.LATEST_S == admission.LATEST_S
