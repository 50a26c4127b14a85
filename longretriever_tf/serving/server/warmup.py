"""Replays the requests that an export brings along: before it is served, and to check it in a fresh process.

No user's request is then a model's first. And nothing but a fresh process shows that a directory can be served: the
process that wrote it still holds everything in memory.
"""

import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
from tensorflow_serving.apis import prediction_log_pb2

from longretriever_tf.common.errors import UserError
from longretriever_tf.serving.server.loaded import LoadedModel
from longretriever_tf.serving.server.predict import predict
from longretriever_tf.serving.server.status import ServingError, invalid
from longretriever_tf.serving.server.tensors import arrays_of

WARMUP_FILE = os.path.join("assets.extra", "tf_serving_warmup_requests")
"""Where TensorFlow Serving looks within a version directory: a TFRecord file of PredictionLog."""

_MAX_RECORDS = 1000
_TOLERANCE = 1e-4
"""Of floats, absolute and relative: another process may add in another order."""


class Replayed(NamedTuple):
    """One request: its signature, and whether it was compared with a kept answer."""

    signature: str
    is_compared: bool


def warm_up(model: LoadedModel) -> None:
    """Replays the warm-up requests, if there are any.

    Raises:
      ServingError: a record that cannot be read, or a request that fails: the version must then not be served.
    """
    if os.path.exists(os.path.join(model.path, WARMUP_FILE)):
        for log in _read(model.path):
            _ask(model, log.request)


def replay(version_dir: str) -> list[Replayed]:
    """Loads the version as a server does, asks it everything in its warm-up file, and compares the answers.

    Raises:
      UserError: it cannot be loaded, has no requests, or answers otherwise than when it was exported.
    """
    path = os.path.join(version_dir, WARMUP_FILE)
    if not os.path.exists(path):
        raise UserError(f"{version_dir!r} has no warm-up requests ({path} does not exist); export again")
    try:
        model = LoadedModel("replay", 0, version_dir)
        replayed = [_replay_one(model, log) for log in _read(version_dir)]
    except ServingError as error:
        raise UserError(f"{version_dir!r} cannot be served: {error}; export again") from error
    model.retire()
    return replayed


def check_in_fresh_process(version_dir: str) -> None:
    """`replay` by a child process.

    Raises:
      UserError: what `replay` says of the version.
    """
    code = f"from {__name__} import main; main()"
    child = subprocess.run([sys.executable, "-c", code, version_dir], capture_output=True, text=True)
    if child.returncode:
        lines = child.stderr.strip().splitlines() or [f"exit status {child.returncode}"]
        raise UserError(f"the export fails in a fresh process, and was not published: {lines[-1]}")


def main() -> None:
    """What the fresh process does."""
    try:
        replay(sys.argv[1])
    except UserError as error:
        sys.exit(str(error))


def _read(version_dir: str) -> Iterator[prediction_log_pb2.PredictLog]:
    path = os.path.join(version_dir, WARMUP_FILE)
    try:
        for number, record in enumerate(tf.data.TFRecordDataset(path).as_numpy_iterator(), 1):
            if number > _MAX_RECORDS:
                raise invalid(f"{path} holds more than {_MAX_RECORDS} warm-up requests, the most that are replayed")
            log = prediction_log_pb2.PredictionLog.FromString(record)
            if log.WhichOneof("log_type") != "predict_log":
                raise ServingError("UNIMPLEMENTED", f"{path}: record {number} is no predict_log; no other is replayed")
            yield log.predict_log
    except tf.errors.DataLossError as error:
        raise ServingError("DATA_LOSS", f"{path} is broken: {error.message}") from error


def _ask(model: LoadedModel, request: Any) -> tuple[str, dict[str, np.ndarray]]:
    signature = model.signature(request.model_spec.signature_name)
    return signature.name, predict(model, signature, arrays_of(request.inputs), request.output_filter)


def _replay_one(model: LoadedModel, log: prediction_log_pb2.PredictLog) -> Replayed:
    signature, answer = _ask(model, log.request)
    expected = arrays_of(log.response.outputs)
    for name, value in expected.items():
        _compare(signature, name, answer[name], value)
    for name, value in answer.items():
        if value.dtype.kind == "f" and not np.isfinite(value).all():
            raise UserError(f"{signature}: output `{name}` is not finite")
    return Replayed(signature, bool(expected))


def _compare(signature: str, name: str, value: np.ndarray, expected: np.ndarray) -> None:
    same = value.shape == expected.shape and (
        np.allclose(value, expected, _TOLERANCE, _TOLERANCE)
        if value.dtype.kind == "f"
        else bool(np.all(value == expected))
    )
    if not same:
        raise UserError(
            f"{signature}: output `{name}` is {_short(value)}, and was {_short(expected)} in the process that "
            "exported it"
        )


def _short(value: np.ndarray) -> str:
    return f"{value.ravel()[:4].tolist()}... of shape {list(value.shape)}"
