"""JSON values to arrays, as strictly as TensorFlow Serving: no value is cast from one kind to another.

Two ways through: whole columns are checked and converted at once; a column that fails is walked value by value, only to
say what is wrong in the words of json_tensor.cc (FillTensorProto, AddValueToTensor).
"""

import base64
import binascii
import itertools
from typing import Any

import numpy as np

from longretriever_tf.serving.server.json_text import quote, type_name
from longretriever_tf.serving.server.limits import MAX_RANK
from longretriever_tf.serving.server.status import ServingError, invalid
from longretriever_tf.serving.server.tensors import BOOL, DTYPES, FLOATS, SMALL_INTS, STRING, name_of

_INT32 = np.iinfo(np.int32)
_INT64 = np.iinfo(np.int64)


def to_array(value: Any, dtype: int) -> np.ndarray:
    """A JSON value, nested to any depth, as an array of the dtype; strings become an object array of bytes.

    Raises:
      ServingError: INVALID_ARGUMENT, ragged, or a value of another type; UNIMPLEMENTED, a dtype without JSON form.
    """
    array = convert(value, dtype)
    if array is None:
        explain(value, dtype)
        raise invalid(f"JSON Value: {quote(value)} cannot be read as {name_of(dtype)}")
    return array


def convert(value: Any, dtype: int) -> np.ndarray | None:
    """As `to_array`; None where anything at all is wrong."""
    shape = shape_of(value)
    if len(shape) > MAX_RANK:
        return None
    leaves = [value]
    for size in shape:
        if set(map(type, leaves)) - {list} or set(map(len, leaves)) - {size}:
            return None
        leaves = leaves[0] if len(leaves) == 1 else list(itertools.chain.from_iterable(leaves))
    flat = _convert_leaves(leaves, dtype)
    return None if flat is None else flat.reshape(shape)


def shape_of(value: Any) -> tuple[int, ...]:
    """The shape that the first element of every level promises."""
    shape = []
    while isinstance(value, list):
        shape.append(len(value))
        if not value:
            break
        value = value[0]
    return tuple(shape)


def explain(value: Any, dtype: int, level: int = 0, shape: tuple[int, ...] | None = None) -> None:
    """Raises the error that TensorFlow Serving reports for a value that `convert` refused."""
    shape = shape_of(value) if shape is None else shape
    if len(shape) > MAX_RANK:
        raise invalid(f"JSON Value: {quote(value)} is nested {len(shape)} lists deep; at most {MAX_RANK} are read")
    if not isinstance(value, list):
        if level != len(shape):
            raise invalid(
                f"JSON Value: {quote(value)} found at incorrect level: {level + 1} in the JSON DOM. "
                f"Expected at level: {len(shape)}"
            )
        _explain_leaf(value, dtype)
        return
    if level >= len(shape):
        raise invalid(f"Encountered list at unexpected level: {level} expected < {len(shape)}")
    if len(value) != shape[level]:
        raise invalid(
            f"Encountered list at unexpected size: {len(value)} at level: {level} expected size: {shape[level]}"
        )
    for element in value:
        explain(element, dtype, level + 1, shape)


def is_base64(value: Any) -> bool:
    """Whether a value is {"b64": "..."} and nothing more."""
    return isinstance(value, dict) and len(value) == 1 and isinstance(value.get("b64"), str)


def _convert_leaves(leaves: list[Any], dtype: int) -> np.ndarray | None:
    kinds = set(map(type, leaves))
    if dtype == STRING:
        return _strings(leaves, kinds)
    if dtype not in DTYPES:
        return None
    target = DTYPES[dtype].numpy
    if dtype == BOOL:
        return np.array(leaves, np.bool_) if kinds <= {bool} else None
    if kinds - ({int, float} if dtype in FLOATS else {int}):
        return None
    try:
        if dtype in FLOATS:
            with np.errstate(over="ignore"):  # beyond float32: infinity, as the cast in C++
                return np.array(leaves, np.float64).astype(target)
        if dtype in SMALL_INTS:
            wide = np.array(leaves, np.int64)
            fits = not wide.size or (wide.min() >= _INT32.min and wide.max() <= _INT32.max)
            return wide.astype(target) if fits else None
        return np.array(leaves, target)
    except OverflowError:
        return None


def _strings(leaves: list[Any], kinds: set[type]) -> np.ndarray | None:
    if not kinds <= {str, dict}:
        return None
    array = np.empty(len(leaves), np.object_)
    try:
        array[:] = [_text_bytes(leaf) if isinstance(leaf, str) else _decode(leaf) for leaf in leaves]
    except ServingError:
        return None
    return array


def _text_bytes(text: str) -> bytes:
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        raise invalid("JSON Parse error: The surrogate pair in string is invalid.") from None


def _decode(value: Any) -> bytes:
    if not is_base64(value):
        raise invalid(f"JSON Value: {quote(value)} not formatted correctly for base64 data")
    text = value["b64"].rstrip("=")
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)  # absl takes it with or without padding
    except (binascii.Error, ValueError):
        raise invalid("Unable to base64 decode") from None


def _explain_leaf(value: Any, dtype: int) -> None:
    if dtype not in DTYPES:
        message = f"Conversion of JSON Value: {quote(value)} to type: {name_of(dtype)}"
        raise ServingError("UNIMPLEMENTED", message)
    if dtype == STRING:
        if isinstance(value, dict):
            _decode(value)
            return
        if isinstance(value, str):
            _text_bytes(value)
            return
    elif _convert_leaves([value], dtype) is not None:
        return
    raise invalid(f"JSON Value: {quote(value)} Type: {type_name(value)} is not of expected type: {name_of(dtype)}")
