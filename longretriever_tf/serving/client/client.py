"""A client of an exported retriever, over REST or gRPC, on TensorFlow Serving or on `longretriever serve`.

    with Client("http://localhost:8501") as client:                      # or grpc://localhost:8500
        (answer,) = client.retrieve([Request([17, 4], [1700000000, 1700086400], 1700200000, k=20)])
    for candidate in answer.candidates:
        print(candidate.item_id, candidate.score, candidate.category)

Over REST it needs no TensorFlow. Inputs, dtypes and defaults are read from the server's metadata.
"""

import random
import threading
import time
import urllib.parse
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np

from longretriever_tf.common.errors import UserError
from longretriever_tf.retrieval.sharding.shards_file import read_places
from longretriever_tf.serving.client.input_spec import InputSpec, cast_column
from longretriever_tf.serving.client.request import Columns, Request, lead_with_padding, make_columns
from longretriever_tf.serving.client.request_values import as_list
from longretriever_tf.serving.client.response import Interest, Response, read_interests, read_responses
from longretriever_tf.serving.client.rest_transport import RestTransport
from longretriever_tf.serving.client.transport import CallError, ClientOptions, Model, Signatures, Transport

__all__ = ["CallError", "Client", "ClientOptions", "Model", "Request", "Response"]

T = TypeVar("T")
DEFAULT_SIGNATURE = "serving_default"
SMALL_SIGNATURE = "top_k"
"""The same question without options: a body of histories and k."""

_DEFAULT_K = 100
_SCHEMES = ("http", "https", "grpc")


class Client:
    """Asks one model. Thread-safe; close it, or use it in a `with` block."""

    def __init__(self, url: str, model: Model | str = "longretriever", options: ClientOptions | None = None) -> None:
        """Opens no connection yet.

        Args:
          url: http://host:8501, https://host or grpc://host:8500; or the path of the `shards.json` of an export by
            category ranges: the client then asks the router and the shards itself, and merges.
          model: its name, or a `Model` with a version or a label.
          options: timeouts and retries.

        Raises:
          UserError: a URL of another kind, or a shards file that is malformed.
        """
        self._options = options or ClientOptions()
        self._transport = _connect(url, Model(model) if isinstance(model, str) else model, self._options)
        self._lock = threading.Lock()
        self._signatures: Signatures = {}
        self._read_at = float("-inf")

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Gives connections back."""
        self._transport.close()

    def retrieve(self, requests: Sequence[Request]) -> list[Response]:
        """The list and the interests of each request.

        Raises:
          CallError: what the server said, or why it was not reached.
          UserError: a request that the model cannot take.
        """
        return read_responses(self._ask(*self.encode(requests)))

    def interests(self, requests: Sequence[Request]) -> list[tuple[Interest, ...]]:
        """The interests that each request would search, without a search."""
        return read_interests(self._ask("interests", self._columns("interests", requests)))

    def predict(self, signature: str, columns: Columns) -> Mapping[str, Any]:
        """Any signature by its columns; outputs by name, lists over REST and arrays over gRPC."""
        return self._ask(signature, columns)

    def item_embeddings(self, item_id: Sequence[Any]) -> tuple[np.ndarray, np.ndarray]:
        """Vectors [n, D] and biases [n] of items, zeros for unknown ones, float32."""
        items = list(as_list("item_id", item_id))
        column = cast_column("item_id", self.inputs("item_embeddings")["item_id"], items)
        answer = self._ask("item_embeddings", {"item_id": column})
        return np.array(answer["embedding"], np.float32), np.array(answer["bias"], np.float32)

    def fingerprint(self, expected: str = "") -> str:
        """The fingerprint of the towers that answer.

        Raises:
          CallError: INVALID_ARGUMENT, they are not the expected ones.
        """
        towers = self._ask("fingerprint", {"expected": np.array([expected])})["towers"][0]
        return towers.decode() if isinstance(towers, bytes) else towers

    def statistics_as_of(self) -> int:
        """Until when the statistics of items count events, seconds UTC; 0: the export is too old to tell."""
        answer = self._ask("fingerprint", {"expected": np.array([""])})
        return int(answer["statistics_as_of"][0]) if "statistics_as_of" in answer else 0

    def inputs(self, signature: str) -> dict[str, InputSpec]:
        """Inputs of a signature, as the server tells them; read again every `metadata_s`.

        Raises:
          UserError: the model has no such signature.
        """
        with self._lock:
            if time.monotonic() - self._read_at > self._options.metadata_s:
                self._signatures, self._read_at = self._retry(self._transport.signatures), time.monotonic()
            if signature not in self._signatures:
                known = ", ".join(sorted(self._signatures))
                raise UserError(f"the model has no signature {signature!r}, but {known}; is it a retriever's export?")
            return self._signatures[signature]

    def encode(self, requests: Sequence[Request]) -> tuple[str, Columns]:
        """Signature and columns: the signature without options where no request turns one."""
        request_options = any(request.takes_options for request in requests)
        if request_options or not self._has(SMALL_SIGNATURE):
            return DEFAULT_SIGNATURE, self._columns(DEFAULT_SIGNATURE, requests)
        inputs = self.inputs(SMALL_SIGNATURE)
        if inputs["k"].default is None:
            inputs = inputs | {"k": InputSpec(inputs["k"].dtype, np.array([_DEFAULT_K], np.int32))}
        return SMALL_SIGNATURE, self._make(requests, inputs)

    def prepare(self, requests: Sequence[Request]) -> Any:
        """An encoded call, to be sent many times."""
        return self._transport.prepare(*self.encode(requests))

    def send(self, call: Any) -> Any:
        """One try of a prepared call, no retries; returns the reply unread.

        Raises:
          CallError: it failed.
        """
        return self._transport.send(call)

    def _has(self, signature: str) -> bool:
        self.inputs(DEFAULT_SIGNATURE)
        return signature in self._signatures

    def _columns(self, signature: str, requests: Sequence[Request]) -> Columns:
        return self._make(requests, self.inputs(signature))

    def _make(self, requests: Sequence[Request], inputs: Mapping[str, InputSpec]) -> Columns:
        if self._options.batched:
            requests = [lead_with_padding(request, inputs) for request in requests]
        return make_columns(requests, inputs, self._transport.may_omit)

    def _ask(self, signature: str, columns: Columns) -> Mapping[str, Any]:
        call = self._transport.prepare(signature, columns)
        return self._transport.parse(self._retry(lambda: self._transport.send(call)))

    def _retry(self, call: Callable[[], T]) -> T:
        options = self._options
        for number in range(options.max_retries + 1):
            try:
                return call()
            except CallError as error:
                if not error.is_retryable or number == options.max_retries:
                    raise
                wait = options.backoff_s * 2**number * random.uniform(0.5, 1.0)
                time.sleep(min(max(wait, error.retry_after_s), options.max_backoff_s))
        raise AssertionError("the last try returns or raises")


def _connect(url: str, model: Model, options: ClientOptions) -> Transport:
    if url.endswith(".json"):
        from longretriever_tf.serving.client.sharded_transport import ShardedTransport

        return ShardedTransport(read_places(url), model, options)
    parts = urllib.parse.urlsplit(url)
    if parts.scheme not in _SCHEMES or not parts.netloc:
        raise UserError(f"{url!r}: expected http://host:8501, https://host, grpc://host:8500 or a shards.json")
    if parts.scheme != "grpc":
        return RestTransport(url, model, options)
    from longretriever_tf.serving.client.grpc_transport import GrpcTransport  # brings TensorFlow along: seconds

    return GrpcTransport(parts.netloc, model, options)
