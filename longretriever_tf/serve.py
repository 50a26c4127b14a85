"""Serves exported models as TensorFlow Serving does, over REST and gRPC; flags are named as tensorflow_model_server's.

  python -m longretriever_tf.serve --model_base_path=exports/longretriever --model_name=longretriever \
    --rest_api_port=8501 --explorer

With --explorer, http://localhost:8501/explorer/ is a page that shows how a list comes about and turns every options.

New versions under the base path are taken over within a second, without a failed request. SIGTERM or Ctrl-C stops the
server after the requests in flight.
"""

import gc
import logging
import os
import signal
import threading
import time
from collections.abc import Sequence
from types import FrameType
from typing import TYPE_CHECKING, Any

from absl import flags as absl_flags

from longretriever_tf.common.errors import UserError
from longretriever_tf.config import flags
from longretriever_tf.serving.server.limits import DEFAULT_LIMITS, RequestLimits

if TYPE_CHECKING:
    from longretriever_tf.serving.server.server import ServerOptions

_PORT = absl_flags.DEFINE_integer("port", 8500, "Port of the gRPC API; 0: none.", 0, 65535)
_REST_PORT = absl_flags.DEFINE_integer("rest_api_port", 0, "Port of the REST API, usually 8501; 0: none.", 0, 65535)
_HOST = absl_flags.DEFINE_string(
    "host", "127.0.0.1", "Interface to listen on; 0.0.0.0: all of them, as tensorflow_model_server does."
)
_NAME = absl_flags.DEFINE_string("model_name", "default", "Name of the model (ignored with --model_config_file).")
_BASE_PATH = absl_flags.DEFINE_string(
    "model_base_path", "", "Directory that holds one folder per version (ignored with --model_config_file)."
)
_CONFIG_FILE = absl_flags.DEFINE_string("model_config_file", "", "ModelServerConfig in text form: the models to serve.")
_CONFIG_POLL = absl_flags.DEFINE_float(
    "model_config_file_poll_wait_seconds", 0, "Seconds between readings of --model_config_file; 0: read once.", 0
)
_POLL = absl_flags.DEFINE_float(
    "file_system_poll_wait_seconds", 1, "Seconds between looks for new versions; 0: look once.", 0
)
_RETRIES = absl_flags.DEFINE_integer("max_num_load_retries", 5, "Tries to load a version after the first failure.", 0)
_RETRY_MICROS = absl_flags.DEFINE_integer(
    "load_retry_interval_micros", 60_000_000, "Microseconds between such tries; negative: at once."
)
_ALLOW_LABELS = absl_flags.DEFINE_bool(
    "allow_version_labels_for_unavailable_models", False, "Let version labels name versions that are not loaded yet."
)
_BATCHING = absl_flags.DEFINE_bool("enable_batching", False, "Run concurrent requests together.")
_BATCHING_FILE = absl_flags.DEFINE_string("batching_parameters_file", "", "BatchingParameters in text form.")
_MONITORING_FILE = absl_flags.DEFINE_string(
    "monitoring_config_file", "", "MonitoringConfig in text form: where Prometheus finds metrics."
)
_WARMUP = absl_flags.DEFINE_bool("enable_model_warmup", True, "Replay assets.extra/tf_serving_warmup_requests.")
_TIMEOUT = absl_flags.DEFINE_integer(
    "rest_api_timeout_in_ms",
    30_000,
    "REST requests get 504 after it, and the model's work for any request, over gRPC too, is stopped; 0: never.",
    0,
)
_READ_TIMEOUT = absl_flags.DEFINE_float(
    "rest_api_read_timeout_seconds",
    30,
    "How long a connection may keep the server waiting for a header, for each MiB of a body, or to read an answer; "
    "without a request it is closed after ten times as long. gRPC connections likewise. 0: for ever.",
    0,
)
_MAX_CONNECTIONS = absl_flags.DEFINE_integer(
    "max_connections",
    1024,
    "Most connections per transport (fewer where the process may open few files); 0: no limit of its own.",
    0,
)
_THREADS = absl_flags.DEFINE_integer(
    "rest_api_num_threads", 0, "Requests worked on at once, per transport; 0: four per processor.", 0
)
_CORS = absl_flags.DEFINE_bool(
    "rest_api_enable_cors_support", False, "Let web pages of other origins call the API; never the explorer's data."
)
_ALLOWED_HOSTS = absl_flags.DEFINE_list(
    "allowed_hosts",
    [],
    "Names, separated by commas, that the server is reached by, beside --host and localhost: what a browser sends as "
    'Host. Checked for the explorer, and on this machine\'s own addresses (127.0.0.1) for the API, too; "*": any.',
)
_MAX_BODY = absl_flags.DEFINE_float(
    "max_body_mb", 32, "Largest request in MB (2^20 bytes); beyond it 413, over gRPC RESOURCE_EXHAUSTED.", 0.001
)
_MAX_HISTORY = absl_flags.DEFINE_integer(
    "max_history", DEFAULT_LIMITS.max_history, "Most events per user in a history_* input; 0: no limit.", 0
)
_MAX_ROWS = absl_flags.DEFINE_integer(
    "max_rows", DEFAULT_LIMITS.max_rows, "Most users (rows) in a request with histories; 0: no limit.", 0
)
_MAX_VALUES = absl_flags.DEFINE_integer(
    "max_request_values",
    DEFAULT_LIMITS.max_values,
    "Most numbers and texts in a request, as declared by its shapes; 0: no limit.",
    0,
)
_MAX_CANDIDATES = absl_flags.DEFINE_integer(
    "max_request_candidates",
    DEFAULT_LIMITS.max_candidates,
    "Most candidates held at once for a request: rows x interests x (k + excluded items). A candidate takes about 40 "
    "bytes of memory. 0: no limit.",
    0,
)
_MAX_REPLY = absl_flags.DEFINE_integer(
    "max_reply_values",
    DEFAULT_LIMITS.max_reply_values,
    "Most numbers in an answer of known size, such as items' vectors; 0: no limit.",
    0,
)
_DEFAULT_INPUTS = absl_flags.DEFINE_bool(
    "rest_default_inputs",
    False,
    "Fill left-out REST inputs from the signature's defaults; TensorFlow Serving does so over gRPC only.",
)
_EXPLORER = absl_flags.DEFINE_bool(
    "explorer", False, "Serve a page at /explorer/ of the REST port: turn the options, see why each item is listed."
)
_EXPLORER_USERS = absl_flags.DEFINE_string(
    "explorer_users",
    "",
    "JSON file of the histories that the explorer page offers, as longretriever_tf.sample_users writes it; whoever "
    "reaches the port can read it. Empty: made-up histories, from the export's warm-up requests.",
)
_GRACE = absl_flags.DEFINE_float(
    "shutdown_grace_seconds", 10, "What requests in flight get after SIGTERM; then the process ends.", 0
)
_LAST_S = 2.0
"""Beyond the grace, to close what is done."""


def main(argv: Sequence[str]) -> None:
    """Runs the command."""
    del argv
    if not _REST_PORT.value and not _PORT.value:
        raise UserError("--port=0 and --rest_api_port=0 leave nothing to serve on; give one of them a port")
    if _REST_PORT.value == _PORT.value:
        raise UserError(f"--rest_api_port cannot be same as --port, here {_PORT.value}; choose another")
    if not _CONFIG_FILE.value and not _BASE_PATH.value:
        raise UserError(
            "nothing to serve; give --model_base_path=exports/longretriever --model_name=longretriever, or "
            "--model_config_file"
        )
    if _EXPLORER_USERS.value and not _EXPLORER.value:
        raise UserError(f"--explorer_users={_EXPLORER_USERS.value!r} is for the explorer page; add --explorer")
    if _EXPLORER.value and not _REST_PORT.value:
        raise UserError("--explorer is served on the REST port; add --rest_api_port=8501")
    logging.getLogger("longretriever_tf").setLevel(logging.INFO)
    logging.getLogger("tensorflow").setLevel(
        logging.ERROR
    )  # it calls the loader that TensorFlow Serving uses deprecated
    _serve()


def _serve() -> None:
    # oneDNN's kernels prepare themselves anew for each shape, and no two histories are of one length. Read once, at
    # TensorFlow's import, so before the next line.
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
    from longretriever_tf.serving.server import memory

    memory.keep_freed_memory()  # before TensorFlow starts threads that get arenas of their own
    from longretriever_tf.serving.server import config_files
    from longretriever_tf.serving.server.server import ModelServer  # TensorFlow takes seconds to load

    gc.freeze()  # what TensorFlow's import left is there to stay: looking for garbage skips it
    if _CONFIG_FILE.value:
        config = config_files.read_models(_CONFIG_FILE.value)
    else:
        config = config_files.one_model(_NAME.value, _BASE_PATH.value)
    server = ModelServer(config, _options())
    stopped = _StopSignal(server, _GRACE.value)
    server.start()
    stopped.wait()


class _StopSignal:
    """SIGTERM and SIGINT stop the server within the grace, whatever it is at; a second one ends the process at once."""

    def __init__(self, server: Any, grace_s: float) -> None:
        self._server, self._grace_s = server, grace_s
        self._read, self._write = os.pipe()
        # Python runs signal handlers on the main thread, between two of its own steps: not while it loads a model. The
        # number of a signal is written to this pipe at once.
        wake, self._woken = os.pipe()
        os.set_blocking(self._woken, False)
        signal.set_wakeup_fd(self._woken, warn_on_full_buffer=False)
        threading.Thread(target=self._end_in_time, args=(wake,), name="stop-watch", daemon=True).start()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._note)

    def wait(self) -> None:
        """Returns once a signal came and the server has stopped."""
        os.read(self._read, 1)  # a signal handler may not take locks; the main thread does the stopping
        print("stopping: requests in flight are finished first", flush=True)
        self._server.stop()

    def _note(self, number: int, frame: FrameType | None) -> None:
        del frame
        self._server.interrupt()
        os.write(self._write, b"x")

    def _end_in_time(self, wake: int) -> None:
        """Ends the process where threads that nothing can stop would keep it, with what they are doing."""
        os.read(wake, 1)
        threading.Thread(target=self._end_at_once, args=(wake,), name="stop-again", daemon=True).start()
        time.sleep(self._grace_s + _LAST_S)
        print(f"stopped: what was still running after {self._grace_s:g} s is given up", flush=True)
        os._exit(0)

    def _end_at_once(self, wake: int) -> None:
        os.read(wake, 1)
        os._exit(1)


def _options() -> "ServerOptions":
    from longretriever_tf.serving.server import config_files
    from longretriever_tf.serving.server.manager import LoadOptions
    from longretriever_tf.serving.server.server import ServerOptions

    given: dict[str, Any] = {"num_threads": _THREADS.value} if _THREADS.value else {}
    return ServerOptions(
        host=_HOST.value,
        grpc_port=_PORT.value or None,
        rest_port=_REST_PORT.value or None,
        rest_timeout_s=_TIMEOUT.value / 1000,
        batching=config_files.read_batching(_BATCHING_FILE.value) if _BATCHING.value else None,
        loading=LoadOptions(
            poll_wait_s=_POLL.value,
            max_num_load_retries=_RETRIES.value,
            load_retry_interval_micros=_RETRY_MICROS.value,
            allow_labels_for_unavailable=_ALLOW_LABELS.value,
        ),
        warm_up=_WARMUP.value,
        metrics_path=config_files.read_monitoring(_MONITORING_FILE.value),
        config_file=_CONFIG_FILE.value,
        config_poll_s=_CONFIG_POLL.value,
        max_body=int(_MAX_BODY.value * 2**20),
        max_history=_MAX_HISTORY.value,
        limits=RequestLimits(
            max_rows=_MAX_ROWS.value,
            max_values=_MAX_VALUES.value,
            max_candidates=_MAX_CANDIDATES.value,
            max_reply_values=_MAX_REPLY.value,
        ),
        read_timeout_s=_READ_TIMEOUT.value,
        max_connections=_MAX_CONNECTIONS.value,
        allowed_hosts=tuple(_ALLOWED_HOSTS.value),
        rest_default_inputs=_DEFAULT_INPUTS.value,
        cors=_CORS.value,
        explorer=_EXPLORER.value,
        explorer_users=_EXPLORER_USERS.value,
        grace_s=_GRACE.value,
        **given,
    )


if __name__ == "__main__":
    flags.run_command(main)
