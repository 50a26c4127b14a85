"""The whole server: models, REST and gRPC, started and stopped together.

A request's way: `http_server` reads a body within its limits and hands it to a worker; `rest.RestApi` finds the route,
`manager` the version, `json_requests` makes arrays of the body by the signature's dtypes; `predict` fills in defaults
and checks shapes and `limits`; `loaded` feeds the signature's tensors to the graph; `json_replies` writes what comes
back. Over gRPC `grpc_server` and `tensors` stand in for the two ends, the middle is the same.
"""

import logging
import socket
import threading
import time
from collections.abc import Callable

from tensorflow_serving.config import model_server_config_pb2

from longretriever_tf.common.errors import UserError
from longretriever_tf.retrieval.sharding.shards_file import read_places
from longretriever_tf.serving.server import config_files
from longretriever_tf.serving.server.grpc_server import GrpcApi, GrpcServer
from longretriever_tf.serving.server.http_server import HttpServer
from longretriever_tf.serving.server.loaded import LoadedModel
from longretriever_tf.serving.server.manager import ModelManager
from longretriever_tf.serving.server.memory import MemoryKeeper
from longretriever_tf.serving.server.metrics import Metrics
from longretriever_tf.serving.server.options import ServerOptions
from longretriever_tf.serving.server.rest import Handle, RestApi
from longretriever_tf.serving.server.routed import Shards, is_router
from longretriever_tf.serving.server.warmup import warm_up

_LOG = logging.getLogger(__name__)
_LOOK_AGAIN_S = 0.1
_LAST_S = 1.0
"""For threads to end after the grace; the process need not wait for them."""

Extend = Callable[[ModelManager, Handle], Handle]
"""Lays something over the REST API, such as the explorer page: it answers its own paths and hands on all others."""


class ModelServer:
    """`start` returns once every model has an available version and the ports are open; `stop` ends it.

    The ports open last, so that who is answered is answered by all models; only a router whose shards this server holds
    itself is waited for with open ports.
    """

    def __init__(
        self,
        config: model_server_config_pb2.ModelServerConfig,
        options: ServerOptions,
        extend: Extend = lambda manager, handle: handle,
    ) -> None:
        self._config, self._options, self._extend = config, options, extend
        self.metrics = Metrics()
        self.manager = ModelManager(self.metrics, self._load, options.file_system_poll_wait_seconds)
        self.rest_port: int | None = None
        self.grpc_port: int | None = None
        self._servers: list[HttpServer | GrpcServer] = []
        self._memory: MemoryKeeper | None = None
        places = read_places(options.shards_file) if options.shards_file else None
        self._shards = Shards(places) if places else None
        self._own_shards = {one.model for one in places.shards if one.is_at(options.port)} if places else set()
        self._stopping = threading.Event()

    def start(self) -> None:
        """Loads, then listens.

        Raises:
          UserError: every version of a model fails to load, or a port is taken.
        """
        metrics_path = config_files.read_monitoring(self._options.monitoring_config_file)
        for port, what, flag in (
            (self._options.port, "gRPC", "--port"),
            (self._options.rest_api_port, "REST", "--rest_api_port"),
        ):
            if port > 0:
                _check_free(self._options.host, port, what, flag)
        self._memory = MemoryKeeper()
        self.manager.configure(self._config)
        self.manager.poll()
        self.manager.start()
        while (waiting := self.manager.waiting()) and not self._stopping.is_set():
            # A router beside its own shards waits until they are reached, through the port.
            if self._own_shards and self.manager.failed():
                break
            if self._own_shards and self._own_shards.isdisjoint(waiting) and not self._servers:
                self._listen(metrics_path)
            time.sleep(_LOOK_AGAIN_S)
        if failed := self.manager.failed():
            self.stop()
            raise UserError(f"{'; '.join(failed)}. Export the model again, or remove the broken version's directory")
        if self._stopping.is_set():
            return
        if not self._servers:
            self._listen(metrics_path)
        if self._options.model_config_file and self._options.model_config_file_poll_wait_seconds > 0:
            threading.Thread(target=self._watch_config, name="config-watcher", daemon=True).start()

    def interrupt(self) -> None:
        """Lets a `start` that still waits for models return at once. Any thread may call."""
        self._stopping.set()

    def stop(self) -> None:
        """Stops listening, lets requests in flight finish within the grace, unloads; what still works is left alone."""
        self._stopping.set()
        threads = [threading.Thread(target=server.stop) for server in self._servers]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.manager.close(_LAST_S)
        if self._shards is not None:
            self._shards.close()
        if self._memory is not None:
            self._memory.close()

    def _load(self, name: str, version: int, path: str) -> LoadedModel:
        closed = self._memory.note_closed if self._memory else lambda graph: None
        about = (name, version, path, self._options.timeout_s, closed)
        model = self._shards.load(*about) if self._shards and is_router(path) else LoadedModel(*about)
        try:
            warm_up(model)
        except BaseException:
            model.retire()
            raise
        return model

    def _listen(self, metrics_path: str | None) -> None:
        try:
            self._open_ports(metrics_path)
        except (OSError, RuntimeError) as error:  # taken while the models were loaded
            raise UserError(f"cannot listen on {self._options.host}: {error}; choose another port or --host") from error

    def _open_ports(self, metrics_path: str | None) -> None:
        options = self._options
        if options.port:
            grpc_server = GrpcServer(GrpcApi(self.manager, self.metrics, options), options)
            self._servers.append(grpc_server)
            self.grpc_port = grpc_server.port
            _LOG.info("gRPC: %s:%d", options.host, self.grpc_port)
        if options.rest_api_port:
            api = RestApi(self.manager, self.metrics, options, metrics_path)
            http_server = HttpServer(self._extend(self.manager, api.handle), options)
            self._servers.append(http_server)
            self.rest_port = http_server.port
            _LOG.info("REST: http://%s:%d/v1/models/", options.host, self.rest_port)

    def _watch_config(self) -> None:
        while not self._stopping.wait(self._options.model_config_file_poll_wait_seconds):
            try:
                self.manager.configure(config_files.read_models(self._options.model_config_file))
            except UserError as error:
                _LOG.warning("the model config file was not taken over, the old one stays in effect: %s", error)


def _check_free(host: str, port: int, what: str, flag: str) -> None:
    """Refuses a taken port before models are loaded for minutes."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host.strip("[]"), port))
        except OSError as error:
            raise UserError(
                f"cannot listen on {host}:{port} for {what}: {error.strerror or error}; choose another {flag} or "
                "--host, or stop what listens there"
            ) from error
