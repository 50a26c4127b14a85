"""TensorFlow's dtypes by their enum number: NumPy type, and the name that error messages use. Imports no TensorFlow."""

from typing import NamedTuple

import numpy as np


class Dtype(NamedTuple):
    """One dtype: its name in TensorFlow's messages, its NumPy type, and its field in TensorProto."""

    name: str
    numpy: type
    field: str


DTYPES = {
    1: Dtype("float", np.float32, "float_val"),
    2: Dtype("double", np.float64, "double_val"),
    3: Dtype("int32", np.int32, "int_val"),
    4: Dtype("uint8", np.uint8, "int_val"),
    5: Dtype("int16", np.int16, "int_val"),
    6: Dtype("int8", np.int8, "int_val"),
    7: Dtype("string", np.object_, "string_val"),
    9: Dtype("int64", np.int64, "int64_val"),
    10: Dtype("bool", np.bool_, "bool_val"),
    22: Dtype("uint32", np.uint32, "uint32_val"),
    23: Dtype("uint64", np.uint64, "uint64_val"),
}
"""The dtypes that TensorFlow Serving takes and gives as JSON; gRPC carries others as raw content."""

STRING = 7
BOOL = 10
FLOATS = (1, 2)
SMALL_INTS = (3, 4, 5, 6)
"""Kept as 32 bits in a TensorProto: a JSON value must fit those, then is cast."""


def name_of(number: int) -> str:
    """The name in messages: "int64"; a dtype without JSON form by its number."""
    return DTYPES[number].name if number in DTYPES else f"DT_{number}"
