"""Puts the gRPC services on a port: pools, limits and timeouts of grpcio's server."""

import os
from concurrent.futures import ThreadPoolExecutor

import grpc

from longretriever_tf.common.errors import UserError
from longretriever_tf.serving.server.grpc_services import GrpcApi, add_services
from longretriever_tf.serving.server.options import ServerOptions


class GrpcServer:
    """Serves until `stop`; `port` is the port that it listens on."""

    def __init__(self, api: GrpcApi, options: ServerOptions) -> None:
        """Starts to listen.

        Raises:
          UserError: the port is taken, or the host is not this machine's.
        """
        # Before grpc's core starts, which would write a line for every connection that it could not accept.
        os.environ.setdefault("GRPC_VERBOSITY", "NONE")
        self._grace_s = options.shutdown_grace_seconds
        quick = ThreadPoolExecutor(2, thread_name_prefix="grpc-quick")
        model = ThreadPoolExecutor(options.num_threads, thread_name_prefix="grpc")
        self._pools = (quick, model)
        self._server = grpc.server(
            quick, options=_channel_options(options), maximum_concurrent_rpcs=options.connection_limit or None
        )
        add_services(self._server, api, model)
        address = f"{options.host}:{max(options.port, 0)}"
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


def _channel_options(options: ServerOptions) -> list[tuple[str, int]]:
    chosen = [
        ("grpc.so_reuseport", 0),  # else a second server would share the port, and half the requests, unnoticed
        ("grpc.max_receive_message_length", options.max_body),
        ("grpc.max_send_message_length", -1),
    ]
    if limit := options.connection_limit:
        chosen += [("grpc.max_allowed_incoming_connections", limit), ("grpc.max_concurrent_streams", limit)]
    if options.rest_api_read_timeout_seconds:
        timeout_ms = max(int(options.rest_api_read_timeout_seconds * 1000), 1)
        chosen += [
            ("grpc.server_handshake_timeout_ms", timeout_ms),
            # A peer that does not answer a ping is gone; one that asks nothing for long is told to connect again.
            ("grpc.keepalive_time_ms", timeout_ms),
            ("grpc.keepalive_timeout_ms", timeout_ms),
            ("grpc.max_connection_idle_ms", 10 * timeout_ms),
        ]
    return chosen
