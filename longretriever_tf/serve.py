r"""Serves exported models over REST and gRPC; protocol and flags are those of TensorFlow Serving.

  longretriever serve --model_base_path=exports/longretriever --model_name=longretriever \
    --rest_api_port=8501 --explorer

With --explorer, http://localhost:8501/explorer/ is a page that shows how a list comes about and turns every option.

New versions under the base path are taken over within a second, without a failed request. SIGTERM or Ctrl-C stops the
server after the requests in flight.
"""

import dataclasses
import gc
import logging
import os
import signal
import threading
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from absl import flags as absl_flags

from longretriever_tf.common.errors import UserError
from longretriever_tf.common.extras import needs_extra
from longretriever_tf.config import flags
from longretriever_tf.serving.server.options import ServerOptions

if TYPE_CHECKING:
    from longretriever_tf.serving.server.server import ModelServer

_NAME = absl_flags.DEFINE_string("model_name", "default", "Name of the model (ignored with --model_config_file).")
_BASE_PATH = absl_flags.DEFINE_string(
    "model_base_path", "", "Directory that holds one folder per version (ignored with --model_config_file)."
)
_EXPLORER = absl_flags.DEFINE_bool(
    "explorer", False, "Serve a page at /explorer/ of the REST port: turn the options, see why each item is listed."
)
_EXPLORER_USERS = absl_flags.DEFINE_string(
    "explorer_users",
    "",
    "JSON file of the histories that the explorer page offers, as `longretriever sample_users` writes it; whoever "
    "reaches the port can read it. Empty: made-up histories, from the export's warm-up requests.",
)
_LAST_S = 2.0
"""Beyond the grace, to close what is done."""

_DEFINE: dict[type, Any] = {
    bool: absl_flags.DEFINE_bool,
    int: absl_flags.DEFINE_integer,
    float: absl_flags.DEFINE_float,
    str: absl_flags.DEFINE_string,
    tuple: absl_flags.DEFINE_list,
}


def _define(field: Any) -> absl_flags.FlagHolder:
    kind = type(field.default)
    default = list(field.default) if kind is tuple else field.default
    bounds = {}
    if kind in (int, float):
        bounds = {"lower_bound": kind(field.metadata["least"]), "upper_bound": field.metadata["most"]}
    return _DEFINE[kind](field.name, default, field.metadata["help"], **bounds)


_OPTIONS = {field.name: _define(field) for field in dataclasses.fields(ServerOptions)}


def main(argv: Sequence[str]) -> None:
    """Runs the command."""
    del argv
    values: dict[str, Any] = {name: holder.value for name, holder in _OPTIONS.items()}
    options = ServerOptions(**values | {"allowed_hosts": tuple(values["allowed_hosts"])})
    if not options.rest_api_port and not options.port:
        raise UserError("--port=0 and --rest_api_port=0 leave nothing to serve on; give one of them a port")
    if options.rest_api_port == options.port:
        raise UserError(f"--rest_api_port cannot be same as --port, here {options.port}; choose another")
    if not options.model_config_file and not _BASE_PATH.value:
        raise UserError(
            "nothing to serve; give --model_base_path=exports/longretriever --model_name=longretriever, or "
            "--model_config_file"
        )
    if _EXPLORER_USERS.value and not _EXPLORER.value:
        raise UserError(f"--explorer_users={_EXPLORER_USERS.value!r} is for the explorer page; add --explorer")
    if _EXPLORER.value and not options.rest_api_port:
        raise UserError("--explorer is served on the REST port; add --rest_api_port=8501")
    logging.getLogger("longretriever_tf").setLevel(logging.INFO)
    logging.getLogger("tensorflow").setLevel(logging.ERROR)  # it calls TensorFlow Serving's own loader deprecated
    server = _make_server(options)
    stopped = _StopSignal(server, options.shutdown_grace_seconds)
    server.start()
    if _EXPLORER.value and server.rest_port:  # none where it was stopped before it listened
        logging.getLogger("longretriever_tf.serve").info(
            "explorer page: http://%s:%d/explorer/", options.host, server.rest_port
        )
    stopped.wait()


def _make_server(options: ServerOptions) -> "ModelServer":
    # oneDNN's kernels prepare themselves anew for each shape, and no two histories are of one length. Read once, at
    # TensorFlow's import, so before the next line.
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
    from longretriever_tf.serving.server import memory

    memory.keep_freed_memory()  # before TensorFlow starts threads that get arenas of their own
    with needs_extra("`serve`", "serving", "aiohttp", "orjson"):
        from longretriever_tf.serving.server import config_files
        from longretriever_tf.serving.server.server import ModelServer  # TensorFlow takes seconds to load

    if options.model_config_file:
        config = config_files.read_models(options.model_config_file)
    else:
        config = config_files.one_model(_NAME.value, _BASE_PATH.value)
    if _EXPLORER.value:
        from longretriever_tf.serving.explorer.page import explorer_over

        server = ModelServer(config, options, explorer_over(_EXPLORER_USERS.value))
    else:
        server = ModelServer(config, options)
    gc.freeze()  # what TensorFlow's import left is there to stay: looking for garbage skips it
    return server


class _StopSignal:
    """SIGTERM and SIGINT stop the server within the grace, whatever it is at; a second one ends the process at once."""

    def __init__(self, server: "ModelServer", grace_s: float) -> None:
        self._server, self._grace_s = server, grace_s
        self._has_come = threading.Event()
        # A Python handler runs on the main thread, between two of its own steps: not while it loads a model, and not
        # while it waits, where the system gave the signal to another thread. The number of a signal is written to this
        # pipe at once, whichever thread gets it.
        wake, self._woken = os.pipe()
        os.set_blocking(self._woken, False)
        signal.set_wakeup_fd(self._woken, warn_on_full_buffer=False)
        threading.Thread(target=self._watch, args=(wake,), name="stop-watch", daemon=True).start()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda number, frame: None)

    def wait(self) -> None:
        """Returns once a signal came and the server has stopped."""
        self._has_come.wait()
        print("stopping: requests in flight are finished first", flush=True)
        self._server.stop()

    def _watch(self, wake: int) -> None:
        """Ends the process where threads that nothing can stop would keep it, with what they are doing."""
        os.read(wake, 1)
        self._server.interrupt()
        self._has_come.set()
        threading.Thread(target=self._end_at_once, args=(wake,), name="stop-again", daemon=True).start()
        time.sleep(self._grace_s + _LAST_S)
        print(f"stopped: what was still running after {self._grace_s:g} s is given up", flush=True)
        os._exit(0)

    def _end_at_once(self, wake: int) -> None:
        os.read(wake, 1)
        os._exit(1)


if __name__ == "__main__":
    flags.run_command(main)
