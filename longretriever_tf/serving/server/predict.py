"""One predict call, whichever transport it came by: defaults, checks, the model, the outputs asked for."""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import tensorflow as tf

from longretriever_tf.serving.server.limits import DEFAULT_LIMITS, RequestLimits, check_feeds
from longretriever_tf.serving.server.loaded import LoadedModel, Signature, TensorSpec
from longretriever_tf.serving.server.status import invalid


def predict(
    model: LoadedModel,
    signature: Signature,
    inputs: Mapping[str, np.ndarray],
    output_filter: Sequence[str] = (),
    limits: RequestLimits = DEFAULT_LIMITS,
) -> dict[str, np.ndarray]:
    """The outputs of a signature by name: those of `output_filter`, or all where it is empty.

    `inputs` may lack inputs that the signature has a default for. The caller holds the model.

    Raises:
      ServingError: INVALID_ARGUMENT, naming the input at fault; or what the graph says.
    """
    feeds = _fill(signature, inputs)
    for name in sorted(feeds):
        _check_input(name, feeds[name], signature.inputs[name])
    check_feeds(feeds, signature, limits, model.size)
    if odd := set(output_filter) - signature.outputs.keys():
        raise invalid(f"output_filter names {_names(odd)}; the outputs are {_names(signature.outputs)}")
    outputs = model.run(signature, feeds)
    return {name: outputs[name] for name in output_filter} if output_filter else outputs


def _fill(signature: Signature, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The inputs, with defaults for those left out."""
    known = signature.inputs.keys()
    odd = inputs.keys() - known
    missing = known - inputs.keys() - signature.defaults.keys()
    if odd or missing:
        raise invalid(
            f"the inputs do not fit {signature.name}: missing {_names(missing)}; unknown {_names(odd)}. It takes "
            f"{_names(known)}, of which {_names(signature.defaults)} may be left out"
        )
    return {name: inputs[name] if name in inputs else signature.defaults[name] for name in known}


def _check_input(name: str, array: np.ndarray, spec: TensorSpec) -> None:
    dtype = tf.as_dtype(spec.dtype)
    received = "string" if array.dtype.kind in "OSU" else array.dtype.name
    if received != dtype.name:
        raise invalid(f"input `{name}` must be {dtype.name}; received {received}")
    if spec.dims is None:
        return
    fits = len(spec.dims) == array.ndim and all(
        dim < 0 or dim == size for dim, size in zip(spec.dims, array.shape, strict=True)
    )
    if not fits:
        shown = ["?" if dim < 0 else str(dim) for dim in spec.dims]
        raise invalid(f"input `{name}` must have shape [{', '.join(shown)}]; received {list(array.shape)}")


def _names(names: Iterable[str]) -> str:
    return ", ".join(sorted(names)) or "none"
