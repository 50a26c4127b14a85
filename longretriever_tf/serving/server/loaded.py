"""One SavedModel in memory: its signatures, and a session that runs them, as TensorFlow Serving's loader makes it.

A TensorFlow 1 session, not `tf.saved_model.load`: feeds and fetches by the signature's tensor names are what the C++
server does, so errors, resources and custom operations behave alike; it loads without tracing Python, and `close` frees
it.
"""

import importlib
import os
import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf import config_pb2

from longretriever_tf.common.errors import UserError
from longretriever_tf.serving.server.limits import read_export_size
from longretriever_tf.serving.server.status import ServingError, from_exception, invalid

DEFAULT_SIGNATURE = "serving_default"
_MAX_CALLABLES = 64
_SCANN_MODULE = "longretriever_tf.retrieval.index.scann"
_NO_SAVED_MODEL = "Could not find SavedModel .pb or .pbtxt at supplied export directory path: {}"


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
        """Loads `path`.

        Args:
          name: the model's.
          version: its number.
          path: directory of the SavedModel.
          timeout_s: a run that takes longer is stopped at its next operation, with DEADLINE_EXCEEDED; 0: never.
          on_close: called with the graph once the model is closed, on the thread that let it go.

        Raises:
          ServingError: NOT_FOUND, DATA_LOSS or another, as TensorFlow Serving would report it.
        """
        self._options = config_pb2.RunOptions(timeout_in_ms=int(timeout_s * 1000))
        self._on_close = on_close
        self.name, self.version, self.path = name, version, path
        self._lock = threading.Lock()
        self._callables: dict[tuple[str, tuple[str, ...]], Callable] = {}
        weakref.finalize(self, self._callables.clear)  # at exit, before Python takes apart what they need to end
        self._holders = 0
        self._retired = False
        self._session, self.signatures = _load(path)
        self.size = read_export_size(path, self.signatures)

    def run(self, signature: Signature, inputs: Mapping[str, np.ndarray], outputs: Sequence[str]) -> list[np.ndarray]:
        """Runs one signature; `inputs` holds an array for every input. Thread-safe.

        Raises:
          ServingError: what the graph complained of.
        """
        wanted = tuple(outputs)
        call, made = self._callable(signature, wanted)
        try:
            values = call(*(inputs[name] for name in sorted(signature.inputs)))
            return values if made == wanted else [values[made.index(name)] for name in wanted]
        except UnicodeDecodeError as error:
            # TensorFlow's own error, on its way to Python: it repeats a text of the request that is no UTF-8.
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

    def _callable(self, signature: Signature, outputs: tuple[str, ...]) -> tuple[Callable, tuple[str, ...]]:
        """A callable and the outputs that it gives, which are more than those wanted where there are many callables.

        Each holds a plan of the graph, for ever, and a request may name any of the outputs, in any order.
        """
        with self._lock:
            if (signature.name, outputs) not in self._callables and len(self._callables) >= _MAX_CALLABLES:
                outputs = tuple(sorted(signature.outputs))
            key = (signature.name, outputs)
            call = self._callables.get(key)
            if call is None:
                # Not the public `make_callable`: with feeds it is `Session.run`, whose Python, looking every feed up
                # on every call, takes a good part of a small request's time.
                options = config_pb2.CallableOptions(
                    feed=[signature.inputs[name].tensor for name in sorted(signature.inputs)],
                    fetch=[signature.outputs[name].tensor for name in outputs],
                    run_options=self._options,
                )
                call = self._session._make_callable_from_options(options)
                self._callables[key] = call
            return call, outputs


def _load(path: str) -> tuple[Any, dict[str, Signature]]:
    if not any(os.path.isfile(os.path.join(path, name)) for name in ("saved_model.pb", "saved_model.pbtxt")):
        raise ServingError("NOT_FOUND", _NO_SAVED_MODEL.format(path))
    _register_custom_ops(path)
    graph = tf.Graph()
    session = tf.compat.v1.Session(graph=graph)
    try:
        with graph.as_default():
            meta_graph = tf.compat.v1.saved_model.load(session, ["serve"], path)
    except Exception as error:  # whatever a broken directory provokes must not end the thread that loads
        session.close()
        raise _load_error(error, path) from error
    return session, {name: _signature(name, proto) for name, proto in meta_graph.signature_def.items()}


def _register_custom_ops(path: str) -> None:
    """ScaNN's operations exist once its library is imported; only exports that use them ask for it."""
    try:
        with open(os.path.join(path, "saved_model.pb"), "rb") as file:
            if b"Scann>" in file.read():
                importlib.import_module(_SCANN_MODULE).load_ops()
    except (OSError, ImportError, UserError):
        return  # the load itself says what is missing


def _load_error(error: Exception, path: str) -> ServingError:
    if isinstance(error, OSError):  # a saved_model.pb that is no protocol buffer
        return ServingError("DATA_LOSS", f"Can't parse {os.path.join(path, 'saved_model.pb')} as binary proto: {error}")
    if isinstance(error, RuntimeError) and "tag" in str(error):
        message = str(error).split("\n")[0]
        return ServingError(
            "NOT_FOUND", f"Could not find meta graph def matching supplied tags: {{ serve }}. {message}"
        )
    return from_exception(error)


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
