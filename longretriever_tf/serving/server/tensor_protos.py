"""TensorProto to arrays and back, in the typed fields that TensorFlow Serving answers with."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.core.framework import tensor_pb2

from longretriever_tf.serving.server.limits import UNLIMITED, RequestLimits, check_shapes
from longretriever_tf.serving.server.status import invalid
from longretriever_tf.serving.server.tensors import DTYPES, STRING

_BY_NUMPY = {np.dtype(dtype.numpy): number for number, dtype in DTYPES.items() if number != STRING}


def arrays_of(inputs: Mapping[str, Any], limits: RequestLimits = UNLIMITED) -> dict[str, np.ndarray]:
    """The inputs of a PredictRequest as arrays; either encoding is read.

    A TensorProto may declare any shape and repeat one value over it, so shapes are checked before they are filled.

    Args:
      inputs: TensorProto by name.
      limits: what is too large.

    Raises:
      ServingError: INVALID_ARGUMENT, a tensor of no known dtype, or whose content does not fit its shape, or one that
        is too large.
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
            # Numbers that the field's type can hold and the dtype cannot are wrapped in C++, too.
            with np.errstate(over="ignore", invalid="ignore"):
                arrays[name] = tf.make_ndarray(proto)
        except (ValueError, TypeError, KeyError, OverflowError, IndexError, AttributeError) as error:
            raise invalid(f"tensor parsing error: {name}") from error
    return arrays


def _check_text(name: str, proto: Any, num_values: int, limits: RequestLimits) -> None:
    """One long text, declared to repeat, would be copied for every element."""
    if proto.dtype != STRING or not proto.string_val or not limits.max_text:
        return
    repeated = max(num_values - len(proto.string_val), 0)
    size = sum(map(len, proto.string_val)) + repeated * len(proto.string_val[-1])
    if size > limits.max_text:
        raise invalid(
            f"input `{name}` holds {size} bytes of text, repeated values counted; this server takes at most "
            f"{limits.max_text} (--max_body_mb)"
        )


def fill(proto: tensor_pb2.TensorProto, array: np.ndarray) -> None:
    """Writes an array into `proto`: float_val, int64_val and so on, every element by itself.

    TensorFlow Serving answers so (Tensor::AsProtoField), not with tensor_content: a client that reads typed fields
    alone must find them.
    """
    number = STRING if array.dtype.kind in "OSU" else _BY_NUMPY.get(array.dtype)
    if number is None:  # half and complex numbers: whatever TensorFlow makes of them
        proto.CopyFrom(tf.make_tensor_proto(array))
        return
    proto.dtype = number
    for size in array.shape:
        proto.tensor_shape.dim.add(size=size)
    if not array.ndim:
        proto.tensor_shape.SetInParent()
    getattr(proto, DTYPES[number].field).extend(array.ravel().tolist())
