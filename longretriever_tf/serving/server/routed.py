"""A router that answers as one export does: its own graph in this process, the shards' lists over gRPC."""

import os
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from longretriever_tf.common.errors import UserError
from longretriever_tf.retrieval.sharding.ranges import LAYOUT_FILE, read_layout
from longretriever_tf.retrieval.sharding.shards_file import ShardPlaces
from longretriever_tf.serving.client.transport import CallError
from longretriever_tf.serving.fan_out.live_versions import LiveVersions
from longretriever_tf.serving.fan_out.merge_answers import INTERESTS, NOTES
from longretriever_tf.serving.fan_out.shard_calls import ShardCalls
from longretriever_tf.serving.server.loaded import LoadedModel, Signature, TensorSpec
from longretriever_tf.serving.server.status import ServingError, invalid

_PATIENCE_S = 30.0
"""How long a server that starts waits for a shard that it cannot reach."""

_QUERIES = "query_shard"
_MATRIX, _ROWS = (-1, -1), (-1,)
_INTEREST_DTYPES = (tf.string, tf.float32, tf.int32, tf.string, tf.int32, tf.int64)


def is_router(path: str) -> bool:
    """Whether a version directory holds the router of an export by category ranges."""
    extra = os.path.join(path, "assets.extra")
    return all(os.path.exists(os.path.join(extra, name)) for name in (LAYOUT_FILE, "corpus.npz"))


class Shards:
    """The shards of `--shards_file`, for every version of the router.

    Args:
      places: where they are.
    """

    def __init__(self, places: ShardPlaces) -> None:
        self._places = places
        self._live = LiveVersions(places.shards, patience_s=_PATIENCE_S)
        self._calls = ShardCalls(places, self._live)

    def load(
        self, name: str, version: int, path: str, timeout_s: float, on_close: Callable[[object], None]
    ) -> "RoutedModel":
        """Loads a router, once its version is live.

        Raises:
          ServingError: UNAVAILABLE, a shard has not loaded that version yet; FAILED_PRECONDITION, another number of
            shards, or ranges that leave a category out.
        """
        try:
            num = len(read_layout(os.path.join(path, "assets.extra", LAYOUT_FILE)).ranges)
        except UserError as error:
            raise ServingError("FAILED_PRECONDITION", str(error)) from error
        if num != len(self._places.shards):
            raise ServingError(
                "FAILED_PRECONDITION",
                f"{path} has {num} shards, and --shards_file names {len(self._places.shards)}; name every shard",
            )
        if waits := self._live.missing(version):
            raise ServingError("UNAVAILABLE", "; ".join(waits))
        return RoutedModel(self._calls, name, version, path, timeout_s, on_close)

    def close(self) -> None:
        """Closes the connections."""
        self._live.close()
        self._calls.close()


class RoutedModel(LoadedModel):
    """A loaded router whose signatures answer with merged lists."""

    def __init__(self, calls: ShardCalls, *about: Any) -> None:
        super().__init__(*about)
        self._calls = calls
        self._routes = {name: one for name, one in self.signatures.items() if _QUERIES in one.outputs}
        self.signatures |= {name: _answered(one) for name, one in self._routes.items()}

    def run(self, signature: Signature, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """All outputs of one signature, the shards asked where it needs them.

        Raises:
          ServingError: what the graph or a shard complained of; UNAVAILABLE, no shard answered.
        """
        route = self._routes.get(signature.name)
        if route is None:
            return super().run(signature, inputs)
        try:
            return self._calls.answer(super().run(route, inputs), self.version, inputs)
        except CallError as error:
            raise ServingError(error.code, error.message) from error
        except UserError as error:
            raise invalid(str(error)) from error


def _answered(route: Signature) -> Signature:
    """The signature as its callers see it: the outputs of one export, and what is missing."""
    item = tf.as_dtype(route.inputs["history_item_id"].dtype)
    lists = {"item_id": (item, _MATRIX), "score": (tf.float32, _MATRIX), "num_valid": (tf.int32, _ROWS)}
    if "query_interest" in route.outputs:
        lists |= {"category": (tf.string, _MATRIX), "interest_rank": (tf.int32, _MATRIX)}
        lists |= {name: (dtype, _MATRIX) for name, dtype in zip(INTERESTS, _INTEREST_DTYPES, strict=True)}
        lists["num_interests_drawn"] = (tf.int32, _ROWS)
    lists |= {name: (tf.string, _MATRIX) for name in ("missing_shard", "missing_category")}
    kept = {name: spec for name, spec in route.outputs.items() if name in NOTES}
    outputs = kept | {name: TensorSpec(name, dtype.as_datatype_enum, dims) for name, (dtype, dims) in lists.items()}
    proto = type(route.proto)()
    proto.CopyFrom(route.proto)
    proto.outputs.clear()
    for name, spec in outputs.items():
        info = proto.outputs[name]
        info.name, info.dtype = spec.tensor, spec.dtype
        info.tensor_shape.SetInParent()
        for size in spec.dims or ():
            info.tensor_shape.dim.add(size=size)
    return route._replace(proto=proto, outputs=outputs)
