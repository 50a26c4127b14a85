"""Arrays to the JSON of a predict reply: {"predictions": [...]} by row, {"outputs": ...} by column.

One output stands alone, several are named. NaN and infinities become null. Imports no TensorFlow.
"""

import base64
from collections.abc import Mapping
from typing import Any

import numpy as np
import orjson

from longretriever_tf.serving.server.status import ServingError, invalid, printable

_BYTES_SUFFIX = "_bytes"


def write_rows(outputs: Mapping[str, np.ndarray]) -> bytes:
    """The reply to `instances`: one value, or one object of named values, per row.

    Raises:
      ServingError: INVALID_ARGUMENT, an output has no first dimension, or another number of rows than the rest.
    """
    rows = {name: len(array) if array.ndim else "no" for name, array in sorted(outputs.items())}
    if "no" in rows.values() or len(set(rows.values())) != 1:
        listed = ", ".join(f"`{name}` has {num}" for name, num in rows.items())
        raise invalid(f"the outputs cannot be written row by row: {listed} rows; ask with `inputs`, by column")
    columns = [_column(name, outputs[name]) for name in rows]
    table = zip(*columns, strict=True)
    values = columns[0] if len(columns) == 1 else [dict(zip(rows, row, strict=True)) for row in table]
    return _dump({"predictions": values})


def write_columns(outputs: Mapping[str, np.ndarray]) -> bytes:
    """The reply to `inputs`: one array, or one object of named arrays."""
    columns = {name: _column(name, array) for name, array in sorted(outputs.items())}
    return _dump({"outputs": next(iter(columns.values())) if len(columns) == 1 else columns})


def write_error(message: str) -> bytes:
    """The body of every reply that failed: {"error": message}."""
    return _dump({"error": printable(message)})


def _column(name: str, array: np.ndarray) -> Any:
    """What orjson can write: numbers stay an array, text becomes nested lists of str (or {"b64": ...})."""
    kind = array.dtype.kind
    if kind in "biuf":
        return np.ascontiguousarray(array) if array.ndim else array[()]
    if kind not in "OSU":
        raise ServingError("UNIMPLEMENTED", f"output `{name}` ({array.dtype.name}) has no JSON form; ask over gRPC")
    values = [value.encode() if isinstance(value, str) else bytes(value) for value in array.ravel().tolist()]
    texts: list[Any]
    if name.endswith(_BYTES_SUFFIX):
        texts = [{"b64": base64.b64encode(value).decode()} for value in values]
    else:
        texts = [value.decode("utf-8", "replace") for value in values]
    cells = np.empty(len(texts), object)
    cells[:] = texts
    return cells.reshape(array.shape).tolist()


def _dump(document: Any) -> bytes:
    return orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY)
