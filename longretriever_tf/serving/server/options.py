"""Where and how to serve: every option once, named as its flag of `longretriever serve`. Imports no TensorFlow."""

import dataclasses
import os
import resource

from longretriever_tf.serving.server.limits import RequestLimits, setting

_RESERVED_FILES = 64
"""Descriptors that are not for connections: models, logs, TensorFlow's own."""


@dataclasses.dataclass(frozen=True)
class ServerOptions(RequestLimits):
    """Options of a server; those of one request stand in `RequestLimits`. A negative port is any free one."""

    port: int = setting(8500, "Port of the gRPC API; 0: none.", most=65535)
    rest_api_port: int = setting(0, "Port of the REST API, usually 8501; 0: none.", most=65535)
    host: str = setting("127.0.0.1", "Interface to listen on; 0.0.0.0: all of them, as tensorflow_model_server does.")
    model_config_file: str = setting("", "ModelServerConfig in text form: the models to serve.")
    shards_file: str = setting(
        "",
        "shards.json of an export by category ranges: the router, served here, then asks the shards that the file "
        "names, and answers with merged lists, as one export does. Without it a router answers with queries.",
    )
    model_config_file_poll_wait_seconds: float = setting(
        0.0, "Seconds between readings of --model_config_file; 0: read once."
    )
    file_system_poll_wait_seconds: float = setting(1.0, "Seconds between looks for new versions.", least=0.01)
    monitoring_config_file: str = setting("", "MonitoringConfig in text form: where Prometheus finds metrics.")
    rest_api_timeout_in_ms: int = setting(
        30_000,
        "REST requests get 504 after it, and the model's work for any request, over gRPC too, is stopped; 0: never.",
    )
    rest_api_read_timeout_seconds: float = setting(
        30.0,
        "How long a connection may stay without a whole header of a request, and how long it may take for each MiB of "
        "a body or of an answer. gRPC connections likewise. 0: for ever.",
    )
    rest_api_num_threads: int = setting(0, "Requests worked on at once, per transport; 0: four per processor.")
    rest_api_enable_cors_support: bool = setting(
        False, "Let web pages of other origins call the API; never the explorer's data."
    )
    max_connections: int = setting(
        1024, "Most connections per transport (fewer where the process may open few files); 0: no limit of its own."
    )
    allowed_hosts: tuple[str, ...] = setting(
        (),
        "Names, separated by commas, that the server is reached by, besides --host and localhost: what a browser sends "
        "as Host. Checked for the explorer, and on this machine's own addresses (127.0.0.1) for the API, too; "
        '"*": any.',
    )
    shutdown_grace_seconds: float = setting(10.0, "What requests in flight get after SIGTERM; then the process ends.")

    @property
    def timeout_s(self) -> float:
        """Of one request's work; 0: none."""
        return self.rest_api_timeout_in_ms / 1000

    @property
    def num_threads(self) -> int:
        """Requests worked on at once, per transport."""
        return self.rest_api_num_threads or 4 * (os.cpu_count() or 1)

    @property
    def connection_limit(self) -> int:
        """Connections per transport: at most half of the file descriptors that the process may have; 0: no limit."""
        files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        if files <= 0:
            return self.max_connections
        return min(self.max_connections or files, max((files - _RESERVED_FILES) // 2, 1))
