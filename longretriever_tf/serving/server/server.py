"""The whole server: models, REST and gRPC, started and stopped together."""

import dataclasses
import logging
import os
import socket
import threading
import time

from tensorflow_serving.config import model_server_config_pb2

from longretriever_tf.common.errors import UserError
from longretriever_tf.serving.explorer.page import ExplorerPage
from longretriever_tf.serving.explorer.users import read_users
from longretriever_tf.serving.server import config_files
from longretriever_tf.serving.server.batching import BatchScheduler
from longretriever_tf.serving.server.config_files import BatchingOptions
from longretriever_tf.serving.server.grpc_server import GrpcServer
from longretriever_tf.serving.server.grpc_services import ModelService, PredictionService
from longretriever_tf.serving.server.http_server import Handle, HttpLimits, HttpServer
from longretriever_tf.serving.server.limits import DEFAULT_LIMITS, RequestLimits
from longretriever_tf.serving.server.loaded import LoadedModel
from longretriever_tf.serving.server.manager import LoadOptions, ModelManager
from longretriever_tf.serving.server.memory import MemoryKeeper
from longretriever_tf.serving.server.metrics import Metrics
from longretriever_tf.serving.server.origins import OriginRules
from longretriever_tf.serving.server.predict import DirectRunner
from longretriever_tf.serving.server.rest import RestApi
from longretriever_tf.serving.server.status import ServingError, invalid
from longretriever_tf.serving.server.warmup import warm_up

_LOG = logging.getLogger(__name__)
_THREADS = 4 * (os.cpu_count() or 1)
_LOOK_AGAIN_S = 0.1
_LAST_S = 1.0
"""For threads to end after the grace; the process need not wait for them."""


@dataclasses.dataclass(frozen=True)
class ServerOptions:
    """Where and how to serve.

    Attributes:
      host: interface to listen on.
      grpc_port, rest_port: None: not served; 0: any free port.
      rest_timeout_s: a REST request is answered with 504 after so long, and the model's work for any request is
        stopped; 0: never.
      num_threads: requests worked on at once, per transport.
      batching: None: every request by itself.
      loading: versions and retries.
      warm_up: replay the export's warm-up requests before serving it.
      metrics_path: REST path of the Prometheus page; None: none.
      config_file, config_poll_s: a models.config to read again every so often; 0: never.
      max_body: bytes of a request.
      max_history: events per user in history_* inputs; 0: no limit.
      limits: what else a request may ask of the memory; `max_history` and `max_body` stand above in it.
      read_timeout_s: how long a connection may keep the server waiting for a header or for each MiB of a body.
      max_connections: per transport; 0: no limit.
      allowed_hosts: names that the server is reached by, beside `host` and localhost.
      rest_default_inputs: fill left-out REST inputs from the signature, which TensorFlow Serving does for gRPC alone.
      cors: let browsers call from other origins.
      explorer: serve the explorer page at /explorer/ of the REST port.
      explorer_users: file of the histories that the page offers; empty: made-up ones, from the export's warm-up
        requests.
      grace_s: what requests in flight get when the server stops.
    """

    host: str = "127.0.0.1"
    grpc_port: int | None = 0
    rest_port: int | None = 0
    rest_timeout_s: float = 30.0
    num_threads: int = _THREADS
    batching: BatchingOptions | None = None
    loading: LoadOptions = LoadOptions()
    warm_up: bool = True
    metrics_path: str | None = None
    config_file: str = ""
    config_poll_s: float = 0.0
    max_body: int = 32 << 20
    max_history: int = DEFAULT_LIMITS.max_history
    limits: RequestLimits = DEFAULT_LIMITS
    read_timeout_s: float = 30.0
    max_connections: int = 1024
    allowed_hosts: tuple[str, ...] = ()
    rest_default_inputs: bool = False
    cors: bool = False
    explorer: bool = False
    explorer_users: str = ""
    grace_s: float = 10.0


class ModelServer:
    """`start` returns once every model has an available version and the ports are open; `stop` ends it."""

    def __init__(self, config: model_server_config_pb2.ModelServerConfig, options: ServerOptions) -> None:
        self._config, self._options = config, options
        self._users = read_users(options.explorer_users) if options.explorer_users else None
        self.metrics = Metrics()
        self.manager = ModelManager(options.loading, self.metrics, self._load)
        self.rest_port: int | None = None
        self.grpc_port: int | None = None
        self._http: HttpServer | None = None
        self._grpc: GrpcServer | None = None
        self._memory: MemoryKeeper | None = None
        self._scheduler: BatchScheduler | None = None
        self._stopping = threading.Event()
        self._config_watcher: threading.Thread | None = None

    def start(self) -> None:
        """Loads, then listens.

        Raises:
          UserError: a label or every version of a model cannot be served, or a port is taken.
        """
        for port, what, flag in (
            (self._options.grpc_port, "gRPC", "--port"),
            (self._options.rest_port, "REST", "--rest_api_port"),
        ):
            if port:
                _check_free(self._options.host, port, what, flag)
        self._memory = MemoryKeeper()
        try:
            self.manager.configure(self._config)
        except ServingError as error:
            raise UserError(
                f"Failed to start server. Error: {error}. Start with --allow_version_labels_for_unavailable_models: at "
                "startup no version is available yet"
            ) from error
        self.manager.poll()
        self.manager.start()
        self._await_models()
        if self._stopping.is_set():
            return
        self._open_ports()
        if self._options.config_file and self._options.config_poll_s > 0:
            self._config_watcher = threading.Thread(target=self._watch_config, name="config-watcher", daemon=True)
            self._config_watcher.start()

    def interrupt(self) -> None:
        """Lets a `start` that still waits for models return at once; safe in a signal handler."""
        self._stopping.set()

    def stop(self) -> None:
        """Stops listening, lets requests in flight finish within the grace, unloads; what still works is left alone."""
        self._stopping.set()
        stops = [each.stop for each in (self._grpc, self._http) if each is not None]
        threads = [threading.Thread(target=stop) for stop in stops]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if self._scheduler is not None:
            self._scheduler.close(_LAST_S)
        if self._config_watcher is not None:
            self._config_watcher.join(_LAST_S)
        self.manager.close(_LAST_S)
        if self._memory is not None:
            self._memory.close()

    def reload(self, config: model_server_config_pb2.ModelServerConfig) -> None:
        """Takes over another config, and waits for its new models, one try each.

        Raises:
          ServingError: the config is wrong, and the old one stays; or UNKNOWN, a new model did not load.
        """
        try:
            config_files.check_models(config)
        except UserError as error:
            raise invalid(str(error)) from error
        self.manager.configure(config)
        self.manager.poll()
        waiting = self.manager.waiting()
        if waiting or self.manager.failed():
            failed = ", ".join(self.manager.failed() or waiting)
            raise ServingError("UNKNOWN", f"{len(waiting) or 1} model(s) did not become available: {{{failed}}}")

    def _load(self, name: str, version: int, path: str) -> LoadedModel:
        closed = self._memory.note_closed if self._memory else lambda graph: None
        model = LoadedModel(name, version, path, self._options.rest_timeout_s, closed)
        if self._options.warm_up:
            try:
                warm_up(model, self.metrics)
            except BaseException:
                model.retire()
                raise
        return model

    def _await_models(self) -> None:
        while self.manager.waiting() and not self._stopping.is_set():
            if self._options.loading.poll_wait_s <= 0:
                raise UserError(
                    f"no version of {', '.join(self.manager.waiting())} could be loaded, and "
                    "--file_system_poll_wait_seconds=0 forbids to wait for one; see the warnings above"
                )
            time.sleep(_LOOK_AGAIN_S)
        if failed := self.manager.failed():
            self.manager.close()
            raise UserError(
                f"Failed to start server. Error: UNKNOWN: {len(failed)} model(s) did not become available: "
                f"{{{', '.join(failed)}}}. Export the model again, or remove the broken version's directory"
            )

    def _open_ports(self) -> None:
        options = self._options
        if options.batching is not None:
            self._scheduler = BatchScheduler(options.batching, self.metrics)
        runner = self._scheduler or DirectRunner()
        limits = dataclasses.replace(options.limits, max_history=options.max_history, max_text=options.max_body)
        http = HttpLimits(
            options.num_threads,
            options.rest_timeout_s,
            options.grace_s,
            options.max_body,
            options.read_timeout_s,
            options.max_connections,
        )
        if options.grpc_port is not None:
            prediction = PredictionService(self.manager, runner, self.metrics, limits)
            models = ModelService(self.manager, self.reload)
            self._grpc = GrpcServer(prediction, models, http, options.host, options.grpc_port)
            self.grpc_port = self._grpc.port
            _LOG.info("Running gRPC ModelServer at %s:%d ...", options.host, self.grpc_port)
        if options.rest_port is not None:
            api = RestApi(
                self.manager,
                runner,
                self.metrics,
                limits=limits,
                default_inputs=options.rest_default_inputs,
                metrics_path=options.metrics_path,
            )
            rules = OriginRules(options.host, options.allowed_hosts, options.cors)
            self._http = HttpServer(self._with_explorer(api.handle), http, options.host, options.rest_port, rules)
            self.rest_port = self._http.port
            _LOG.info("Exporting HTTP/REST API at:%s:%d ...", options.host, self.rest_port)
            if options.explorer:
                _LOG.info("The explorer page is at http://%s:%d/explorer/", options.host, self.rest_port)

    def _with_explorer(self, handle: Handle) -> Handle:
        """The REST API, with the explorer page beside it where it was asked for."""
        if not self._options.explorer:
            return handle
        return ExplorerPage(self.manager, self._users, handle).handle

    def _watch_config(self) -> None:
        current = self._config
        while not self._stopping.wait(self._options.config_poll_s):
            try:
                config = config_files.read_models(self._options.config_file)
                if config != current:
                    current = config
                    self.reload(config)
            except (UserError, ServingError) as error:
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
