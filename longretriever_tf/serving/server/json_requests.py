"""The body of a REST predict request: a signature's name, and inputs by row (`instances`) or by column (`inputs`).

No value is cast from one kind to another: text is no number, 1.0 is no integer, a bool is neither.
"""

import base64
import binascii
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import orjson
import tensorflow as tf

from longretriever_tf.serving.server.limits import DEFAULT_LIMITS, MAX_RANK, RequestLimits, check_json_size
from longretriever_tf.serving.server.status import ServingError, invalid

_MAX_QUOTED = 100
_KINDS: dict[str, tuple[frozenset[type], str]] = {
    "b": (frozenset({bool}), "true or false"),
    "i": (frozenset({int}), "whole numbers"),
    "u": (frozenset({int}), "whole numbers"),
    "f": (frozenset({int, float}), "numbers"),
    "O": (frozenset({str, dict}), 'text, or {"b64": "..."}'),
}
"""By the kind of a numpy dtype: what JSON values it takes, and what an error calls them."""


class PredictBody(NamedTuple):
    """A parsed request: the arrays by input name, and whether the reply is to be by row."""

    signature_name: str
    inputs: dict[str, np.ndarray]
    by_row: bool


def parse_predict(
    body: bytes, dtypes_of: Callable[[str], Mapping[str, int]], limits: RequestLimits = DEFAULT_LIMITS
) -> PredictBody:
    """Reads a predict request; INVALID_ARGUMENT names what is wrong.

    Args:
      body: JSON text.
      dtypes_of: the inputs of the named signature ("": the default one) and their dtypes; raises for an unknown one.
      limits: what is too large to be parsed.
    """
    check_json_size(body, limits)
    document = parse_object(body)
    name = document.get("signature_name", "")
    if not isinstance(name, str):
        raise invalid(f"'signature_name' must be text; received {_quote(name)}")
    dtypes = dtypes_of(name)
    if ("instances" in document) == ("inputs" in document):
        raise invalid("the request must hold either 'instances' (a list of rows) or 'inputs' (columns by name)")
    if "instances" in document:
        return PredictBody(name, _from_rows(document["instances"], dtypes), True)
    return PredictBody(name, _from_columns(document["inputs"], dtypes), False)


def parse_object(body: bytes) -> dict[str, Any]:
    """The JSON object that a request body must be; INVALID_ARGUMENT where it is not."""
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise invalid(f"the request body is not JSON in UTF-8: {error}") from None
    if not isinstance(document, dict):
        raise invalid(f"the request body must be a JSON object; received {_quote(document)}")
    return document


def to_array(name: str, value: Any, number: int) -> np.ndarray:
    """A JSON value, nested to any depth, as an array of the dtype; text becomes an object array of bytes.

    Raises:
      ServingError: INVALID_ARGUMENT, ragged lists or a value of another type; UNIMPLEMENTED, no JSON form.
    """
    dtype = tf.as_dtype(number)
    target = np.dtype(dtype.as_numpy_dtype)
    if target.kind not in _KINDS:
        raise ServingError("UNIMPLEMENTED", f"input `{name}` ({dtype.name}) has no JSON form; ask over gRPC")
    kinds, words = _KINDS[target.kind]
    if _kinds_in(name, value) - kinds:
        wrong = next(leaf for leaf in _leaves(value) if type(leaf) not in kinds)
        raise invalid(f"input `{name}` ({dtype.name}) must hold {words}; received {_quote(wrong)}")
    try:
        with np.errstate(over="ignore"):  # beyond float32: infinity
            array = np.array(value, target)
    except OverflowError:
        limits = np.iinfo(target)
        wrong = next(leaf for leaf in _leaves(value) if not limits.min <= leaf <= limits.max)
        raise invalid(f"input `{name}` holds {wrong}; {dtype.name} takes {limits.min} to {limits.max}") from None
    except (ValueError, TypeError):
        raise _ragged(name) from None
    return _to_bytes(name, array) if target.kind == "O" else array


def _from_rows(rows: Any, dtypes: Mapping[str, int]) -> dict[str, np.ndarray]:
    if not isinstance(rows, list) or not rows:
        raise invalid(f"'instances' must be a list of one row or more; received {_quote(rows)}")
    if len(dtypes) == 1 and not any(map(_is_named, rows)):
        name = next(iter(dtypes))
        return {name: to_array(name, rows, dtypes[name])}
    for number, row in enumerate(rows):
        if not _is_named(row):
            raise invalid(f"row {number} of 'instances' must be an object of named inputs; received {_quote(row)}")
        if row.keys() != rows[0].keys():
            raise invalid(f"row {number} of 'instances' names {_names(row)}, row 0 {_names(rows[0])}; name the same")
    _check_names(rows[0], dtypes)
    return {name: to_array(name, [row[name] for row in rows], dtypes[name]) for name in rows[0]}


def _from_columns(columns: Any, dtypes: Mapping[str, int]) -> dict[str, np.ndarray]:
    if not _is_named(columns):
        if len(dtypes) != 1:
            raise invalid(f"'inputs' must be an object with the inputs {_names(dtypes)}; received {_quote(columns)}")
        columns = {next(iter(dtypes)): columns}
    _check_names(columns, dtypes)
    return {name: to_array(name, column, dtypes[name]) for name, column in columns.items()}


def _check_names(given: Iterable[str], dtypes: Mapping[str, int]) -> None:
    if odd := sorted(set(given) - dtypes.keys()):
        raise invalid(f"the signature has no input {_names(odd)}; it takes {_names(dtypes)}")


def _is_named(value: Any) -> bool:
    return isinstance(value, dict) and not _is_base64(value)


def _is_base64(value: Any) -> bool:
    return isinstance(value, dict) and value.keys() == {"b64"} and isinstance(value["b64"], str)


def _kinds_in(name: str, value: Any, depth: int = 0) -> set[type]:
    """The types of all values inside the lists."""
    if type(value) is not list:
        return {type(value)}
    if depth == MAX_RANK:
        raise invalid(f"input `{name}` is nested more than {MAX_RANK} lists deep")
    kinds = set(map(type, value))
    if list in kinds:
        kinds.discard(list)
        for each in value:
            if type(each) is list:
                kinds |= _kinds_in(name, each, depth + 1)
    return kinds


def _leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, list):
        for each in value:
            yield from _leaves(each)
    else:
        yield value


def _to_bytes(name: str, array: np.ndarray) -> np.ndarray:
    values = array.ravel().tolist()
    cells = np.empty(len(values), object)
    cells[:] = [value.encode() if isinstance(value, str) else _decode(name, value) for value in values]
    return cells.reshape(array.shape)


def _decode(name: str, value: Any) -> bytes:
    if isinstance(value, list):  # numpy keeps ragged lists of objects as they are
        raise _ragged(name)
    if not _is_base64(value):
        raise invalid(f'input `{name}` must hold text, or {{"b64": "..."}}; received {_quote(value)}')
    try:
        return base64.b64decode(value["b64"], validate=True)
    except (binascii.Error, ValueError):
        raise invalid(f"input `{name}` holds {_quote(value)}, which is not base64") from None


def _ragged(name: str) -> ServingError:
    return invalid(f"input `{name}` is ragged: lists of one level must have one length; pad the shorter ones")


def _names(names: Iterable[str]) -> str:
    return _quote(sorted(names))


def _quote(value: Any) -> str:
    """A JSON value for an error message, shortened."""
    try:
        text = orjson.dumps(value).decode()
    except TypeError:  # nested too deeply for orjson to write
        return f"a {type(value).__name__}"
    return text if len(text) <= _MAX_QUOTED else text[:_MAX_QUOTED] + "..."
