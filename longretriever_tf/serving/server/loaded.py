"""One SavedModel in memory: its signatures, and a session that runs them, as TensorFlow Serving's loader makes it.

A TensorFlow 1 session, not `tf.saved_model.load`: feeds and fetches by the signature's tensor names are what the C++
server does, so errors, resources and custom operations behave alike; it loads without tracing Python, and `close` frees
it.
"""

import importlib
import os
import threading
import weakref
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf import config_pb2

from longretriever_tf.common.errors import UserError
from longretriever_tf.serving.server.limits import read_export_size
from longretriever_tf.serving.server.status import ServingError, from_exception, invalid

DEFAULT_SIGNATURE = "serving_default"
_SCANN_MODULE = "longretriever_tf.retrieval.index.scann_ops"


class TensorSpec(NamedTuple):
    """One input or output of a signature: the tensor's name in the graph, dtype enum, and dims (None: any rank)."""

    tensor: str
    dtype: int
    dims: tuple[int, ...] | None


class Signature(NamedTuple):
    """A SignatureDef, and what it says in plain values."""

    name: str
    proto: Any
    inputs: dict[str, TensorSpec]
    outputs: dict[str, TensorSpec]
    defaults: dict[str, np.ndarray]


class LoadedModel:
    """A version that can answer. Held by requests through `hold`; closed when retired and the last has let go."""

    def __init__(
        self,
        name: str,
        version: int,
        path: str,
        timeout_s: float = 0.0,
        on_close: Callable[[object], None] = lambda graph: None,
    ) -> None:
        """Loads the SavedModel at `path`.

        Args:
          name: the model's.
          version: its number.
          path: directory of the SavedModel.
          timeout_s: a run that takes longer is stopped at its next operation, with DEADLINE_EXCEEDED; 0: never.
          on_close: called with the graph once the model is closed, on the thread that let it go.

        Raises:
          ServingError: NOT_FOUND, there is none; DATA_LOSS or another code, it is broken.
        """
        self._options = config_pb2.RunOptions(timeout_in_ms=int(timeout_s * 1000))
        self._on_close = on_close
        self.name, self.version, self.path = name, version, path
        self._lock = threading.Lock()
        self._callables: dict[str, Callable[..., list[np.ndarray]]] = {}
        weakref.finalize(self, self._callables.clear)  # at exit, before Python takes apart what they need to end
        self._holders = 0
        self._retired = False
        self._session, self.signatures = _load(path)
        self.size = read_export_size(path, self.signatures)

    def signature(self, name: str) -> Signature:
        """The named signature, the default one for "".

        Raises:
          ServingError: FAILED_PRECONDITION, none has that name.
        """
        if signature := self.signatures.get(name or DEFAULT_SIGNATURE):
            return signature
        known = ", ".join(sorted(name for name in self.signatures if not name.startswith("__")))
        raise ServingError(
            "FAILED_PRECONDITION", f'the model has no signature "{name or DEFAULT_SIGNATURE}"; it has {known}'
        )

    def run(self, signature: Signature, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """All outputs of one signature; `inputs` holds an array for every input. Thread-safe.

        Raises:
          ServingError: what the graph complained of.
        """
        call = self._callable(signature)
        try:
            values = call(*(inputs[name] for name in sorted(signature.inputs)))
            return dict(zip(sorted(signature.outputs), values, strict=True))
        except UnicodeDecodeError as error:
            # TensorFlow's own error, on its way to Python: it repeats a text of the request that is not UTF-8.
            raise invalid(error.object.decode("utf-8", "replace")) from error
        except (tf.errors.OpError, ValueError, TypeError) as error:
            raise from_exception(error) from error

    def hold(self) -> bool:
        """Takes a share in the model; False where it was closed or retired already."""
        with self._lock:
            if self._retired:
                return False
            self._holders += 1
            return True

    def release(self) -> None:
        """Gives a share back; the last one of a retired model closes it."""
        with self._lock:
            self._holders -= 1
            closing = self._retired and not self._holders
        if closing:
            self._close()

    def retire(self) -> None:
        """No new holders; frees the memory once the present ones are done."""
        with self._lock:
            closing = not self._retired and not self._holders
            self._retired = True
        if closing:
            self._close()

    def _close(self) -> None:
        # Callables first: a closed session no longer takes back what they hold.
        self._callables.clear()
        self._session.close()
        self._on_close(self._session.graph)

    def _callable(self, signature: Signature) -> Callable[..., list[np.ndarray]]:
        with self._lock:
            if signature.name not in self._callables:
                # Not the public `make_callable`: with feeds it is `Session.run`, which looks every feed up in Python
                # on every call. That takes a good part of a small request's time.
                options = config_pb2.CallableOptions(
                    feed=[signature.inputs[name].tensor for name in sorted(signature.inputs)],
                    fetch=[signature.outputs[name].tensor for name in sorted(signature.outputs)],
                    run_options=self._options,
                )
                self._callables[signature.name] = self._session._make_callable_from_options(options)
            return self._callables[signature.name]


def _load(path: str) -> tuple[Any, dict[str, Signature]]:
    model_file = os.path.join(path, "saved_model.pb")
    if not os.path.isfile(model_file):
        raise ServingError("NOT_FOUND", f"{model_file} does not exist: the directory is no SavedModel")
    _register_scann_ops(model_file)
    graph = tf.Graph()
    session = tf.compat.v1.Session(graph=graph)
    try:
        with graph.as_default():
            meta_graph = tf.compat.v1.saved_model.load(session, ["serve"], path)
    except Exception as error:  # whatever a broken directory provokes must not end the thread that loads
        session.close()
        if isinstance(error, OSError):
            raise ServingError("DATA_LOSS", f"cannot parse {model_file}: {error}") from error
        raise from_exception(error) from error
    return session, {name: _signature(name, proto) for name, proto in meta_graph.signature_def.items()}


def _register_scann_ops(model_file: str) -> None:
    """ScaNN's operations exist once its library is imported; only exports that use them ask for it."""
    try:
        with open(model_file, "rb") as file:
            if b"Scann>" in file.read():
                importlib.import_module(_SCANN_MODULE).load_ops()
    except (OSError, ImportError, UserError):
        return  # the load itself says what is missing


def _signature(name: str, proto: Any) -> Signature:
    return Signature(
        name,
        proto,
        {alias: _spec(info) for alias, info in proto.inputs.items()},
        {alias: _spec(info) for alias, info in proto.outputs.items()},
        {alias: tf.make_ndarray(value) for alias, value in proto.defaults.items()},
    )


def _spec(info: Any) -> TensorSpec:
    shape = info.tensor_shape
    return TensorSpec(info.name, info.dtype, None if shape.unknown_rank else tuple(dim.size for dim in shape.dim))
