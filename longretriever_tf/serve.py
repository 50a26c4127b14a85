"""Serves exported models as TensorFlow Serving does, over REST and gRPC; flags are named as tensorflow_model_server's.

  python -m longretriever_tf.serve --model_base_path=exports/longretriever --model_name=longretriever \
    --rest_api_port=8501 --explorer

With --explorer, http://localhost:8501/explorer/ is a page that shows how a list comes about and turns every knob.

New versions under the base path are taken over within a second, without a failed request. SIGTERM or Ctrl-C stops the
server after the requests in flight.
"""

import logging
import os
import signal
from collections.abc import Sequence
from types import FrameType
from typing import TYPE_CHECKING, Any

from absl import flags as absl_flags

from longretriever_tf import flags
from longretriever_tf.errors import UserError

if TYPE_CHECKING:
    from longretriever_tf.serving.server import ServerOptions

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
_TIMEOUT = absl_flags.DEFINE_integer("rest_api_timeout_in_ms", 30_000, "REST requests get 504 after it; 0: never.", 0)
_THREADS = absl_flags.DEFINE_integer(
    "rest_api_num_threads", 0, "Requests worked on at once, per transport; 0: four per processor.", 0
)
_CORS = absl_flags.DEFINE_bool("rest_api_enable_cors_support", False, "Let web pages of other origins call REST.")
_MAX_BODY = absl_flags.DEFINE_float(
    "max_body_mb", 32, "Largest request in MB (2^20 bytes); beyond it 413, over gRPC RESOURCE_EXHAUSTED.", 0.001
)
_MAX_HISTORY = absl_flags.DEFINE_integer(
    "max_history", 100_000, "Most events per user in a history_* input; 0: no limit.", 0
)
_DEFAULT_INPUTS = absl_flags.DEFINE_bool(
    "rest_default_inputs",
    False,
    "Fill left-out REST inputs from the signature's defaults; TensorFlow Serving does so over gRPC only.",
)
_EXPLORER = absl_flags.DEFINE_bool(
    "explorer", False, "Serve a page at /explorer/ of the REST port: turn the knobs, see why each item is listed."
)
_EXPLORER_USERS = absl_flags.DEFINE_string(
    "explorer_users",
    "",
    "JSON file of the lives that the explorer page offers, as longretriever_tf.sample_users writes it; everyone who "
    "reaches the port can read it. Empty: made-up lives, from the export's warm-up requests.",
)
_GRACE = absl_flags.DEFINE_float("shutdown_grace_seconds", 10, "What requests in flight get after SIGTERM.", 0)


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
    # oneDNN's kernels prepare themselves anew for each shape, and no two lives are of one length. Read once, at
    # TensorFlow's import, so before the next line.
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
    from longretriever_tf.serving import config_files, memory
    from longretriever_tf.serving.server import ModelServer  # TensorFlow takes seconds to load

    memory.keep_freed_memory()
    if _CONFIG_FILE.value:
        config = config_files.read_models(_CONFIG_FILE.value)
    else:
        config = config_files.one_model(_NAME.value, _BASE_PATH.value)
    server = ModelServer(config, _options())
    stopped = _StopSignal(server)
    server.start()
    stopped.wait()


class _StopSignal:
    """SIGTERM and SIGINT stop the server; a second one ends the process at once."""

    def __init__(self, server: Any) -> None:
        self._server = server
        self._read, self._write = os.pipe()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._note)

    def wait(self) -> None:
        """Returns once a signal came and the server has stopped."""
        os.read(self._read, 1)  # a signal handler may not take locks; the main thread does the stopping
        print("stopping: requests in flight are finished first", flush=True)
        self._server.stop()

    def _note(self, number: int, frame: FrameType | None) -> None:
        del frame
        signal.signal(number, signal.SIG_DFL)
        self._server.interrupt()
        os.write(self._write, b"x")


def _options() -> "ServerOptions":
    from longretriever_tf.serving import config_files
    from longretriever_tf.serving.manager import LoadOptions
    from longretriever_tf.serving.server import ServerOptions

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
        rest_default_inputs=_DEFAULT_INPUTS.value,
        cors=_CORS.value,
        explorer=_EXPLORER.value,
        explorer_users=_EXPLORER_USERS.value,
        grace_s=_GRACE.value,
        **given,
    )


if __name__ == "__main__":
    flags.run_command(main)
