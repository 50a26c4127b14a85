"""The server against hostile and careless callers: sizes, encodings, hosts, slow peers, endless work; what it keeps."""

import contextlib
import gc
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import weakref

import grpc
import pytest
from serving_clients import call, error_of, predict, serving, states, stubs, wait_until
from tensorflow_serving.apis import get_model_status_pb2, predict_pb2
from toy_models import Hold, save_answer, save_toy
from trained import ROOT, command

from longretriever_tf.common.errors import UserError
from longretriever_tf.serving.server import config_files, manager, memory, options, quiet_log
from longretriever_tf.serving.server.origins import OriginRules
from longretriever_tf.serving.server.status import ServingError

pytestmark = pytest.mark.serving
SLOW = {"signature_name": "slow", "instances": [10**9]}
HISTORY = {"history_item_id": [100, 101], "history_timestamp": [1_600_000_000, 1_600_086_400]}
NOW = 1_600_000_000 + 86_400 * 130
PREDICT = "/tensorflow.serving.PredictionService/Predict"


@pytest.fixture(scope="module")
def retriever(trained):
    """The trained export behind narrow limits."""
    config = config_files.one_model("toy", os.path.abspath(trained.export_dir))
    limits = {
        "max_rows": 20,
        "max_request_candidates": 2000,
        "max_reply_values": 800,
        "max_request_values": 40_000,
        "max_body_mb": 1,
    }
    options = {"rest_api_num_threads": 2, "rest_api_enable_cors_support": True}
    with serving(config, explorer=True, warm=False, **limits, **options) as server:
        yield server


def _raw_call(server, data: bytes, method: str = PREDICT, **options) -> tuple[grpc.StatusCode, str]:
    with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
        with pytest.raises(grpc.RpcError) as caught:
            channel.unary_unary(method)(data, timeout=30, **options)
    return caught.value.code(), caught.value.details()


def _asked(signature: str, name: str, **tensor) -> predict_pb2.PredictRequest:
    request = predict_pb2.PredictRequest()
    request.model_spec.name, request.model_spec.signature_name = "toy", signature
    proto = request.inputs[name]
    for size in tensor.pop("dims"):
        proto.tensor_shape.dim.add(size=size)
    for field, value in tensor.items():
        if isinstance(value, list):
            getattr(proto, field).extend(value)
        else:
            setattr(proto, field, value)
    return request


@pytest.mark.parametrize(
    ("signature", "name", "tensor", "words"),
    [
        ("half_plus_two", "x", {"dtype": 1, "dims": [1, 300_000_000], "float_val": [1.0]}, "--max_request_values"),
        ("half_plus_two", "x", {"dtype": 1, "dims": [2**40, 2**40], "float_val": [1.0]}, "--max_request_values"),
        ("half_plus_two", "x", {"dtype": 1, "dims": [0, 2**62]}, "--max_request_values"),
        ("half_plus_two", "x", {"dtype": 1, "dims": [-1], "float_val": [1.0]}, "must be 0 or more"),
        ("half_plus_two", "x", {"dtype": 1, "dims": [1] * 70, "float_val": [1.0]}, "70 dimensions"),
        ("half_plus_two", "x", {"dtype": 99, "dims": [1], "float_val": [1.0]}, "tensor parsing error: x"),
        ("half_plus_two", "x", {"dtype": 0, "dims": [1]}, "tensor parsing error: x"),
        ("half_plus_two", "x", {"dtype": 14, "dims": [1], "half_val": [1]}, "must be float32; received"),
        ("half_plus_two", "x", {"dtype": 1, "dims": [2], "float_val": [1.0] * 5}, "tensor parsing error: x"),
        ("small", "x", {"dtype": 4, "dims": [1], "int_val": [70_000]}, "tensor parsing error: x"),
        ("echo", "s", {"dtype": 7, "dims": [1000, 1000], "string_val": [b"a" * 1000]}, "--max_body_mb"),
        ("echo", "s", {"dtype": 7, "dims": [3], "tensor_content": b"abc"}, "tensor parsing error: s"),
    ],
)
def test_a_declared_tensor_is_refused_before_it_is_made(toy_server, signature, name, tensor, words):
    with stubs(toy_server) as (prediction, _), pytest.raises(grpc.RpcError) as caught:
        prediction.Predict(_asked(signature, name, **tensor), timeout=30)
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert words in caught.value.details()


def test_a_tensor_of_unknown_rank(toy_server):
    request = _asked("half_plus_two", "x", dtype=1, dims=[], float_val=[1.0])
    request.inputs["x"].tensor_shape.unknown_rank = True
    assert "unknown rank" in _raw_call(toy_server, request.SerializeToString())[1]


def _rows(num: int = 1, **request_options) -> dict:
    rows = {name: [value] * num for name, value in HISTORY.items()} | {"request_timestamp": [NOW] * num}
    defaults = {
        "taste": "",
        "k": 5,
        "num_interests": 2,
        "top_interests": 3,
        "seed": 7,
        "exploration": 0,
        "merge": "calibrated",
        "goal": "all",
        "history_weight": [1.0],
        "exclude_item_id": [],
        "allowed_category": [],
        "forbidden_category": [],
        "forced_category": [],
        "forced_weight": [],
        "bandit": "none",
        "bandit_prior": 20.0,
        "reward_category": [],
        "reward_trials": [],
        "reward_successes": [],
    }
    return {"inputs": rows | {name: [value] * num for name, value in defaults.items()} | request_options}


def _reward(category: str, trials: float, successes: float) -> dict:
    return _rows(1, reward_category=[[category]], reward_trials=[[trials]], reward_successes=[[successes]])


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (_rows(21), "takes at most 20 (--max_rows)"),
        (_rows(20, k=[100] * 20, num_interests=[5] * 20), "20 rows x 5 interests x (`k` 100 + 0 excluded items)"),
        (_rows(5, exclude_item_id=[list(range(900))] * 5), "(--max_request_candidates)"),
        (_rows(1, forbidden_category=[["c1"] * 900]), "name each category once"),
        (_rows(1, forced_category=[["c1"] * 900], forced_weight=[[1.0] * 900]), "(--max_request_candidates)"),
        ({"signature_name": "item_embeddings", "inputs": {"item_id": [100] * 60}}, "(--max_reply_values)"),
        ({"inputs": {"x": [0] * 50_000}}, "takes at most 40000 (--max_request_values)"),
        ({"inputs": [[]] * 25_000}, "takes at most 40000 (--max_request_values)"),
        (_rows(3, request_timestamp=[NOW] * 2), "`request_timestamp` has 2, "),
        (_rows(3, history_item_id=[[100, 101]]), "`history_item_id` has 1"),
        (_rows(2, k=[5] * 3), "`k` has 3"),
        (_rows(2, goal=[{"b64": "//79"}] * 2), "which is not UTF-8"),
        (_rows(1, taste=[{"b64": "//79"}]), "input `taste` holds b'\\xff\\xfe\\xfd', which is not UTF-8"),
        (_rows(1, bandit=["ucb"]), "`bandit` must be one of none, thompson; got] [ucb]"),
        (_rows(1, bandit_prior=[0.0], bandit=["thompson"]), "`bandit_prior` must be a number from 0.001"),
        (_reward("c1", 3, 5), "`reward_successes` must be numbers from 0 to the `reward_trials`"),
        (_reward("c1", 3, -1), "`reward_successes` must be numbers from 0"),
        (_reward("c1", -3, -3), "`reward_trials` must be numbers from 0 to 1e+09; got] [-3]"),
        (_reward("", 3, 1), "name the category of] [3]"),
        (_rows(1, reward_trials=[[3.0]]), "`reward_successes` must be of one length; got] [0 1 0]"),
        (_rows(1, forbidden_category=[["tea", {"b64": "7aCA"}]]), "input `forbidden_category` holds"),
    ],
)
def test_what_would_take_too_much_or_fits_nothing_is_refused_with_the_limits_name(retriever, body, words):
    status, message = error_of(retriever, body)
    assert status == 400 and words in message, message
    assert "segment" not in message


def test_requests_within_the_limits_are_answered(retriever):
    assert len(predict(retriever, _rows(20))["outputs"]["item_id"]) == 20
    many = predict(retriever, _rows(1, num_interests=[2**31 - 1], k=[2]))  # as many as there are categories
    assert many["outputs"]["num_valid"] == [2]
    assert predict(retriever, _rows(2, k=[5], merge=["raw"]))["outputs"]["num_valid"] == [5, 5]  # one for all


@pytest.mark.parametrize("depth", [33, 64, 65, 66, 200, 900, 1100, 5000])
def test_any_nesting_is_refused_in_plain_words(retriever, depth):
    lists = b"[" * depth + b"1" + b"]" * depth
    for body in (
        b'{"instances": %s}' % lists,
        b'{"inputs": {"k": %s}}' % lists,
        b'{"signature_name": %s}' % lists,
        lists,
    ):
        status, message = error_of(retriever, body)
        assert status == 400 and "Error" not in message, message
    status, reply = call(retriever, "POST", "/explorer/models/toy/names", b'{"item_id": %s}' % lists)
    assert status == 400 and b"Recursion" not in reply


@pytest.mark.parametrize(
    "body",
    [
        b'{"item_id": 5}',
        b'{"item_id": [null]}',
        b'{"item_id": [{}]}',
        b"5",
        b"",
        b"\xff",
        b'{"item_id": ["\\ud800"]}',
        b'{"x": 1}',
    ],
)
def test_names_of_the_explorer_take_a_list_of_ids_alone(retriever, body):
    status, reply = call(retriever, "POST", "/explorer/models/toy/names", body)
    assert status == 400 and b"Error" not in reply
    json.loads(reply)


@pytest.mark.parametrize(
    "path",
    [
        "/v1/models/%ff:predict",
        "/v1/models/%ed%a0%80:predict",
        "/v1/models/%zz",
        "/v1/models/toy/versions/" + "0" * 5000 + "9",
        "/v1/models/toy/versions/" + "9" * 5000,
        "/v1/models/toy/labels/%ff:predict",
    ],
)
def test_odd_paths_are_answered_with_json(toy_server, path):
    status, reply = call(toy_server, "GET" if ":" not in path else "POST", path, b'{"instances": [1]}')
    assert status in (400, 404)
    assert json.loads(reply)["error"]


def test_bytes_that_are_no_message(toy_server):
    for method in ("PredictionService/Predict", "PredictionService/GetModelMetadata", "ModelService/GetModelStatus"):
        code, message = _raw_call(toy_server, b"\xff" * 9, f"/tensorflow.serving.{method}")
        assert code == grpc.StatusCode.INVALID_ARGUMENT and "cannot be parsed" in message
    assert (
        _raw_call(toy_server, b"", "/tensorflow.serving.PredictionService/Nothing")[0] == grpc.StatusCode.UNIMPLEMENTED
    )


def test_gzip_bombs_are_unpacked_no_further_than_a_body_may_be(retriever):
    import gzip

    bomb = gzip.compress(b" " * (64 << 20), 9)
    assert len(bomb) < 100_000
    status, reply = call(retriever, "POST", "/v1/models/toy:predict", bomb, {"Content-Encoding": "gzip"})
    assert status == 413 and b"--max_body_mb" in reply
    for junk in (b"no gzip", gzip.compress(b"{}")[:-4]):
        assert call(retriever, "POST", "/v1/models/toy:predict", junk, {"Content-Encoding": "gzip"})[0] == 400


def test_work_that_timed_out_is_stopped_and_health_never_waits_for_it(tmp_path):
    save_toy(tmp_path, 1)
    path = config_files.PROMETHEUS_PATH
    with serving(str(tmp_path), rest_api_timeout_in_ms=1500, rest_api_num_threads=1, metrics=True) as server:
        asked = [threading.Thread(target=error_of, args=(server, SLOW)) for _ in range(3)]
        for thread in asked:
            thread.start()
        for page in ("/v1/models/toy", "/v1/models/toy/metadata", path):
            assert call(server, "GET", page)[0] == 200
        with stubs(server) as (_, models):
            request = get_model_status_pb2.GetModelStatusRequest()
            request.model_spec.name = "toy"
            assert models.GetModelStatus(request, timeout=30).model_version_status[0].version == 1
        assert any(thread.is_alive() for thread in asked)  # none of these waited for the model
        for thread in asked:
            thread.join()
        # The only worker is free again, though its work would have taken days.
        assert predict(server, SLOW | {"instances": [0]})["predictions"][0]["version"] == 1


def test_a_request_whose_caller_has_gone_is_not_begun(tmp_path):
    save_toy(tmp_path, 1)
    path = config_files.PROMETHEUS_PATH
    with serving(str(tmp_path), rest_api_timeout_in_ms=2000, rest_api_num_threads=1, metrics=True) as server:
        first = threading.Thread(target=error_of, args=(server, SLOW))
        first.start()
        time.sleep(0.3)
        body = json.dumps(SLOW).encode()
        head = f"POST /v1/models/toy:predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
        for _ in range(5):
            with socket.create_connection(("127.0.0.1", server.rest_port)) as sock:
                sock.sendall(head.encode() + body)
                time.sleep(0.05)
        quick = SLOW | {"instances": [0]}
        wait_until(lambda: call(server, "POST", "/v1/models/toy:predict", quick)[0] == 200)
        first.join()
        page = call(server, "GET", path)[1].decode()
    counts = {
        line.rsplit(" ", 1)[0]: int(line.rsplit(" ", 1)[1]) for line in page.splitlines() if "request_count{" in line
    }
    ended = {name.rpartition("status=")[2].strip('"}'): count for name, count in counts.items()}
    assert ended == {"OK": 1, "DEADLINE_EXCEEDED": 1}  # the five were never begun


def test_a_grpc_request_whose_caller_has_gone_is_not_begun(tmp_path):
    save_toy(tmp_path, 1)
    hold = Hold(tmp_path)
    held = _asked("held", "path", dtype=7, dims=[1], string_val=[hold.path.encode()])
    quick = _asked("half_plus_two", "x", dtype=1, dims=[1], float_val=[1.0])
    with serving(str(tmp_path), rest_api_num_threads=1, metrics=True) as server, stubs(server) as (prediction, _):
        busy = prediction.Predict.future(held, timeout=300)
        try:
            wait_until(hold.has_begun)  # on the only worker
            for _ in range(3):
                with pytest.raises(grpc.RpcError):
                    prediction.Predict(quick, timeout=0.1)
        finally:
            hold.let_go()
        busy.result()
        prediction.Predict(quick, timeout=300)
        page = call(server, "GET", config_files.PROMETHEUS_PATH)[1].decode()
    assert [line[-5:] for line in page.splitlines() if "request_count{" in line] == ['K"} 2']


def test_sigterm_ends_the_process_whatever_runs(tmp_path):
    save_toy(tmp_path, 1)
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    flags = ["--model_name=toy", f"--model_base_path={tmp_path}", f"--rest_api_port={port}", "--port=0"]
    flags += ["--rest_api_timeout_in_ms=0", "--shutdown_grace_seconds=0.5"]
    process = subprocess.Popen(
        command("serve", *flags), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        server = type("Server", (), {"rest_port": port})

        def is_up() -> bool:
            assert process.poll() is None, process.stdout.read()
            with contextlib.suppress(OSError):
                return call(server, "GET", "/v1/models/toy")[0] == 200
            return False

        wait_until(is_up, 120)
        body = json.dumps(SLOW).encode()
        head = f"POST /v1/models/toy:predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
        with socket.create_connection(("127.0.0.1", port)) as sock:
            sock.sendall(head.encode() + body)
            time.sleep(0.5)
            process.send_signal(signal.SIGTERM)
            output, _ = process.communicate(timeout=60)
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == 0, output
    assert "is given up" in output and "Traceback" not in output


def _read_all(sock: socket.socket) -> bytes:
    data = b""
    sock.settimeout(30)
    with contextlib.suppress(ConnectionError):
        while more := sock.recv(65536):
            data += more
    return data


@pytest.mark.parametrize(
    ("sent", "what"),
    [
        (b"", "header"),
        (b"POST /v1/models/toy:predict HT", "header"),
        (b"GET /v1/models/toy HTTP/1.1\r\nHost: localhost\r\nX: ", "header"),
        (b"POST /v1/models/toy:predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99\r\n\r\n{", "body"),
        (
            b"POST /v1/models/toy:predict HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n9\r\n{",
            "body",
        ),
    ],
)
def test_half_a_request_is_closed_after_the_read_timeout(tmp_path, sent, what):
    save_answer(tmp_path, 1)
    with serving(str(tmp_path), port=0, rest_api_read_timeout_seconds=0.4) as server:
        with socket.create_connection(("127.0.0.1", server.rest_port)) as sock:
            sock.sendall(sent)
            answer = _read_all(sock)  # until the server hangs up
        if what == "header":
            assert answer == b""
        else:
            words = b"the request's body did not come within 0.4 s per MiB (--rest_api_read_timeout_seconds)"
            assert answer.startswith(b"HTTP/1.1 408 ") and words in answer
        assert predict(server, {"instances": [1.0]})  # it goes on


@pytest.mark.parametrize("more", [b"", b"GET /v1/mo"])
def test_a_connection_that_asks_nothing_more_is_closed(tmp_path, more):
    save_answer(tmp_path, 1)
    with serving(str(tmp_path), port=0, rest_api_read_timeout_seconds=0.1) as server:
        with socket.create_connection(("127.0.0.1", server.rest_port)) as sock:
            sock.sendall(b"GET /v1/models/toy HTTP/1.1\r\nHost: localhost\r\n\r\n" + more)
            assert _read_all(sock).startswith(b"HTTP/1.1 200 OK")  # and the server hangs up


def test_a_caller_that_does_not_read_its_answer_is_left(tmp_path):
    save_toy(tmp_path, 1)
    body = json.dumps({"signature_name": "half_plus_two", "inputs": [0.1] * 900_000}).encode()
    head = f"POST /v1/models/toy:predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
    with serving(str(tmp_path), port=0, rest_api_read_timeout_seconds=1.0) as server:
        with socket.socket() as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            sock.connect(("127.0.0.1", server.rest_port))
            sock.sendall(head.encode() + body)
            wait_until(lambda: _is_reset(sock))


def _is_reset(sock: socket.socket) -> bool:
    try:
        sock.send(b"G")
    except OSError:
        return True
    return False


def test_connections_beyond_the_limit_are_told_so(tmp_path):
    save_answer(tmp_path, 1)
    with serving(str(tmp_path), port=0, max_connections=2) as server:
        address = ("127.0.0.1", server.rest_port)
        with socket.create_connection(address) as first, socket.create_connection(address) as second:
            for sock in (first, second):
                sock.sendall(b"GET /v1/models/toy HTTP/1.1\r\nHost: localhost\r\n\r\n")
                assert sock.recv(100).startswith(b"HTTP/1.1 200")
            with socket.create_connection(address) as third:
                assert b"HTTP/1.1 503" in (answer := _read_all(third)) and b"--max_connections" in answer

        def is_free() -> bool:
            return call(server, "GET", "/v1/models/toy")[0] == 200

        wait_until(is_free)


def test_connections_leave_file_descriptors_for_other_things(monkeypatch):
    monkeypatch.setattr(options.resource, "getrlimit", lambda _: (264, 264))
    limits = {wanted: options.ServerOptions(max_connections=wanted).connection_limit for wanted in (1024, 50, 0)}
    assert limits == {1024: 100, 50: 50, 0: 100}


def test_the_log_is_not_flooded():
    import logging

    logger, lines = logging.getLogger("flood"), []
    logger.addFilter(quiet_log.FewLines(every_s=1000.0))
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage() + str(record.exc_info))
    logger.addHandler(handler)
    for number in range(1000):
        try:
            raise OSError(24, "Too many open files")
        except OSError as error:
            quiet_log.log_loop_error(logger, {"message": "socket.accept() out of system resource", "exception": error})
            logger.exception("Error handling request from %s", number)
    assert lines == [
        "socket.accept() out of system resource: OSError: [Errno 24] Too many open filesNone",
        "Error handling request from 0: OSError: [Errno 24] Too many open filesNone",
    ]


def test_what_is_no_version_blinds_nobody(tmp_path):
    save_answer(tmp_path, 1)
    (tmp_path / "3").symlink_to(tmp_path / "3")
    (tmp_path / "4").symlink_to(tmp_path / "nowhere")
    (tmp_path / "5").write_text("a file")
    (tmp_path / ("9" * 30)).mkdir()
    os.mkfifo(tmp_path / "6")
    assert set(manager.find_versions(str(tmp_path))) == {1}
    with serving(str(tmp_path), port=0) as server:
        save_answer(tmp_path, 2)
        wait_until(lambda: states(server).get(2) == "AVAILABLE")


ALLOWED = OriginRules("127.0.0.1")
OPEN = OriginRules("0.0.0.0", ["shop.example"])
CORS = OriginRules("127.0.0.1", cors=True)
USERS, PREDICTS, PAGE = "/explorer/models/m/users.json", "/v1/models/m:predict", "/explorer/"


@pytest.mark.parametrize(
    ("rules", "method", "path", "headers", "words"),
    [
        (ALLOWED, "GET", USERS, {"Host": "localhost:8501"}, ""),
        (ALLOWED, "GET", USERS, {"Host": "LOCALHOST"}, ""),
        (ALLOWED, "GET", USERS, {"Host": "127.0.0.1:8501"}, ""),
        (ALLOWED, "GET", USERS, {"Host": "[::1]:8501"}, ""),
        (ALLOWED, "GET", USERS, {"Host": "rebound.example:8501"}, "--allowed_hosts=rebound.example"),
        (ALLOWED, "GET", PAGE, {"Host": "rebound.example"}, "--allowed_hosts"),
        (ALLOWED, "GET", USERS, {"Host": "localhost.rebound.example"}, "--allowed_hosts"),
        (ALLOWED, "GET", USERS, {"Host": "10.0.0.7"}, "--allowed_hosts"),
        (ALLOWED, "GET", USERS, {"Host": "[::1"}, "--allowed_hosts"),
        (ALLOWED, "GET", USERS, {}, "--allowed_hosts"),
        (ALLOWED, "POST", PREDICTS, {"Host": "rebound.example"}, "--allowed_hosts"),
        (ALLOWED, "GET", USERS, {"Host": "localhost", "Origin": "http://localhost"}, ""),
        (ALLOWED, "GET", USERS, {"Host": "localhost", "Origin": "http://other.example"}, "its own page alone"),
        (ALLOWED, "GET", USERS, {"Host": "localhost:8501", "Origin": "http://localhost:3000"}, "its own page alone"),
        (ALLOWED, "GET", USERS, {"Host": "localhost", "Origin": "null"}, "its own page alone"),
        (ALLOWED, "GET", USERS, {"Host": "localhost", "Sec-Fetch-Site": "cross-site"}, "its own page alone"),
        (ALLOWED, "GET", USERS, {"Host": "localhost", "Sec-Fetch-Site": "same-origin"}, ""),
        (ALLOWED, "GET", PAGE, {"Host": "localhost", "Sec-Fetch-Site": "cross-site"}, ""),  # a link to the page
        (ALLOWED, "POST", PREDICTS, {"Host": "localhost", "Origin": "http://other.example"}, "cors_support"),
        (ALLOWED, "POST", PREDICTS, {"Host": "localhost", "Sec-Fetch-Site": "cross-site"}, "cors_support"),
        (ALLOWED, "POST", PREDICTS, {"Host": "localhost"}, ""),
        (CORS, "POST", PREDICTS, {"Host": "localhost", "Origin": "http://other.example"}, ""),
        (CORS, "GET", USERS, {"Host": "localhost", "Origin": "http://other.example"}, "its own page alone"),
        (OPEN, "GET", USERS, {"Host": "shop.example"}, ""),
        (OPEN, "GET", USERS, {"Host": "10.0.0.7:8501"}, ""),  # a rebinding attack needs a name
        (OPEN, "GET", USERS, {"Host": "rebound.example"}, "--allowed_hosts"),
        (OPEN, "POST", PREDICTS, {"Host": "retriever.default.svc:8501"}, ""),
    ],
)
def test_hosts_and_origins(rules, method, path, headers, words):
    if words:
        with pytest.raises(ServingError, match="PERMISSION_DENIED") as caught:
            rules.check(method, path, headers)
        assert words in caught.value.message
    else:
        rules.check(method, path, headers)


def test_histories_are_shown_to_the_explorers_own_page_alone(retriever):
    """Though the server lets pages of other origins call its API."""
    import http.client

    assert call(retriever, "GET", "/explorer/models/toy/users.json")[0] == 200
    for headers in ({"Host": "rebound.example"}, {"Origin": "http://other.example"}, {"Sec-Fetch-Site": "cross-site"}):
        status, reply = call(retriever, "GET", "/explorer/models/toy/users.json", headers=headers)
        assert status == 403 and b"item_id" not in reply
    for path, allowed in (("/explorer/models/toy/users.json", None), ("/v1/models/toy", "*")):
        connection = http.client.HTTPConnection("127.0.0.1", retriever.rest_port)
        connection.request("GET", path)
        assert connection.getresponse().getheader("Access-Control-Allow-Origin") == allowed
        connection.close()


def test_a_taken_port_is_found_before_anything_is_loaded(tmp_path):
    """The base path holds no version: a server that looked for one first would wait for it for ever."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        sock.listen()
        port = sock.getsockname()[1]
        for name, flag in (("rest_api_port", "--rest_api_port"), ("port", "--port")):
            with pytest.raises(UserError, match=rf"cannot listen on 127.0.0.1:{port} for .*{flag}"):
                serving(str(tmp_path), **{name: port}).__enter__()


def test_nothing_of_an_unloaded_version_stays(tmp_path):
    """Its graph refers to itself, so that it goes only if someone looks for garbage."""
    save_answer(tmp_path, 1)
    with serving(str(tmp_path), port=0) as server:
        left = []
        for version in range(2, 5):
            predict(server, {"instances": [1.0]})
            with server.manager.servable("toy") as model:
                left += [weakref.ref(model), weakref.ref(model._session), weakref.ref(model._session.graph)]
            del model
            save_answer(tmp_path, version)
            wait_until(lambda version=version: states(server).get(version) == "AVAILABLE")
        gc.disable()  # not by chance
        try:
            wait_until(lambda: all(reference() is None for reference in left))
        finally:
            gc.enable()


def test_freed_memory_is_given_back_again_and_again(monkeypatch):
    given_back = threading.Semaphore(0)
    monkeypatch.setattr(memory, "give_back_freed_memory", given_back.release)
    keeper = memory.MemoryKeeper(look_s=0.01)
    try:
        assert all(given_back.acquire(timeout=30) for _ in range(3))
    finally:
        keeper.close()


def test_what_was_closed_is_looked_for_until_it_is_gone(monkeypatch):
    """The thread that closes a model still holds it when it says so."""
    closed = toy = type("Toy", (), {})()
    closed.itself = closed
    looked = threading.Event()
    collect = gc.collect
    monkeypatch.setattr(memory.gc, "collect", lambda: (collect(), looked.set()))
    left = weakref.ref(toy)
    keeper = memory.MemoryKeeper(look_s=1.0)
    gc.disable()  # not by chance
    try:
        keeper.note_closed(toy)
        assert looked.wait(60) and left() is not None
        del toy, closed
        wait_until(lambda: left() is None)
    finally:
        gc.enable()
        keeper.close()


@pytest.mark.slow
def test_a_short_fuzz_finds_nothing(trained):
    flags = [f"--export_dir={trained.export_dir}", "--requests=600", "--parallel=1", "--settle_s=45", "--seed=3"]
    done = subprocess.run(
        [sys.executable, "benchmarks/fuzz_server.py", *flags], cwd=ROOT, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert "600 requests" in done.stdout and "nothing found" in done.stdout
