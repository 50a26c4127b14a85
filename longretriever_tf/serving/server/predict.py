"""One predict call, whichever transport it came by: defaults, checks, the model, the outputs asked for.

Source for order and words of the checks: PreProcessPrediction in tensorflow/serving predict_util.cc, GetInputValues in
tensorflow cc/saved_model/util.cc.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Protocol

import numpy as np

from longretriever_tf.serving.server.limits import DEFAULT_LIMITS, RequestLimits, check_feeds
from longretriever_tf.serving.server.loaded import DEFAULT_SIGNATURE, LoadedModel, Signature, TensorSpec
from longretriever_tf.serving.server.status import ServingError, invalid
from longretriever_tf.serving.server.tensors import DTYPES

IsWanted = Callable[[], bool]
"""Whether the caller of a request still waits for the answer."""


def always() -> bool:
    """The caller that never goes."""
    return True


def nobody_waits() -> ServingError:
    """Of a request whose caller has gone before its turn came."""
    return ServingError("CANCELLED", "the caller has gone: the request was not begun")


class Runner(Protocol):
    """What runs a signature: a model itself, or a scheduler that gathers several requests first."""

    def run(
        self,
        model: LoadedModel,
        signature: Signature,
        inputs: Mapping[str, np.ndarray],
        outputs: Sequence[str],
        is_wanted: IsWanted = always,
    ) -> list[np.ndarray]:
        """The outputs, in the order asked for; CANCELLED where nobody waits for them when their turn comes."""
        ...


class DirectRunner:
    """Runs every request by itself."""

    def run(
        self,
        model: LoadedModel,
        signature: Signature,
        inputs: Mapping[str, np.ndarray],
        outputs: Sequence[str],
        is_wanted: IsWanted = always,
    ) -> list[np.ndarray]:
        if not is_wanted():
            raise nobody_waits()
        return model.run(signature, inputs, outputs)


def find_signature(model: LoadedModel, name: str) -> Signature:
    """The named signature, the default one for "".

    Raises:
      ServingError: FAILED_PRECONDITION, none has that name.
    """
    signature = model.signatures.get(name or DEFAULT_SIGNATURE)
    if signature is None:
        raise ServingError("FAILED_PRECONDITION", f'Serving signature key "{name or DEFAULT_SIGNATURE}" not found.')
    return signature


def predict(
    runner: Runner,
    model: LoadedModel,
    signature: Signature,
    inputs: Mapping[str, np.ndarray],
    output_filter: Sequence[str] = (),
    limits: RequestLimits = DEFAULT_LIMITS,
    is_wanted: IsWanted = always,
) -> dict[str, np.ndarray]:
    """Runs a signature.

    Args:
      runner: how.
      model: held by the caller.
      signature: of that model.
      inputs: arrays by input name; inputs that the signature has a default for may be missing.
      output_filter: outputs wanted; none means all.
      limits: what a request may ask of the memory.
      is_wanted: a request that has to wait for its turn is dropped where this is then False.

    Returns:
      The outputs by name.

    Raises:
      ServingError: INVALID_ARGUMENT and others, in TensorFlow Serving's words.
    """
    feeds = _fill(signature, inputs)
    for number, name in enumerate(sorted(feeds)):
        _check_input(number, name, feeds[name], signature.inputs[name])
    check_feeds(feeds, signature, limits, model.size)
    outputs = _choose_outputs(signature, output_filter)
    try:
        return dict(zip(outputs, runner.run(model, signature, feeds, outputs, is_wanted), strict=True))
    except ServingError as error:
        raise _with_row_counts(error, feeds) from error


def _fill(signature: Signature, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The inputs, with defaults for those left out."""
    given, known = set(inputs), set(signature.inputs)
    if len(given) > len(known) or (len(given) < len(known) and not signature.defaults):
        raise invalid(
            f"input size does not match signature: {len(given)}!={len(known)} len({_names(given)}) != "
            f"len({_names(known)}). Sent extra: {_names(given - known)}. Missing but required: {_names(known - given)}."
        )
    for alias in sorted(known - given - set(signature.defaults)):
        raise invalid(
            f"Signature input alias: {alias}(feed name: {signature.inputs[alias].tensor}) not found in request and no "
            f"default value provided. Inputs expected to be in the request {_names(given)}, or default input alias "
            f"set: {','.join(sorted(signature.defaults))}"
        )
    if given - known:
        raise invalid(
            f"Inputs contains invalid name. Used request inputs: {','.join(sorted(given & known))}, "
            f"request input: {','.join(sorted(given))}"
        )
    return {alias: inputs[alias] if alias in given else signature.defaults[alias] for alias in known}


def _check_input(number: int, name: str, array: np.ndarray, spec: TensorSpec) -> None:
    want = DTYPES.get(spec.dtype)
    have = "string" if array.dtype.kind in "OSU" else array.dtype.name
    if want is not None and have != np.dtype(want.numpy).name.replace("object", "string"):
        have = {"float32": "float", "float64": "double"}.get(have, have)
        raise invalid(f"Expects arg[{number}] to be {want.name} but {have} is provided (input `{name}`)")
    if spec.dims is None:
        return
    fits = len(spec.dims) == array.ndim and all(
        dim < 0 or dim == size for dim, size in zip(spec.dims, array.shape, strict=True)
    )
    if not fits:
        shown = ["?" if dim < 0 else str(dim) for dim in spec.dims]
        raise invalid(f"input `{name}` must have shape [{', '.join(shown)}]; received {list(array.shape)}")


def _choose_outputs(signature: Signature, output_filter: Sequence[str]) -> tuple[str, ...]:
    for number, alias in enumerate(output_filter):
        if alias not in signature.outputs:
            raise invalid(
                f"output tensor alias not found in signature: {alias} Outputs expected to be in the set "
                f"{_names(signature.outputs)}."
            )
        if alias in output_filter[:number]:
            raise invalid(f"duplicate output tensor alias: {alias}")
    return tuple(output_filter) or tuple(sorted(signature.outputs))


def _with_row_counts(error: ServingError, feeds: Mapping[str, np.ndarray]) -> ServingError:
    """Graph errors do not say that one input is shorter than the rest, which is their usual cause."""
    rows = {name: len(array) for name, array in sorted(feeds.items()) if array.ndim}
    if error.code != "INVALID_ARGUMENT" or len(set(rows.values()) - {1}) < 2:
        return error
    return invalid(f"{error.message}\nThe inputs have different numbers of rows: {rows}")


def _names(names: Iterable[str]) -> str:
    return "{" + ",".join(sorted(names)) + "}"
