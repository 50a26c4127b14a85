"""Asks the shards for the lists of a router's queries, all at once over gRPC."""

import logging
from collections.abc import Mapping
from typing import Any

import grpc
import numpy as np
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

from longretriever_tf.common.errors import UserError
from longretriever_tf.retrieval.sharding.shards_file import SEARCH, Place, ShardPlaces
from longretriever_tf.serving.client.transport import CallError
from longretriever_tf.serving.fan_out.live_versions import LiveVersions
from longretriever_tf.serving.fan_out.merge_answers import (
    Outputs,
    QueryLists,
    merge_in_category,
    merge_interests,
)

_LOG = logging.getLogger(__name__)
_FAULTS_OF_THE_QUESTION = (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.FAILED_PRECONDITION)
"""What a shard says of mixed exports or impossible queries: no answer would be right. All others: it is missing."""

_TRIED_AGAIN = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.NOT_FOUND)
"""A replica that has gone, or has not loaded the version that others have."""

CHANNEL_OPTIONS = (
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    ("grpc.max_reconnect_backoff_ms", 1000),  # a shard that comes back is asked again within a second
    ("grpc.lb_policy_name", "round_robin"),  # a name of several addresses: replicas are asked by turns
)
_PER_QUERY = {
    "category": "query_category",
    "embedding": "query_embedding",
    "token_item": "query_token_item",
    "repeat_logit": "query_repeat_logit",
    "excluded_item": "query_excluded_item",
    "own_gain": "query_own_gain",
    "own_slope": "query_own_slope",
}
"""Input of a shard -> output of the router; the last two where the export corrects own items."""


def is_routed(outputs: Mapping[str, Any]) -> bool:
    """Whether these are a router's queries, and no answer."""
    return "query_shard" in outputs


class ShardCalls:
    """Channels to the shards. Thread-safe; `close` it.

    Args:
      places: where they are.
      live: what is known of them; a shard that is known to be lost is not waited for.
    """

    def __init__(self, places: ShardPlaces, live: LiveVersions) -> None:
        self._places, self._live = places, live
        # Tries are counted here.
        options = [*CHANNEL_OPTIONS, ("grpc.enable_retries", 0)]
        self._channels = [grpc.insecure_channel(one.address, options=options) for one in places.shards]
        self._stubs = [prediction_service_pb2_grpc.PredictionServiceStub(channel) for channel in self._channels]

    def close(self) -> None:
        """Closes the channels."""
        for channel in self._channels:
            channel.close()

    def answer(self, routed: Outputs, version: int | None, columns: Outputs) -> dict[str, np.ndarray]:
        """The answer to a request, from what the router made of it.

        Args:
          routed: the router's outputs.
          version: of the router and of the shards.
          columns: of the request; `retrieve_in_category` says its category again.

        Raises:
          CallError: INVALID_ARGUMENT, a shard of another export; UNAVAILABLE, none of the shards asked answered.
          UserError: the router has another number of shards than there are places.
        """
        num_shards = int(routed["num_shards"][0])
        if num_shards != len(self._places.shards):
            raise UserError(
                f"the router's export has {num_shards} shards, and the shards file names {len(self._places.shards)}; "
                "name every shard, in the order of their numbers"
            )
        replies, lost = self._search(routed, version)
        lists = self._collect(routed, replies, lost)
        if lost and not replies:
            names = ", ".join(f"{self._places.shards[number].model} ({why})" for number, why in lost.items())
            raise CallError("UNAVAILABLE", f"no shard that was asked answered: {names}", is_retryable=True)
        if "query_interest" in routed:
            return merge_interests(routed, lists)
        return merge_in_category({**routed, "category": columns["category"]}, lists)

    def _search(self, routed: Outputs, version: int | None) -> tuple[dict[int, Outputs], dict[int, str]]:
        """Replies by shard, and why the others did not answer."""
        asked = [int(number) for number in np.unique(routed["query_shard"]) if number >= 0]
        lost = {number: "it is not reached" for number in asked if self._live.is_lost(number)}
        requests = {number: self._request(routed, number, version) for number in asked if number not in lost}
        replies: dict[int, Outputs] = {}
        for is_last in (False, True):  # a second try reaches another replica, if there is one
            calls = {number: self._call(number, requests[number]) for number in requests if number not in replies}
            for number, call in calls.items():
                try:
                    replies[number] = {name: tf.make_ndarray(proto) for name, proto in call.result().outputs.items()}
                except grpc.RpcError as error:
                    place, code, details = self._places.shards[number], error.code(), error.details() or "no message"
                    if code in _FAULTS_OF_THE_QUESTION:
                        raise CallError(code.name, f"{details} ({place.model} at {place.address})") from error
                    _LOG.debug("%s at %s does not answer: %s %s", place.model, place.address, code.name, details)
                    if is_last or code not in _TRIED_AGAIN:
                        lost[number] = code.name
                        del requests[number]
        return replies, lost

    def _call(self, number: int, request: predict_pb2.PredictRequest) -> Any:
        return self._stubs[number].Predict.future(request, timeout=self._places.timeout_s)

    def _request(self, routed: Outputs, number: int, version: int | None) -> predict_pb2.PredictRequest:
        request = new_request(self._places.shards[number], version, SEARCH)
        mine = routed["query_shard"] == number
        inputs = {name: routed[output][mine] for name, output in _PER_QUERY.items() if output in routed}
        inputs |= {"expected": routed["shards_export"], "k": routed["k"].max(initial=1)[None]}
        for name, array in inputs.items():
            request.inputs[name].CopyFrom(tf.make_tensor_proto(array))
        return request

    def _collect(self, routed: Outputs, replies: dict[int, Outputs], lost: dict[int, str]) -> QueryLists:
        """The replies side by side, in the order of the queries."""
        shard = routed["query_shard"]
        width = max((reply["logit"].shape[1] for reply in replies.values()), default=0)
        num, dtype = len(shard), routed["padding_item_id"].dtype
        lists = QueryLists(
            np.full([num, width], routed["padding_item_id"][0], dtype),
            np.zeros([num, width], np.float32),
            np.zeros(num, np.float32),
            np.zeros(num, np.int32),
            np.full(num, b"", object),
        )
        for number, reply in replies.items():
            mine, own = shard == number, reply["logit"].shape[1]
            for name in ("item_id", "logit"):
                getattr(lists, name)[mine, :own] = reply[name]
            lists.log_partition[mine], lists.num_valid[mine] = reply["log_partition"], reply["num_valid"]
        for number in lost:
            lists.missing[shard == number] = self._places.shards[number].model.encode()
        return lists


def new_request(place: Place, version: int | None, signature: str) -> predict_pb2.PredictRequest:
    """A request without inputs, of a model's version (None: its latest)."""
    request = predict_pb2.PredictRequest()
    request.model_spec.name, request.model_spec.signature_name = place.model, signature
    if version is not None:
        request.model_spec.version.value = version
    return request
