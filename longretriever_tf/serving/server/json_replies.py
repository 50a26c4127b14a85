"""Arrays to the JSON that TensorFlow Serving writes: number by number, and laid out as its writer does.

Row replies are {"predictions": [...]}, columnar ones {"outputs": ...}; one output stands alone, several are named.
Sources: AddSingleValueAndAdvance, MakeRowFormatJsonFromTensors, MakeColumnarFormatJsonFromTensors and WriteDecimal in
tensorflow/serving util/json_tensor.cc, and rapidjson's PrettyWriter for white space.
"""

import base64
import json
import math
from collections.abc import Mapping

import numpy as np

from longretriever_tf.serving.server.status import invalid

_BYTES_SUFFIX = "_bytes"
_INDENT = "    "


def write_rows(outputs: Mapping[str, np.ndarray]) -> bytes:
    """The reply to `instances`: one value, or one object of named values, per row.

    Raises:
      ServingError: INVALID_ARGUMENT, an output has no first dimension, or another number of rows than the rest.
    """
    rows = _num_rows(outputs)
    columns = {name: _leaves(name, array) for name, array in sorted(outputs.items())}
    alone = len(columns) == 1
    written = []
    for row in range(rows):
        values = {}
        for name, leaves in columns.items():
            shape = outputs[name].shape[1:]
            size = math.prod(shape)
            values[name] = _one_line(leaves[row * size : (row + 1) * size], shape)
        if alone:
            written.append(next(iter(values.values())))
        else:
            inside = ",".join(f"\n{_INDENT * 3}{_quote(name)}: {value}" for name, value in values.items())
            written.append(f"\n{_INDENT * 2}{{{inside}\n{_INDENT * 2}}}")
    body = (", " if alone else ",").join(written)
    close = f"\n{_INDENT}" if rows else ""
    return _encode(f'{{\n{_INDENT}"predictions": [{body}{close}]\n}}')


def write_columns(outputs: Mapping[str, np.ndarray]) -> bytes:
    """The reply to `inputs`: one array, or one object of named arrays, one number a line."""
    if not outputs:
        raise invalid("Cannot convert empty tensor map to JSON")
    alone = len(outputs) == 1
    depth = 1 if alone else 2
    values = {name: _many_lines(_leaves(name, array), array.shape, depth) for name, array in sorted(outputs.items())}
    if alone:
        inside = next(iter(values.values()))
    else:
        named = ",".join(f"\n{_INDENT * 2}{_quote(name)}: {value}" for name, value in values.items())
        inside = f"{{{named}\n{_INDENT}}}"
    return _encode(f'{{\n{_INDENT}"outputs": {inside}\n}}')


def write_error(message: str) -> bytes:
    """The body of every reply that failed: {"error": message}."""
    # What a request holds may come back in the message: lone surrogates, and bytes that are no UTF-8.
    plain = message.encode("utf-8", "replace").decode()
    return _encode(f'{{\n{_INDENT}"error": {_quote(plain)}\n}}')


def decimal_text(value: float, digits: int = 17) -> str:
    """A float as TensorFlow Serving writes it: six digits where they read back as the same number, else `digits`.

    Args:
      value: NaN and infinities become NaN, Infinity and -Infinity, which Python's json reads and strict JSON does not.
      digits: 9 for a float32, 17 for a float64.

    >>> decimal_text(0.5), decimal_text(3.0), decimal_text(0.1234567890123), decimal_text(float("-inf"))
    ('0.5', '3.0', '0.12345678901230001', '-Infinity')
    """
    if not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    text = f"{value:.6g}"
    back = float(text)
    same = back == value if digits == 17 else np.float32(back) == np.float32(value)
    if not same:
        text = f"{value:.{digits}g}"
    return text if "." in text or "e" in text else text + ".0"


def _num_rows(outputs: Mapping[str, np.ndarray]) -> int:
    if not outputs:
        raise invalid("Cannot convert empty tensor map to JSON")
    rows = -1
    for name, array in sorted(outputs.items()):
        if array.ndim == 0:
            raise invalid(f"Tensor name: {name} has no shape information ")
        if rows >= 0 and rows != len(array):
            raise invalid(f"Tensor name: {name} has inconsistent batch size: {len(array)} expecting: {rows}")
        rows = len(array)
    return rows


def _leaves(name: str, array: np.ndarray) -> list[str]:
    """Every element as JSON text, row by row."""
    kind = array.dtype.kind
    flat = array.ravel()
    if kind == "f" and array.dtype.itemsize in (4, 8):
        digits = 9 if array.dtype.itemsize == 4 else 17
        return [decimal_text(value, digits) for value in flat.tolist()]
    if kind == "b":
        return ["true" if value else "false" for value in flat.tolist()]
    if kind in "iu":
        return list(map(str, flat.tolist()))
    if kind in "OSU":
        values = [value.encode() if isinstance(value, str) else bytes(value) for value in flat.tolist()]
        if name.endswith(_BYTES_SUFFIX):
            return [f'{{"b64": "{base64.b64encode(value).decode()}"}}' for value in values]
        return [_quote(value.decode("utf-8", "surrogateescape")) for value in values]
    raise invalid(f"Failed to write JSON value for tensor type: {array.dtype.name}")


def _one_line(leaves: list[str], shape: tuple[int, ...]) -> str:
    if not shape:
        return leaves[0]
    if len(shape) == 1:
        return f"[{', '.join(leaves)}]"
    size = math.prod(shape[1:])
    parts = (leaves[start * size : (start + 1) * size] for start in range(shape[0]))
    return f"[{', '.join(_one_line(part, shape[1:]) for part in parts)}]"


def _many_lines(leaves: list[str], shape: tuple[int, ...], depth: int) -> str:
    if not shape:
        return leaves[0]
    if shape[0] == 0:
        return "[]"
    size = math.prod(shape[1:])
    between = f",\n{_INDENT * (depth + 1)}"
    if len(shape) == 1:
        inside = between.join(leaves)
    else:
        parts = (leaves[start * size : (start + 1) * size] for start in range(shape[0]))
        inside = between.join(_many_lines(part, shape[1:], depth + 1) for part in parts)
    return f"[\n{_INDENT * (depth + 1)}{inside}\n{_INDENT * depth}]"


def _quote(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _encode(text: str) -> bytes:
    # A byte string that is not UTF-8 goes out as the bytes it is, as TensorFlow Serving sends it.
    return text.encode("utf-8", "surrogateescape")
