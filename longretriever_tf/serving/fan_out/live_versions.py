"""Which version is whole: loaded by the router and by every shard. Asked every second, on a thread.

A version is live once every shard has loaded it, and stays so while a shard is lost. Where a shard was lost before it
was seen to have a version, that version waits as long as the caller has patience; then the shard's part is missing from
the answers, as it would be from those of the last version.
"""

import threading
import time
from collections.abc import Sequence

import grpc
from tensorflow_serving.apis import get_model_status_pb2, model_service_pb2_grpc

from longretriever_tf.retrieval.sharding.shards_file import Place

_POLL_S = 1.0
_TIMEOUT_S = 2.0
_AVAILABLE = get_model_status_pb2.ModelVersionStatus.AVAILABLE


class _State:
    """What is known of one model."""

    def __init__(self, now: float) -> None:
        self.versions: frozenset[int] = frozenset()
        self.reached_at = now  # a shard that was never reached is waited for from the start on
        self.failures = 0


class LiveVersions:
    """Looks at some models from the first question on. Thread-safe; `close` it.

    Args:
      shards: in the order of their numbers.
      others: models that a version must be loaded by, too: the router, where it is served elsewhere.
      patience_s: how long a model that is not reached is waited for.
    """

    def __init__(self, shards: Sequence[Place], others: Sequence[Place] = (), patience_s: float = 0.0) -> None:
        self._places, self._num_shards, self._patience_s = [*shards, *others], len(shards), patience_s
        options = [("grpc.enable_retries", 0), ("grpc.max_reconnect_backoff_ms", 1000)]
        self._channels = [grpc.insecure_channel(one.address, options=options) for one in self._places]
        self._stubs = [model_service_pb2_grpc.ModelServiceStub(channel) for channel in self._channels]
        self._states = [_State(time.monotonic()) for _ in self._places]
        self._lock, self._stop = threading.Lock(), threading.Event()
        self._thread: threading.Thread | None = None

    def close(self) -> None:
        """Stops looking."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        for channel in self._channels:
            channel.close()

    def is_lost(self, number: int) -> bool:
        """Whether a shard was not reached twice in a row: who asks it waits in vain."""
        self._start()
        return self._states[number].failures > 1

    def missing(self, version: int) -> list[str]:
        """Why a version is not live yet, a sentence for each model that it waits for; none: it is live."""
        self._start()
        now, waits = time.monotonic(), []
        for place, state in zip(self._places, self._states, strict=True):
            where = f"{place.model} at {place.address}"
            if version in state.versions:  # as of when it was last reached
                continue
            if not state.failures:
                waits.append(f"{where} has not loaded version {version}")
            elif now - state.reached_at < self._patience_s:
                waits.append(f"{where} is not reached")
        if not waits and all(state.failures for state in self._states[: self._num_shards]):
            waits.append("no shard is reached")
        return waits

    def highest(self) -> int | None:
        """The highest live version of the last of `others`, the router; None: there is none."""
        self._start()
        return next((one for one in sorted(self._states[-1].versions, reverse=True) if not self.missing(one)), None)

    def why(self) -> str:
        """Why no version is live."""
        versions = self._states[-1].versions
        return "; ".join(self.missing(max(versions, default=0))) or "no model is loaded"

    def _start(self) -> None:
        """The first look is waited for; the others are the thread's."""
        if self._thread is not None:
            return
        with self._lock:
            if self._thread is None:
                self._look()
                thread = threading.Thread(target=self._watch, name="shard-watch", daemon=True)
                thread.start()
                self._thread = thread

    def _watch(self) -> None:
        while not self._stop.wait(_POLL_S):
            self._look()

    def _look(self) -> None:
        calls = []
        for place, stub in zip(self._places, self._stubs, strict=True):
            request = get_model_status_pb2.GetModelStatusRequest()
            request.model_spec.name = place.model
            calls.append(stub.GetModelStatus.future(request, timeout=_TIMEOUT_S))
        for call, state in zip(calls, self._states, strict=True):
            try:
                statuses = call.result().model_version_status
            except grpc.RpcError as error:
                if error.code() is grpc.StatusCode.NOT_FOUND:  # the server is there, and has no version of it yet
                    state.versions, state.failures = frozenset(), 0
                else:
                    state.failures += 1
                continue
            state.versions = frozenset(one.version for one in statuses if one.state == _AVAILABLE)
            state.failures, state.reached_at = 0, time.monotonic()
