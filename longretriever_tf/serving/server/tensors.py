"""TensorProto to arrays and back."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.core.framework import tensor_pb2

from longretriever_tf.serving.server.limits import UNLIMITED, RequestLimits, check_shapes
from longretriever_tf.serving.server.status import invalid

_FIELDS = dict.fromkeys(("int32", "int16", "int8", "uint8"), "int_val") | {
    "float32": "float_val",
    "float64": "double_val",
    "int64": "int64_val",
    "uint32": "uint32_val",
    "uint64": "uint64_val",
    "bool": "bool_val",
}


def arrays_of(inputs: Mapping[str, Any], limits: RequestLimits = UNLIMITED) -> dict[str, np.ndarray]:
    """TensorProtos by name as arrays.

    A TensorProto may declare any shape and repeat one value over it, so shapes are checked before they are filled.

    Raises:
      ServingError: INVALID_ARGUMENT, an unknown dtype, content that does not fit the shape, or more than `limits`.
    """
    for name, proto in inputs.items():
        if proto.tensor_shape.unknown_rank:
            raise invalid(f"tensor parsing error: {name}: its shape has an unknown rank; declare every dimension")
    shapes = {name: [dim.size for dim in proto.tensor_shape.dim] for name, proto in inputs.items()}
    check_shapes(shapes, limits)
    arrays = {}
    for name, proto in inputs.items():
        _check_text(name, proto, math.prod(shapes[name]), limits)
        try:
            arrays[name] = tf.make_ndarray(proto)
        except (ValueError, TypeError, KeyError, OverflowError, IndexError, AttributeError) as error:
            raise invalid(f"tensor parsing error: {name}: its content does not fit its dtype and shape") from error
    return arrays


def _check_text(name: str, proto: Any, num_values: int, limits: RequestLimits) -> None:
    """Refuses one long text that is declared to repeat: it would be copied for every element."""
    if not proto.string_val or not limits.max_body:
        return
    repeated = max(num_values - len(proto.string_val), 0)
    size = sum(map(len, proto.string_val)) + repeated * len(proto.string_val[-1])
    if size > limits.max_body:
        raise invalid(
            f"input `{name}` holds {size} bytes of text, repeated values counted; this server takes at most "
            f"{limits.max_body} (--max_body_mb)"
        )


def fill(proto: tensor_pb2.TensorProto, array: np.ndarray) -> None:
    """Writes an array into the typed fields of `proto` (float_val, int64_val, ...), every element by itself.

    TensorFlow Serving answers so. `tf.make_tensor_proto` would write tensor_content, which some clients do not read.
    """
    is_text = array.dtype.kind in "OSU"
    field = "string_val" if is_text else _FIELDS.get(array.dtype.name)
    if field is None:  # half and complex numbers
        proto.CopyFrom(tf.make_tensor_proto(array))
        return
    proto.dtype = tf.string.as_datatype_enum if is_text else tf.as_dtype(array.dtype).as_datatype_enum
    proto.tensor_shape.SetInParent()
    for size in array.shape:
        proto.tensor_shape.dim.add(size=size)
    getattr(proto, field).extend(array.ravel().tolist())
