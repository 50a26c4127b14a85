"""JSON to arrays and back, against slow walks of the same rules."""

import json
import math
import struct

import numpy as np
import pytest
from serving_conformance import JSON, conforms

from longretriever_tf.serving.server import json_replies, json_tensors, json_text
from longretriever_tf.serving.server.status import ServingError
from longretriever_tf.serving.server.tensors import BOOL, DTYPES, FLOATS, SMALL_INTS, STRING

pytestmark = pytest.mark.serving


def _slow_array(value, dtype):
    """Element by element, by the rules of AddValueToTensor; None where one is refused."""
    shape, inner = [], value
    while isinstance(inner, list):
        shape.append(len(inner))
        inner = inner[0] if inner else None
    leaves = []

    def walk(value, level):
        if isinstance(value, list):
            if level >= len(shape) or len(value) != shape[level]:
                return False
            return all([walk(element, level + 1) for element in value])
        leaves.append(value)
        return level == len(shape) and _fits(value, dtype)

    if not walk(value, 0):
        return None
    target = DTYPES[dtype].numpy
    if dtype == STRING:
        leaves = [leaf.encode() for leaf in leaves]
    elif dtype in SMALL_INTS:
        leaves = np.array(leaves, np.int64).astype(target)
    return np.array(leaves, target).reshape(shape)


def _fits(value, dtype):
    if isinstance(value, bool):
        return dtype == BOOL
    if isinstance(value, str):
        return dtype == STRING
    if isinstance(value, float):
        return dtype in FLOATS
    limits = {3: (-(2**31), 2**31), 4: (-(2**31), 2**31), 9: (-(2**63), 2**63), 22: (0, 2**32), 23: (0, 2**64)}
    return isinstance(value, int) and (
        dtype in FLOATS or dtype in limits and limits[dtype][0] <= value < limits[dtype][1]
    )


@conforms("which JSON value suits which dtype, at any depth", "no cast between kinds; ragged lists refused", JSON)
def test_columns_equal_a_slow_walk():
    rng = np.random.default_rng(3)
    pool = [
        0,
        1,
        -1,
        7,
        2**31 - 1,
        2**31,
        -(2**31),
        2**63 - 1,
        2**63,
        -(2**63),
        2**64 - 1,
        0.5,
        2.0,
        True,
        "a",
        "",
        None,
    ]
    agreed = {True: 0, False: 0}
    for _ in range(3000):
        dtype = int(rng.choice([1, 2, 3, 4, 7, 9, 10, 22, 23]))
        fitting = [value for value in pool if _fits(value, dtype)]
        values = fitting if rng.random() < 0.7 else pool
        rows, width = rng.integers(0, 3, 2)
        value = [[values[rng.integers(len(values))] for _ in range(width)] for _ in range(rows)]
        if rng.random() < 0.2 and rows:
            value[-1] = value[-1][:-1] if rng.random() < 0.5 else 1
        expected, actual = _slow_array(value, dtype), json_tensors.convert(value, dtype)
        assert (actual is None) == (expected is None), (value, dtype)
        agreed[actual is None] += 1
        if actual is None:
            with pytest.raises(ServingError):
                json_tensors.explain(value, dtype)
        else:
            np.testing.assert_array_equal(actual, expected)
            assert actual.dtype == expected.dtype and actual.shape == expected.shape
    assert min(agreed.values()) > 300


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.1, "0.1"), (0.669074059, "0.669074059"), (9e6, "9e+06"), (3.0, "3.0"), (123456.0, "123456.0"), (1e-5, "1e-05")],
)
@conforms("decimals", "six digits where they read back as the same float32, else nine; whole numbers end in .0", JSON)
def test_decimals(value, text):
    assert json_replies.decimal_text(float(np.float32(value)), 9) == text


def test_every_float32_reads_back_the_same():
    rng = np.random.default_rng(5)
    patterns = rng.integers(0, 2**32, 3000, dtype=np.uint32).view(np.float32)
    for value in patterns.tolist():
        if math.isfinite(value):
            text = json_replies.decimal_text(value, 9)
            assert struct.pack("f", json.loads(text)) == struct.pack("f", value), text


def test_malformed_text_says_where():
    for body, message in (
        (b'{"a" 1}', "Missing a colon after a name of object member. at offset: 5"),
        (b'{"a": "x', "Missing a closing quotation mark in string. at offset: 6"),
        (b"{1: 2}", "Missing a name for object member. at offset: 1"),
        (b'{"a": "\\q"}', "Invalid escape character in string. at offset: 7"),
        ('{"ü": x}'.encode(), "Invalid value. at offset: 7"),
        (b"   ", "The document is empty. at offset: 3"),
    ):
        with pytest.raises(ServingError) as caught:
            json_text.parse_object(body)
        assert caught.value.message == f"JSON Parse error: {message}"


def test_lone_surrogates_are_refused():
    with pytest.raises(ServingError, match="surrogate pair in string is invalid"):
        json_tensors.to_array(json.loads('["\\ud800"]'), STRING)


def test_unknown_dtypes_are_not_implemented():
    with pytest.raises(ServingError) as caught:
        json_tensors.to_array([1.0], 19)
    assert caught.value.code == "UNIMPLEMENTED" and caught.value.http_status == 501
