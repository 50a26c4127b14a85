"""TensorFlow Serving's REST API from the client's side. Imports no TensorFlow."""

import base64
import json
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import urllib3

from longretriever_tf.serving.client.input_spec import InputSpec
from longretriever_tf.serving.client.request import Columns
from longretriever_tf.serving.client.transport import CallError, ClientOptions, Model, Signatures

_CODES = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    413: "RESOURCE_EXHAUSTED",
    429: "RESOURCE_EXHAUSTED",
    501: "UNIMPLEMENTED",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}
_RETRYABLE = (429, 503)
_VALUES = {
    "DT_INT32": ("int_val", np.int32),
    "DT_INT64": ("int64_val", np.int64),
    "DT_FLOAT": ("float_val", np.float32),
    "DT_STRING": ("string_val", np.object_),
}
_SHOWN = 300


class RestTransport:
    """Calls over HTTP; connections are kept and shared by threads."""

    may_omit = False

    def __init__(self, url: str, model: Model, options: ClientOptions) -> None:
        self._base = f"{url.rstrip('/')}/v1/models/{model.name}"
        if model.version is not None:
            self._base += f"/versions/{model.version}"
        elif model.label:
            self._base += f"/labels/{model.label}"
        self._options = options
        # One try each: what is tried again, and how often, is the client's to say.
        self._pool = urllib3.PoolManager(maxsize=256, retries=False, timeout=options.timeout_s)

    def signatures(self) -> Signatures:
        return read_metadata(json.loads(self._request("GET", f"{self._base}/metadata")))

    def prepare(self, signature: str, columns: Columns) -> bytes:
        """The smallest body: columns, no white space; about 21 bytes an event of whole-number ids."""
        body = {"signature_name": signature, "inputs": {name: column.tolist() for name, column in columns.items()}}
        return json.dumps(body, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()

    def send(self, call: bytes) -> bytes:
        return self._request("POST", f"{self._base}:predict", call)

    def parse(self, reply: bytes) -> Mapping[str, Any]:
        return json.loads(reply)["outputs"]

    def close(self) -> None:
        self._pool.clear()

    def _request(self, method: str, url: str, body: bytes | None = None) -> bytes:
        try:
            reply = self._pool.request(method, url, body=body, headers={"Content-Type": "application/json"})
        except urllib3.exceptions.ReadTimeoutError as error:
            raise CallError("DEADLINE_EXCEEDED", f"no answer from {url} in {self._options.timeout_s:g} s") from error
        except (urllib3.exceptions.NewConnectionError, urllib3.exceptions.ConnectTimeoutError) as error:
            message = f"cannot connect to {url}: {_reason(error)}; is the server up, and is it its REST port?"
            raise CallError("UNAVAILABLE", message, is_retryable=True) from error
        except urllib3.exceptions.HTTPError as error:
            raise CallError("UNKNOWN", f"{method} {url} failed: {_reason(error)}") from error
        if reply.status == 200:
            return reply.data
        raise CallError(
            _CODES.get(reply.status, "INTERNAL"),
            f"{_message(reply.data)} (HTTP {reply.status} from {url})",
            is_retryable=reply.status in _RETRYABLE,
            retry_after_s=_seconds(reply.headers.get("Retry-After")),
        )


def read_metadata(reply: Mapping[str, Any]) -> Signatures:
    """Inputs of every signature, with the defaults that newer servers tell, from a metadata reply."""
    signatures = reply["metadata"]["signature_def"]
    signatures = signatures.get("signature_def", signatures)  # TensorFlow Serving nests the map once more
    return {
        name: {
            alias: InputSpec(info["dtype"], _tensor((signature.get("defaults") or {}).get(alias)))
            for alias, info in (signature.get("inputs") or {}).items()
        }
        for name, signature in signatures.items()
    }


def _tensor(proto: Mapping[str, Any] | None) -> np.ndarray | None:
    """A TensorProto in JSON as an array; None where there is none, or it is of another dtype."""
    if proto is None or proto.get("dtype") not in _VALUES:
        return None
    field, dtype = _VALUES[proto["dtype"]]
    dims = (proto.get("tensor_shape") or {}).get("dim") or []
    shape = [int(dim.get("size", 0)) for dim in dims]
    if proto.get("tensor_content"):
        return np.frombuffer(base64.b64decode(proto["tensor_content"]), dtype).reshape(shape)
    values = proto.get(field) or []
    read: Callable[[Any], Any] = base64.b64decode if dtype is np.object_ else float if dtype is np.float32 else int
    cells = [read(value) for value in values]  # int64 in JSON is text, and a float would lose its last digits
    size = int(np.prod(shape))
    cells += cells[-1:] * (size - len(cells))  # a TensorProto does not repeat its last value
    return np.array(cells[:size], dtype).reshape(shape) if len(cells) >= size else None


def _message(body: bytes) -> str:
    """The server's own words; what stands between may answer in HTML."""
    text = body.decode("utf-8", "replace").strip()
    try:
        return str(json.loads(text)["error"])
    except (ValueError, KeyError, TypeError):
        return text[:_SHOWN] or "no message"


def _reason(error: Exception) -> str:
    return str(error).rsplit(": ", 1)[-1]


def _seconds(header: str | None) -> float:
    try:
        return max(float(header or 0), 0.0)
    except ValueError:  # a date
        return 0.0
