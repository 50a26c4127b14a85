"""The server as a process and a thing to operate: metrics, timeouts, CORS, shutdown, flags, config files, the table."""

import itertools
import json
import os
import pathlib
import platform
import re
import signal
import subprocess
import sys
import threading
import types

import numpy as np
import pytest
import serving_conformance
from serving_clients import call, error_of, free_ports, predict, serving, wait_until
from serving_conformance import conforms
from toy_models import Hold, save_answer, save_toy

from longretriever_tf.common.errors import UserError
from longretriever_tf.serving.server import config_files

pytestmark = pytest.mark.serving
ROOT = pathlib.Path(__file__).resolve().parent.parent
X = {"instances": [1.0]}


def _start(*flags: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "longretriever_tf.serve", *flags]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


@conforms(
    "metrics page",
    "request_count, request_latency, load_attempt_count by their names and labels, as Prometheus text",
)
def test_metrics(tmp_path):
    save_answer(tmp_path, 1)
    with serving(str(tmp_path), metrics=True) as server:
        for _ in range(3):
            predict(server, X)
        error_of(server, {"instances": ["x"]})
        error_of(server, X, "/v1/models/elsewhere:predict")
        status, page = call(server, "GET", "/monitoring/prometheus/metrics")
    lines = page.decode().splitlines()
    assert status == 200
    assert ':tensorflow:serving:request_count{model_name="toy",status="OK"} 3' in lines
    assert ':tensorflow:serving:request_count{model_name="toy",status="INVALID_ARGUMENT"} 1' in lines
    assert ':tensorflow:serving:request_count{model_name="(unknown)",status="NOT_FOUND"} 1' in lines
    latency = 'request_latency_count{model_name="toy",API="predict",entrypoint="REST"} 3'
    assert f":tensorflow:serving:{latency}" in lines
    assert f':tensorflow:cc:saved_model:load_attempt_count{{model_path="{tmp_path}/1",status="success"}} 1' in lines
    assert "# TYPE :tensorflow:serving:request_latency histogram" in lines
    sample = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*(\{([a-zA-Z_]\w*=\"[^\"]*\",?)*\})? -?[0-9.e+]+")
    assert all(line.startswith("# TYPE ") or sample.fullmatch(line) for line in lines)
    buckets = [line for line in lines if "request_latency_bucket" in line]
    counts = [int(line.rsplit(" ", 1)[1]) for line in buckets]
    assert counts == sorted(counts) and counts[-1] == 3 and 'le="+Inf"' in buckets[-1] and 'le="18"' in buckets[1]


@conforms("metrics without --monitoring_config_file", "no such page")
def test_no_metrics_unless_asked(tmp_path):
    save_answer(tmp_path, 1)
    with serving(str(tmp_path)) as server:
        assert call(server, "GET", config_files.PROMETHEUS_PATH)[0] == 404


@conforms(
    "monitoring config file",
    "prometheus_config { enable: true path: ... }; the default path is /monitoring/prometheus/metrics",
)
def test_monitoring_config(tmp_path):
    path = tmp_path / "monitoring.config"
    path.write_text("prometheus_config { enable: true }")
    assert config_files.read_monitoring(str(path)) == "/monitoring/prometheus/metrics"
    path.write_text('prometheus_config { enable: true, path: "/m" }')
    assert config_files.read_monitoring(str(path)) == "/m"
    path.write_text('prometheus_config { path: "/m" }')
    assert config_files.read_monitoring(str(path)) is None and config_files.read_monitoring("") is None


@conforms("--rest_api_timeout_in_ms", "504, and other requests go on meanwhile")
def test_timeout(tmp_path):
    save_toy(tmp_path, 1)
    hold = Hold(tmp_path)
    quick = {"signature_name": "slow", "instances": [0]}
    with serving(str(tmp_path), rest_api_timeout_in_ms=1000, port=0) as server:
        try:
            timed_out = (504, "timed out: no answer within 1 s (--rest_api_timeout_in_ms)")
            wait_until(lambda: error_of(server, hold.body) == timed_out and hold.has_begun())
            wait_until(lambda: call(server, "POST", "/v1/models/toy:predict", quick)[0] == 200)
        finally:
            hold.let_go()


@conforms("TensorFlow at work", "status is answered meanwhile: the event loop is never held up")
def test_status_is_answered_while_tensorflow_works(tmp_path):
    save_toy(tmp_path, 1)
    with serving(str(tmp_path), port=0) as server:
        holds = [Hold(tmp_path, f"hold{number}") for number in range(3)]
        threads = [threading.Thread(target=predict, args=(server, hold.body)) for hold in holds]
        for thread in threads:
            thread.start()
        try:
            wait_until(lambda: any(hold.has_begun() for hold in holds))  # TensorFlow runs as many as it has threads
            assert call(server, "GET", "/v1/models/toy")[0] == 200
            assert all(thread.is_alive() for thread in threads)
        finally:
            for hold in holds:
                hold.let_go()
            for thread in threads:
                thread.join()


@conforms("--rest_api_enable_cors_support", "CORS headers, and OPTIONS answered; without it neither")
def test_cors(tmp_path):
    import http.client

    save_answer(tmp_path, 1)
    for cors, expected in ((True, "*"), (False, None)):
        with serving(str(tmp_path), rest_api_enable_cors_support=cors, port=0) as server:
            connection = http.client.HTTPConnection("127.0.0.1", server.rest_port)
            connection.request("OPTIONS", "/v1/models/toy:predict")
            response = connection.getresponse()
            response.read()
            assert (response.status, response.getheader("Access-Control-Allow-Origin")) == (
                200 if cors else 400,
                expected,
            )
            connection.request("GET", "/v1/models/toy")
            assert connection.getresponse().getheader("Access-Control-Allow-Origin") == expected
            connection.close()


@pytest.mark.parametrize(
    "thread",
    [
        "main",
        pytest.param("another", marks=pytest.mark.skipif(not os.path.isdir("/proc/self/task"), reason="no /proc")),
    ],
)
@conforms("SIGTERM", "requests in flight are finished, then the process ends with status 0")
def test_sigterm_finishes_requests(tmp_path, thread):
    """Whichever thread of the process the system gives the signal to."""
    save_toy(tmp_path, 1)
    hold, (rest, grpc_port) = Hold(tmp_path), free_ports(2)
    flags = ("--model_name=toy", f"--model_base_path={tmp_path}", "--shutdown_grace_seconds=600")
    process = _start(*flags, f"--rest_api_port={rest}", f"--port={grpc_port}", "--explorer")
    server = types.SimpleNamespace(rest_port=rest)

    def is_up() -> bool:
        assert process.poll() is None, process.stdout.read()
        try:
            return call(server, "GET", "/v1/models/toy")[0] == 200
        except OSError:
            return False

    try:
        wait_until(is_up)
        answers, path = [], "/v1/models/toy:predict"
        thread = threading.Thread(target=lambda: answers.append(call(server, "POST", path, hold.body)))
        thread.start()
        wait_until(hold.has_begun)
        threads = [process.pid] if thread == "main" else map(int, os.listdir(f"/proc/{process.pid}/task"))
        os.kill(max(threads), signal.SIGTERM)
        said = list(itertools.takewhile(lambda line: not line.startswith("stopping"), process.stdout))
        hold.let_go()
        thread.join()
        output = "".join([*said, "stopping", process.communicate(timeout=300)[0]])
    finally:
        hold.let_go()
        process.kill()
        process.communicate()
    assert process.returncode == 0, output
    assert [status for status, _ in answers] == [200]
    lines = "version 1: loading", "version 1 is loaded", f"explorer page: http://127.0.0.1:{rest}/explorer/", "stopping"
    assert (places := [output.index(line) for line in lines]) == sorted(places)
    assert "Traceback" not in output and "deprecated" not in output


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ((), "nothing to serve; give --model_base_path"),
        (("--model_base_path=/m", "--port=0"), "leave nothing to serve on"),
        (
            ("--model_base_path=/m", "--port=8501", "--rest_api_port=8501"),
            "--rest_api_port cannot be same as --port, here 8501",
        ),
        (("--model_config_file=/none/models.config",), "--model_config_file=/none/models.config: No such file"),
    ],
)
@conforms("wrong flags", "one line on stderr and exit status 2")
def test_wrong_flags(flags, message):
    done = subprocess.run(
        [sys.executable, "-m", "longretriever_tf.serve", *flags], cwd=ROOT, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1 and message in done.stderr


@conforms("a port that is taken", "an error that names port and flag, not a second server on the same port")
def test_ports_are_not_shared(tmp_path):
    save_answer(tmp_path, 1)
    with serving(str(tmp_path)) as server:
        with pytest.raises(UserError, match=rf"cannot listen on 127.0.0.1:{server.rest_port} for REST"):
            serving(str(tmp_path), rest_api_port=server.rest_port, port=0).__enter__()
        with pytest.raises(UserError, match=rf"cannot listen on 127.0.0.1:{server.grpc_port} for gRPC"):
            serving(str(tmp_path), port=server.grpc_port, rest_api_port=0).__enter__()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('config { name: "a" base_path: "rel" }', "model a: base_path must be absolute; received 'rel'"),
        ('config { base_path: "/m" }', "has no name"),
        ('config { name: "a" base_path: "/m" } config { name: "a" base_path: "/n" }', "model a is listed twice"),
        ('config { nane: "a" }', "is no ModelServerConfig in text form"),
        ("", "lists no model"),
    ],
)
@conforms("models.config that is wrong", "refused at startup, naming the model and the field")
def test_wrong_models_config(tmp_path, text, message):
    path = tmp_path / "models.config"
    path.write_text(f"model_config_list {{ {text} }}")
    with pytest.raises(UserError, match=message):
        config_files.read_models(str(path))


def _assert_close(first: dict, second: dict) -> None:
    """Equal but for the last digits of decimals: a batch of two is summed in another order than a batch of one."""
    assert first.keys() == second.keys()
    for name, value in first.items():
        one, other = np.array(value), np.array(second[name])
        if one.dtype.kind == "f":
            np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)
        else:
            assert value == second[name], name


def _all_inputs(server, row: dict) -> dict:
    """The row with the signature's defaults for what it leaves out: REST wants every input."""
    with server.manager.servable("toy") as model:
        defaults = model.signatures["serving_default"].defaults
    text = {name: np.char.decode(array.astype(bytes)) for name, array in defaults.items() if array.dtype == object}
    filled = {name: array.tolist()[0] for name, array in (defaults | text).items()}
    return filled | row


@pytest.mark.slow
@conforms("an exported retriever", "rows, columns and gRPC agree; the same seed gives the same list")
def test_exported_retriever(trained):
    import tensorflow as tf
    from serving_clients import stubs
    from tensorflow_serving.apis import predict_pb2

    row = {
        "history_item_id": [100, 101, 102, 103, 108],
        "history_timestamp": [1_600_000_000 + 86_400 * day for day in range(5)],
        "request_timestamp": 1_600_000_000 + 86_400 * 130,
        "taste": "b1",
        "k": 5,
        "num_interests": 2,
        "top_interests": 3,
        "seed": 7,
    }
    with serving(os.path.abspath(trained.export_dir), warm=False, rest_api_num_threads=4) as server:
        row = _all_inputs(server, row)
        by_row = predict(server, {"instances": [row, row]})["predictions"]
        by_column = predict(server, {"inputs": {name: [value] for name, value in row.items()}})["outputs"]
        assert len(by_row[0]["item_id"]) == 5
        _assert_close(by_row[0], by_row[1])
        _assert_close(by_row[0], {name: column[0] for name, column in by_column.items()})
        request = predict_pb2.PredictRequest()
        request.model_spec.name = "toy"
        with server.manager.servable("toy") as model:
            inputs = model.signatures["serving_default"].inputs
        for name, value in row.items():
            request.inputs[name].CopyFrom(tf.make_tensor_proto([value], inputs[name].dtype))
        with stubs(server) as (prediction, _):
            outputs = prediction.Predict(request, timeout=300).outputs
        assert tf.make_ndarray(outputs["item_id"])[0].tolist() == by_row[0]["item_id"]
        after = row["request_timestamp"] + 9
        odd = row | {"history_timestamp": [1, 0, after, 2, after]}  # in 1970, padding, and after the request
        assert json.dumps(predict(server, {"instances": [odd]}), allow_nan=False)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's settings")
def test_glibc_takes_the_memory_settings():
    """In a child process: they are for good."""
    module = "longretriever_tf.serving.server.memory"
    code = f"import sys; from {module} import keep_freed_memory; sys.exit(not keep_freed_memory())"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


def test_the_table_is_what_the_tests_say():
    text = serving_conformance.render()
    assert len({row.test for row in serving_conformance.ROWS}) >= 40
    assert serving_conformance.TABLE.read_text(encoding="utf-8") == text, "run: python tests/serving_conformance.py"
