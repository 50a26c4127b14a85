"""An input of a signature, and values in its dtype. Imports no TensorFlow."""

from typing import Any, NamedTuple

import numpy as np

from longretriever_tf.common.errors import UserError
from longretriever_tf.serving.client.request_values import check_fits

_NUMPY = {"DT_INT64": np.int64, "DT_INT32": np.int32, "DT_FLOAT": np.float32, "DT_STRING": np.object_}


class InputSpec(NamedTuple):
    """One input of a signature: the dtype's name (DT_INT64, ...), and its default where the server tells one."""

    dtype: str
    default: np.ndarray | None = None


def cast_column(name: str, spec: InputSpec, column: list[Any]) -> np.ndarray:
    """An array of the input's dtype; numbers never become text, nor text numbers."""
    wanted = _NUMPY.get(spec.dtype)
    if wanted is None:
        raise UserError(f"input `{name}` has dtype {spec.dtype}, which no retriever of this package has")
    if wanted is np.object_:
        return _cast_text(name, column)
    try:
        array = np.array(column) if np.size(column) else np.zeros(np.shape(column), wanted)
    except OverflowError:  # beyond what any type of numpy holds
        array = np.array(column, np.object_)
    kinds, what = ("iu", "whole numbers") if np.issubdtype(wanted, np.integer) else ("iuf", "numbers")
    if array.dtype.kind not in kinds:
        raise UserError(f"`{name}` must hold {what}, as the model was trained; received {_odd(column, kinds)!r}")
    if kinds == "iu":
        check_fits(name, array, wanted)
    return array.astype(wanted)


def _cast_text(name: str, column: list[Any]) -> np.ndarray:
    """Text at the width of each value: fixed-width text would hold all at the width of the longest."""
    array = np.array(column, np.object_)
    odd = [value for value in array.flat if not isinstance(value, str)]
    if odd:
        raise UserError(f"`{name}` must hold text, as the model was trained; received {odd[0]!r}")
    for value in array.flat:
        try:
            value.encode()
        except UnicodeEncodeError:
            raise UserError(f"`{name}` holds {value[:60]!r}, half of a surrogate pair, which is no text") from None
    return array


def _odd(column: list[Any], kinds: str) -> Any:
    """A value at fault."""
    flat = [value for row in column for value in (row if isinstance(row, list) else [row])]
    return next((value for value in flat if np.array(value).dtype.kind not in kinds), flat[0])
