"""Puts the gRPC services on a port: pools, limits and timeouts of grpcio's server."""

import os
from concurrent.futures import ThreadPoolExecutor

import grpc

from longretriever_tf.common.errors import UserError
from longretriever_tf.serving.server.grpc_services import ModelService, Pools, PredictionService, add_services
from longretriever_tf.serving.server.http_connections import connection_limit
from longretriever_tf.serving.server.http_server import HttpLimits

_IDENTITY = 1
_IDLE = 10


class GrpcServer:
    """Serves until `stop`; `port` tells the port when 0 was asked for."""

    def __init__(
        self, prediction: PredictionService, models: ModelService, limits: HttpLimits, host: str, port: int
    ) -> None:
        """Starts to listen.

        Raises:
          UserError: the port is taken, or the host is not this machine's.
        """
        # Before grpc's core starts, which would write a line for every connection that it could not accept.
        os.environ.setdefault("GRPC_VERBOSITY", "NONE")
        self._grace_s = limits.grace_s
        self._pools = Pools(
            ThreadPoolExecutor(limits.num_threads, thread_name_prefix="grpc"),
            ThreadPoolExecutor(2, thread_name_prefix="grpc-quick"),
            ThreadPoolExecutor(1, thread_name_prefix="grpc-reload"),
        )
        room = connection_limit(limits.max_connections)
        self._server = grpc.server(
            self._pools.quick, options=_options(limits, room), maximum_concurrent_rpcs=room or None
        )
        add_services(self._server, prediction, models, self._pools)
        address = f"{host}:{port}"
        try:
            self.port = self._server.add_insecure_port(address)
        except RuntimeError as error:
            raise UserError(
                f"cannot listen on {address} for gRPC; choose another --port or --host, or stop what listens there"
            ) from error
        self._server.start()

    def stop(self) -> None:
        """Takes no new call, lets those in flight finish within the grace, then cancels them."""
        self._server.stop(self._grace_s).wait(self._grace_s + 1.0)
        for pool in self._pools:
            pool.shutdown(wait=False, cancel_futures=True)


def _options(limits: HttpLimits, room: int) -> list[tuple[str, int]]:
    options = [
        ("grpc.so_reuseport", 0),  # else a second server would share the port, and half the requests, unnoticed
        ("grpc.max_receive_message_length", limits.max_body),
        ("grpc.max_send_message_length", -1),
    ]
    if room:
        options += [("grpc.max_allowed_incoming_connections", room), ("grpc.max_concurrent_streams", room)]
    if limits.read_timeout_s:
        timeout_ms = max(int(limits.read_timeout_s * 1000), 1)
        options += [
            ("grpc.server_handshake_timeout_ms", timeout_ms),
            # A peer that does not answer a ping is gone; one that asks nothing for long is told to connect again.
            ("grpc.keepalive_time_ms", timeout_ms),
            ("grpc.keepalive_timeout_ms", timeout_ms),
            ("grpc.max_connection_idle_ms", _IDLE * timeout_ms),
        ]
    return options
