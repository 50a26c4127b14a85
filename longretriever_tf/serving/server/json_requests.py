"""The body of a REST predict request: signature name, and inputs by row (`instances`) or by column (`inputs`)."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from longretriever_tf.serving.server import json_tensors, json_text
from longretriever_tf.serving.server.limits import DEFAULT_LIMITS, RequestLimits, check_json_size
from longretriever_tf.serving.server.status import ServingError, invalid


class Expected(NamedTuple):
    """What a signature takes: dtype enum per input, and the inputs that a request may leave out.

    TensorFlow Serving fills left-out inputs from the signature's defaults in gRPC requests alone: its JSON reader wants
    every input. `optional` is therefore empty unless the server was told otherwise; `has_default` serves the message.
    """

    dtypes: Mapping[str, int]
    optional: frozenset[str] = frozenset()
    has_default: frozenset[str] = frozenset()


class PredictBody(NamedTuple):
    """A parsed request: the arrays by input name, and whether the reply is to be by row."""

    signature_name: str
    inputs: dict[str, np.ndarray]
    by_row: bool


def parse_predict(
    body: bytes, expected_of: Callable[[str], Expected], limits: RequestLimits = DEFAULT_LIMITS
) -> PredictBody:
    """Reads a predict request.

    Args:
      body: JSON text.
      expected_of: what the named signature takes ("": the default one); raises for an unknown one.
      limits: what is too large to be parsed.

    Raises:
      ServingError: INVALID_ARGUMENT in TensorFlow Serving's words.
    """
    check_json_size(body, limits)
    document = json_text.parse_object(body)
    name = document.get("signature_name", "")
    if not isinstance(name, str):
        raise invalid(
            f"JSON Value: {json_text.quote(document)} not formatted correctly. "
            "'signature_name' key must be a string value."
        )
    expected = expected_of(name)
    if not expected.dtypes:
        raise invalid(f"Failed to get input map for signature: {name or 'DEFAULT'}")
    if "instances" in document and "inputs" in document:
        raise invalid(
            f"JSON Value: {json_text.quote(document)} Not formatted correctly expecting only"
            " one of 'inputs' or 'instances' keys to exist "
        )
    if "instances" in document:
        return PredictBody(name, _from_rows(document, expected), True)
    if "inputs" in document:
        return PredictBody(name, _from_columns(document["inputs"], expected), False)
    raise invalid("Missing 'inputs' or 'instances' key")


def _from_rows(document: dict[str, Any], expected: Expected) -> dict[str, np.ndarray]:
    rows = document["instances"]
    if not isinstance(rows, list):
        raise invalid(f"JSON Value: {json_text.quote(document)} Expecting 'instances' to be an list/array")
    if not rows:
        raise invalid(f"JSON Value: {json_text.quote(document)} No values in 'instances' array")
    if not isinstance(rows[0], dict) and len(expected.dtypes) > 1:
        raise invalid(
            "instances is a plain list, but expecting list of objects as multiple input tensors required as per "
            "tensorinfo_map"
        )
    if _is_named(rows[0]):
        return _from_named_rows(rows, expected)
    name, dtype = next(iter(expected.dtypes.items()))
    array = None if any(map(_is_named, rows)) else json_tensors.convert(rows, dtype)
    if array is None:
        _explain_plain_rows(rows, dtype)
        raise invalid(f"Failed to process 'instances' list as {name}")
    return {name: array}


def _is_named(row: Any) -> bool:
    return isinstance(row, dict) and not json_tensors.is_base64(row)


def _from_named_rows(rows: list[Any], expected: Expected) -> dict[str, np.ndarray]:
    names = expected.dtypes.keys() if not expected.optional else rows[0].keys()
    allowed = expected.dtypes.keys() >= names and names | expected.optional >= expected.dtypes.keys()
    if allowed and all(_is_named(row) and row.keys() == names for row in rows):
        arrays = {name: json_tensors.convert([row[name] for row in rows], expected.dtypes[name]) for name in names}
        if not any(array is None for array in arrays.values()):
            return arrays  # type: ignore[return-value]
    _explain_named_rows(rows, expected)
    raise invalid("Failed to process 'instances' list: all rows must have the same keys")


def _explain_named_rows(rows: list[Any], expected: Expected) -> None:
    """Raises for the first wrong value, key by key, row by row: the order of FillTensorMapFromInstancesList."""
    first: dict[str, tuple[int, ...]] = {}
    for number, row in enumerate(rows):
        if not _is_named(row):
            raise invalid(f"Expecting object but got list at item {number} of input list")
        for name, value in row.items():
            try:
                if name not in expected.dtypes:
                    raise invalid(f"JSON object: does not have named input: {name}")
                _explain_row_value(value, expected.dtypes[name], first.setdefault(name, json_tensors.shape_of(value)))
            except ServingError as error:
                raise invalid(
                    f"Failed to process element: {number} key: {name} of 'instances' list. Error: {error}"
                ) from None
        if expected.dtypes.keys() - row.keys() - expected.optional:
            raise invalid(
                f"Failed to process element: {number} of 'instances' list. JSON object: {json_text.quote(row)} "
                f"keys must be equal to: {','.join(sorted(expected.dtypes))}{_cure(expected, row.keys())}"
            )


def _explain_plain_rows(rows: list[Any], dtype: int) -> None:
    shape = json_tensors.shape_of(rows[0])
    for number, row in enumerate(rows):
        if _is_named(row):
            raise invalid(f"Expecting value/list but got object at item {number} of input list")
        try:
            _explain_row_value(row, dtype, shape)
        except ServingError as error:
            raise invalid(f"Failed to process element: {number} of 'instances' list. Error: {error}") from None


def _explain_row_value(value: Any, dtype: int, first_shape: tuple[int, ...]) -> None:
    json_tensors.explain(value, dtype)
    shape = json_tensors.shape_of(value)
    size, first_size = (int(np.prod(each)) for each in (shape, first_shape))
    if size != first_size:
        raise invalid(f"Expecting tensor size: {first_size} but got: {size}")
    if shape != first_shape:
        shown = [f"[{','.join(map(str, each))}]" for each in (first_shape, shape)]
        raise invalid(f"Expecting shape {shown[0]} but got: {shown[1]}")


def _from_columns(value: Any, expected: Expected) -> dict[str, np.ndarray]:
    if not isinstance(value, dict) or json_tensors.is_base64(value):
        if len(expected.dtypes) > 1:
            raise invalid(
                "inputs is a plain value/list, but expecting an object as multiple input tensors required as per "
                "tensorinfo_map"
            )
        name, dtype = next(iter(expected.dtypes.items()))
        return {name: json_tensors.to_array(value, dtype)}
    if expected.optional and (extra := value.keys() - expected.dtypes.keys()):
        raise invalid(
            f"'inputs' object has names that the signature does not: {','.join(sorted(extra))}; "
            f"it takes: {','.join(sorted(expected.dtypes))}"
        )
    arrays = {}
    for name, dtype in sorted(expected.dtypes.items()):
        if name in value:
            arrays[name] = json_tensors.to_array(value[name], dtype)
        elif name not in expected.optional:
            raise invalid(f"Missing named input: {name} in 'inputs' object.{_cure(expected, value.keys())}")
    return arrays


def _cure(expected: Expected, given: Any) -> str:
    """More than TensorFlow Serving says, after its own words: why a default did not step in."""
    named = sorted(expected.has_default - set(given))
    if not named or expected.optional:
        return ""
    return (
        f" ({', '.join(named)}: the signature has defaults, but TensorFlow Serving applies them to gRPC requests only; "
        "send the values, or start this server with --rest_default_inputs)"
    )
