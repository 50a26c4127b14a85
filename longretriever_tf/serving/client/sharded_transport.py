"""An export by category ranges as one model: asks the router, then the shards, over gRPC, and merges."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from longretriever_tf.retrieval.sharding.shards_file import ShardPlaces
from longretriever_tf.serving.client.grpc_transport import GrpcTransport
from longretriever_tf.serving.client.request import Columns
from longretriever_tf.serving.client.transport import CallError, ClientOptions, Model, Signatures
from longretriever_tf.serving.fan_out.live_versions import LiveVersions
from longretriever_tf.serving.fan_out.shard_calls import ShardCalls, is_routed


class ShardedTransport:
    """Calls to the latest version that the router and every shard have loaded, or to the one asked for.

    Args:
      places: where router and shards are.
      model: its version counts; names are the places' own.
      options: of the client.
    """

    may_omit = True

    def __init__(self, places: ShardPlaces, model: Model, options: ClientOptions) -> None:
        self._version = model.version
        self._router = GrpcTransport(places.router.address, Model(places.router.model, model.version), options)
        self._live = LiveVersions(places.shards, [places.router])
        self._shards = ShardCalls(places, self._live)

    def signatures(self) -> Signatures:
        return self._router.signatures()

    def prepare(self, signature: str, columns: Columns) -> Any:
        return self._router.prepare(signature, columns)

    def send(self, call: Any) -> Mapping[str, np.ndarray]:
        version = self._version or self._live.highest()
        if version is None:
            raise CallError("UNAVAILABLE", f"no version is live: {self._live.why()}", is_retryable=True)
        call.model_spec.version.value = version
        outputs = self._router.parse(self._router.send(call))
        if not is_routed(outputs):
            return outputs
        columns = {name: tf.make_ndarray(call.inputs[name]) for name in ("category",) if name in call.inputs}
        return self._shards.answer(outputs, version, columns)

    def parse(self, reply: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
        return reply

    def close(self) -> None:
        self._live.close()
        self._shards.close()
        self._router.close()
