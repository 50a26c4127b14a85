"""Replays an export's warm-up requests in a fresh process and compares the answers with those it was exported with.

Nothing less shows that a directory can be served: the process that wrote it still holds everything in memory.
"""

import json
import os
import subprocess
import sys
import time
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from longretriever_tf.common.errors import UserError
from longretriever_tf.retrieval.export.warmup_requests import read_warmup
from longretriever_tf.serving.server.loaded import LoadedModel
from longretriever_tf.serving.server.predict import DirectRunner, find_signature, predict
from longretriever_tf.serving.server.status import ServingError
from longretriever_tf.serving.server.tensor_protos import arrays_of
from longretriever_tf.serving.server.warmup import WARMUP_FILE

_TOLERANCE = 1e-4
"""Of floats, absolute and relative: another process may add in another order."""


class Replayed(NamedTuple):
    """One request: its signature, how long it took, and whether it was compared with a kept answer."""

    signature: str
    milliseconds: float
    is_compared: bool


def replay(version_dir: str) -> list[Replayed]:
    """Loads the version as a server does and asks it everything in its warm-up file.

    Raises:
      UserError: it cannot be loaded, has no requests, or answers otherwise than when it was exported.
    """
    path = os.path.join(version_dir, WARMUP_FILE)
    if not os.path.exists(path):
        raise UserError(f"{version_dir!r} has no warm-up requests ({path} does not exist); export again")
    try:
        model = LoadedModel("replay", 0, version_dir)
        done = [_ask(model, log.predict_log) for log in read_warmup(path)]
    except ServingError as error:
        raise UserError(f"{version_dir!r} cannot be served: {error}") from error
    except tf.errors.DataLossError as error:
        raise UserError(f"{path} is broken: {error.message}; export again") from error
    model.retire()
    return done


def check_in_fresh_process(version_dir: str) -> list[Replayed]:
    """`replay` by a child process.

    Raises:
      UserError: what `replay` says of the version.
    """
    code = f"from {__name__} import main; main()"
    child = subprocess.run([sys.executable, "-c", code, version_dir], capture_output=True, text=True)
    if child.returncode:
        lines = child.stderr.strip().splitlines() or [f"exit status {child.returncode}"]
        raise UserError(f"the export fails in a fresh process, and was not published: {lines[-1]}")
    return [Replayed(*row) for row in json.loads(child.stdout.splitlines()[-1])]


def main() -> None:
    """What the fresh process does: prints a JSON list of `Replayed`."""
    try:
        print(json.dumps(replay(sys.argv[1])))
    except UserError as error:
        sys.exit(str(error))


def _ask(model: LoadedModel, log: Any) -> Replayed:
    request = log.request
    signature = find_signature(model, request.model_spec.signature_name)
    start = time.monotonic()
    answer = predict(DirectRunner(), model, signature, arrays_of(request.inputs))
    elapsed = (time.monotonic() - start) * 1000
    expected = arrays_of(log.response.outputs)
    for name, value in expected.items():
        _compare(signature.name, name, answer[name], value)
    for name, value in answer.items():
        if value.dtype.kind == "f" and not np.isfinite(value).all():
            raise UserError(f"{signature.name}: output `{name}` is not finite")
    return Replayed(signature.name, elapsed, bool(expected))


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
