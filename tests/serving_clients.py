"""What the server's tests call it with: plain HTTP from the standard library, gRPC stubs, and waiting."""

import contextlib
import http.client
import itertools
import json
import os
import pathlib
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import grpc
from tensorflow_serving.apis import model_service_pb2_grpc, prediction_service_pb2_grpc
from tensorflow_serving.config import model_server_config_pb2

from longretriever_tf.serving.explorer.page import explorer_over
from longretriever_tf.serving.server import config_files
from longretriever_tf.serving.server.options import ServerOptions
from longretriever_tf.serving.server.server import ModelServer

OPTIONS = {
    "port": -1,
    "rest_api_port": -1,
    "file_system_poll_wait_seconds": 0.05,
    "rest_api_num_threads": 16,
    "rest_api_timeout_in_ms": 600_000,
    "shutdown_grace_seconds": 5.0,
}
"""Free ports, looks for versions 20 times a second, and time for a busy machine."""

METRICS = str(pathlib.Path(__file__).resolve().parent.parent / "serving" / "monitoring.config")


@contextlib.contextmanager
def serving(
    config: model_server_config_pb2.ModelServerConfig | str,
    *,
    metrics: bool = False,
    explorer: bool = False,
    explorer_users: str = "",
    warm: bool = True,
    **options: Any,
) -> Iterator[ModelServer]:
    """A started server on free ports, for the base path of model `toy` or a whole config.

    `warm=False` spares an export its warm-up requests, which take longer than what most tests ask.
    """
    if isinstance(config, str):
        config = config_files.one_model("toy", config)
    if metrics:
        options["monitoring_config_file"] = METRICS
    extend = (explorer_over(explorer_users),) if explorer else ()
    server = ModelServer(config, ServerOptions(**OPTIONS | options), *extend)
    with contextlib.nullcontext() if warm else mock.patch("longretriever_tf.serving.server.server.warm_up"):
        server.start()
    try:
        yield server
    finally:
        server.stop()


def call(server: ModelServer, method: str, path: str, body: Any = None, headers: Any = None) -> tuple[int, bytes]:
    """One HTTP request; `body` that is not bytes is written as JSON."""
    connection = http.client.HTTPConnection("127.0.0.1", server.rest_port, timeout=300)
    try:
        if body is not None and not isinstance(body, bytes):
            body = json.dumps(body).encode()
        connection.request(method, path, body, headers or {})
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def predict(server: ModelServer, body: Any, path: str = "/v1/models/toy:predict") -> Any:
    """The parsed reply of a predict request that must succeed."""
    status, reply = call(server, "POST", path, body)
    assert status == 200, reply
    return json.loads(reply)


def error_of(
    server: ModelServer, body: Any, path: str = "/v1/models/toy:predict", method: str = "POST"
) -> tuple[int, str]:
    """Status and message of a request that must fail with {"error": message}."""
    status, reply = call(server, method, path, body)
    parsed = json.loads(reply)
    assert list(parsed) == ["error"], reply
    return status, parsed["error"]


def states(server: ModelServer, name: str = "toy") -> dict[int, str]:
    """Version -> state, as REST tells it."""
    status, reply = call(server, "GET", f"/v1/models/{name}")
    assert status == 200, reply
    return {int(line["version"]): line["state"] for line in json.loads(reply)["model_version_status"]}


def free_ports(count: int) -> list[int]:
    """Ports of this machine that nobody listens on, for a process that must be given their numbers.

    They lie below those that the system hands out to others who ask for any port, and differ between processes.
    """
    start, found = 10_000 + os.getpid() * 37 % 20_000, []
    for port in itertools.chain(range(start, 30_000), range(10_000, start)):
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            found.append(port)
        if len(found) == count:
            return found
    raise OSError("no free port from 10000 to 29999")


def wait_until(condition: Callable[[], bool], seconds: float = 300.0) -> None:
    """Looks again until it holds; what never comes true ends, and a busy machine need not be quick."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"did not come true within {seconds} s"
        time.sleep(0.02)


@contextlib.contextmanager
def stubs(server: ModelServer) -> Iterator[tuple[Any, Any]]:
    """(PredictionServiceStub, ModelServiceStub)."""
    with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
        yield (
            prediction_service_pb2_grpc.PredictionServiceStub(channel),
            model_service_pb2_grpc.ModelServiceStub(channel),
        )
