"""The client: columns by hand, retries against a server that misbehaves on purpose, both transports against ours."""

import contextlib
import dataclasses
import http.server
import json
import os
import subprocess
import sys
import threading

import numpy as np
import pytest
from serving_clients import serving
from trained import ROOT

from longretriever_tf.common.errors import UserError
from longretriever_tf.common.schema import DAY_S
from longretriever_tf.serving.client import client as client_lib
from longretriever_tf.serving.client.client import CallError, Client, ClientOptions, Model
from longretriever_tf.serving.client.input_spec import InputSpec
from longretriever_tf.serving.client.request import Request, make_columns
from longretriever_tf.serving.client.response import Candidate, Interest, read_responses
from longretriever_tf.serving.client.rest_transport import read_metadata

NOW = 1_600_000_000 + 130 * DAY_S
INPUTS = {
    "history_item_id": InputSpec("DT_INT64"),
    "history_timestamp": InputSpec("DT_INT64"),
    "request_timestamp": InputSpec("DT_INT64"),
    "taste": InputSpec("DT_STRING"),
    "k": InputSpec("DT_INT32", np.array([100], np.int32)),
    "num_interests": InputSpec("DT_INT32", np.array([5], np.int32)),
    "seed": InputSpec("DT_INT64"),
    "merge": InputSpec("DT_STRING", np.array([b"calibrated"], object)),
    "history_weight": InputSpec("DT_FLOAT", np.array([[1.0]], np.float32)),
    "exclude_item_id": InputSpec("DT_INT64", np.zeros([1, 0], np.int64)),
    "forbidden_category": InputSpec("DT_STRING", np.zeros([1, 0], object)),
    "forced_category": InputSpec("DT_STRING"),
    "forced_weight": InputSpec("DT_FLOAT"),
}
SHORT = Request([7], [50], 99, exclude_item_id=[7, 0], seed=4)
LONG = Request([1, 2, 3], [10, 20, 30], 98, {"taste": "b1"}, k=9, forced_category={"tea": 2.0}, merge="raw")


def test_columns_of_two_users_by_hand():
    columns = make_columns([SHORT, LONG], INPUTS)
    none = -3_867_590_412_748_930_227  # an id that no log has: 0, -1 and the limits of int64 may be items
    assert {name: column.tolist() for name, column in columns.items()} == {
        "history_item_id": [[7, 0, 0], [1, 2, 3]],
        "history_timestamp": [[50, 0, 0], [10, 20, 30]],  # 0 is padding
        "request_timestamp": [99, 98],
        "taste": ["", "b1"],
        "k": [100, 9],
        "num_interests": [5, 5],
        "seed": [4, -1],
        "merge": ["calibrated", "raw"],
        "history_weight": [[1.0], [1.0]],
        "exclude_item_id": [[7, 0], [none, none]],  # 0 may be an item
        "forbidden_category": [[], []],
        "forced_category": [[""], ["tea"]],
        "forced_weight": [[0.0], [2.0]],
    }
    kinds = {"DT_INT64": "int64", "DT_INT32": "int32", "DT_FLOAT": "float32"}
    for name, column in columns.items():
        assert column.dtype.kind == "O" or column.dtype.name == kinds[INPUTS[name].dtype]


def test_a_threshold_is_sent_where_the_export_knows_it_and_refused_where_not():
    now = INPUTS | {"interest_threshold": InputSpec("DT_FLOAT", np.array([-7.5], np.float32))}
    asked = dataclasses.replace(SHORT, num_interests=0, interest_threshold=np.float64(-9))
    columns = make_columns([asked, LONG], now)
    assert columns["interest_threshold"].tolist() == [-9.0, -7.5] and columns["num_interests"].tolist() == [0, 5]
    for odd, named in (
        ({"num_interests": 0}, "num_interests=0"),
        ({"interest_threshold": -8}, "interest_threshold=-8"),
    ):
        with pytest.raises(UserError, match=f"`{named}`: this export knows no threshold"):
            make_columns([dataclasses.replace(SHORT, **odd)], INPUTS)


def test_rewards_are_columns_and_refused_where_the_export_has_no_bandit():
    now = INPUTS | {
        "bandit": InputSpec("DT_STRING"),
        "bandit_prior": InputSpec("DT_FLOAT"),
        "reward_category": InputSpec("DT_STRING"),
        "reward_trials": InputSpec("DT_FLOAT"),
        "reward_successes": InputSpec("DT_FLOAT"),
    }
    asked = dataclasses.replace(SHORT, bandit="thompson", rewards={"tea": (9, 2), "jam": np.array([1.5, 0.0])})
    assert asked.takes_options and not Request([7], [50], 99, k=3).takes_options
    columns = make_columns([asked, LONG], now)
    assert columns["bandit"].tolist() == ["thompson", "none"] and columns["bandit_prior"].tolist() == [100.0, 100.0]
    assert columns["reward_category"].tolist() == [["tea", "jam"], ["", ""]]
    assert columns["reward_trials"].tolist() == [[9.0, 1.5], [0.0, 0.0]]
    assert columns["reward_successes"].tolist() == [[2.0, 0.0], [0.0, 0.0]]
    for odd, named in (({"bandit": "thompson"}, "bandit=thompson"), ({"rewards": {"tea": (9, 2)}}, "rewards=")):
        with pytest.raises(UserError, match=f"`{named}.*`: this export knows no bandit"):
            make_columns([dataclasses.replace(SHORT, **odd)], INPUTS)


def test_weights_of_one_user_pad_with_nothing_and_the_others_count_one():
    weighed = dataclasses.replace(LONG, history_weight=[0.5, 2.0, 3.0])
    columns = make_columns([SHORT, weighed], INPUTS)
    assert columns["history_weight"].tolist() == [[1.0, 0.0, 0.0], [0.5, 2.0, 3.0]]


def test_an_empty_history_has_the_models_type_of_ids():
    for dtype, kind in (("DT_INT64", "i"), ("DT_STRING", "O")):
        columns = make_columns([Request([], [], 5)], INPUTS | {"history_item_id": InputSpec(dtype)})
        assert columns["history_item_id"].shape == (1, 0) and columns["history_item_id"].dtype.kind == kind


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Request([1, 2], [3], 9), ("`history_timestamp`", "1 values for 2")),
        (lambda: Request([1], [3], 9, history_weight=[1, 2]), ("`history_weight`", "2 values for 1")),
        (lambda: make_columns([], INPUTS), ("one or more",)),
        (lambda: make_columns([Request([], [], 9, {"age": "4"})], INPUTS), ("'age'", "taste")),
        (lambda: make_columns([Request(["a"], [3], 9)], INPUTS), ("`history_item_id`", "whole numbers", "'a'")),
        (lambda: make_columns([Request([1.5], [3], 9)], INPUTS), ("`history_item_id`", "1.5")),
        (lambda: make_columns([SHORT], INPUTS | {"k": InputSpec("DT_INT32")}), ("`k`", "Request.k")),
        (lambda: Client("localhost:8501"), ("http://host:8501", "grpc://")),
    ],
)
def test_mistakes_are_named(make, words):
    with pytest.raises(UserError) as caught:
        make()
    for word in words:
        assert word in str(caught.value)


def test_what_no_one_says_is_left_out_where_that_is_allowed():
    inputs = INPUTS | {"k": InputSpec("DT_INT32")}
    assert "k" not in make_columns([SHORT], inputs, may_omit=True)
    assert make_columns([LONG], inputs, may_omit=True)["k"].tolist() == [9]


def test_answers_drop_their_padding():
    (answer,) = read_responses(
        {
            "item_id": [[5, 6, 0]],
            "score": [[-1.0, -2.5, 0.0]],
            "category": [["tea", "jam", ""]],
            "interest_rank": [[2, 1, 0]],
            "num_valid": [2],
            "interest_category": np.array([[b"jam", b"th\xc3\xa9", b""]], object),
            "interest_score": [[3.0, 2.0, 0.0]],
            "interest_rank_drawn": [[1, 2, 0]],
            "interest_origin": [["drawn", "forced", ""]],
            "interest_num_events": [[4, 0, 0]],
            "interest_last_timestamp": [[77, 0, 0]],
        }
    )
    assert answer.candidates == (Candidate(5, -1.0, "tea", 2), Candidate(6, -2.5, "jam", 1))
    assert answer.interests == (Interest("jam", 3.0, 1, "drawn", 4, 77), Interest("thé", 2.0, 2, "forced", 0, 0))
    assert answer.num_valid == 2


METADATA = {
    "metadata": {
        "signature_def": {
            "signature_def": {
                "serving_default": {
                    "inputs": {"a": {"dtype": "DT_INT64"}, "b": {"dtype": "DT_STRING"}, "c": {"dtype": "DT_FLOAT"}},
                    "defaults": {
                        "a": {
                            "dtype": "DT_INT64",
                            "tensor_shape": {"dim": [{"size": "3"}]},
                            "int64_val": ["4", str(2**63 - 1)],
                        },
                        "b": {"dtype": "DT_STRING", "tensor_shape": {"dim": [{"size": "1"}]}, "string_val": ["cmF3"]},
                        "c": {
                            "dtype": "DT_FLOAT",
                            "tensor_shape": {"dim": [{"size": "1"}, {"size": "1"}]},
                            "tensor_content": "AACAPw==",
                        },
                    },
                },
                "old": {"inputs": {"x": {"dtype": "DT_FLOAT"}}},
            }
        }
    }
}


def test_metadata_in_all_encodings_of_a_tensor():
    signatures = read_metadata(METADATA)
    defaults = {name: spec.default.tolist() for name, spec in signatures["serving_default"].items()}
    assert defaults == {"a": [4, 2**63 - 1, 2**63 - 1], "b": [b"raw"], "c": [[1.0]]}
    assert signatures["old"] == {"x": InputSpec("DT_FLOAT")}


@contextlib.contextmanager
def misbehaving(*replies: tuple[int, str] | threading.Event):
    """A server that answers predict calls by these statuses and bodies, or once an event is set, then with item 5."""
    asked: list[dict] = []
    inputs = {name: {"dtype": spec.dtype} for name, spec in INPUTS.items() if spec.default is None}
    metadata = {"metadata": {"signature_def": {"serving_default": {"inputs": inputs}}}}
    answer = {"outputs": {"item_id": [[5]], "score": [[0.0]], "category": [["c"]], "interest_rank": [[1]]}}
    answer["outputs"] |= {"num_valid": [1]} | {
        f"interest_{name}": [[]] for name in ("category", "score", "rank_drawn", "origin", "num_events")
    }
    answer["outputs"]["interest_last_timestamp"] = [[]]

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.reply(200, json.dumps(metadata))

        def do_POST(self):
            asked.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            turn = replies[len(asked) - 1] if len(asked) <= len(replies) else (200, json.dumps(answer))
            if isinstance(turn, threading.Event):
                turn.wait()
                turn = 200, json.dumps(answer)
            self.reply(*turn)

        def reply(self, status, body):
            self.send_response(status)
            self.end_headers()
            with contextlib.suppress(BrokenPipeError):
                self.wfile.write(body.encode())

        def log_message(self, *args):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", asked
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


QUICK = ClientOptions(timeout_s=60, backoff_s=0.001)
BUSY = (503, '{"error": "queue is full"}'), (429, "<html>slow down</html>")


def test_busy_servers_are_asked_again():
    with misbehaving(*BUSY) as (url, asked), Client(url, options=QUICK) as client:
        (answer,) = client.retrieve([SHORT])
    assert answer.candidates == (Candidate(5, 0.0, "c", 1),)
    assert len(asked) == 3 and asked[0] == asked[2]


def test_retries_end():
    with misbehaving(*[BUSY[0]] * 9) as (url, asked), Client(url, options=QUICK) as client:
        with pytest.raises(CallError, match="UNAVAILABLE: queue is full .HTTP 503") as caught:
            client.retrieve([SHORT])
    assert len(asked) == 4 and caught.value.code == "UNAVAILABLE"


@pytest.mark.parametrize(("status", "code"), [(400, "INVALID_ARGUMENT"), (404, "NOT_FOUND"), (500, "INTERNAL")])
def test_other_errors_are_not_tried_again_and_say_what_the_server_said(status, code):
    with misbehaving((status, '{"error": "no such luck"}')) as (url, asked), Client(url, options=QUICK) as client:
        with pytest.raises(CallError, match=f"{code}: no such luck .HTTP {status} from {url}"):
            client.retrieve([SHORT])
    assert len(asked) == 1


def test_a_slow_server_is_left():
    """Its answer is held back until the client has given up, so that only giving up ends the call."""
    held = threading.Event()
    options = ClientOptions(timeout_s=2.0, backoff_s=0.001)  # the first question, for the metadata, must be in time
    with misbehaving(held) as (url, asked), Client(url, options=options) as client:
        try:
            with pytest.raises(CallError, match="DEADLINE_EXCEEDED: no answer from .* in 2 s"):
                client.retrieve([SHORT])
        finally:
            held.set()
        assert len(asked) <= 1  # never again; not yet, where the server was slower than the client


@pytest.mark.parametrize("scheme", ["http", "grpc"])
def test_no_server_at_all(scheme):
    with Client(f"{scheme}://127.0.0.1:9", options=QUICK) as client:
        with pytest.raises(CallError, match="UNAVAILABLE") as caught:
            client.retrieve([SHORT])
    assert "127.0.0.1:9" in str(caught.value)


def test_waits_double_and_heed_the_server(monkeypatch):
    waits: list[float] = []
    monkeypatch.setattr(client_lib.time, "sleep", waits.append)
    monkeypatch.setattr(client_lib.random, "uniform", lambda low, high: high)
    errors = iter([CallError("UNAVAILABLE", "", is_retryable=True, retry_after_s=at) for at in (0, 0, 1.5, 60)])

    def call():
        raise next(errors)

    with pytest.raises(CallError):
        Client("http://127.0.0.1:9", options=ClientOptions(max_retries=3))._retry(call)
    assert waits == [0.1, 0.2, 1.5]


def test_rest_needs_no_tensorflow():
    code = "import sys, longretriever_tf.serving.client.client; sys.exit('tensorflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, timeout=600).returncode == 0


@pytest.fixture(scope="module")
def server(trained):
    with serving(os.path.abspath(trained.export_dir), warm=False, rest_api_num_threads=4) as server:
        yield server


def urls(server) -> list[str]:
    return [f"http://127.0.0.1:{server.rest_port}", f"grpc://127.0.0.1:{server.grpc_port}"]


def connect(url: str, model: Model | str = "toy", **options) -> Client:
    """A client with time for a busy machine."""
    return Client(url, model, ClientOptions(timeout_s=600, **options))


PLAIN = [
    Request([100 + v for v in range(0, 60, 7)], [NOW - v * DAY_S for v in range(1, 10)], NOW, {"taste": "b0"}, k=5),
    Request([131, 138], [NOW - 5 * DAY_S, NOW - 9 * DAY_S], NOW, {"taste": "b1"}),
    Request([], [], NOW, {"taste": "b1"}, k=3),
]
TURNED = [
    dataclasses.replace(PLAIN[0], num_interests=2, top_interests=4, seed=3, exclude_item_id=[100, 107]),
    dataclasses.replace(
        PLAIN[1], forced_category={"c1": 3.0}, forbidden_category=["c5"], history_weight=[1.0, 0.5], seed=2
    ),
    dataclasses.replace(PLAIN[2], allowed_category=["c2"], goal="novel", merge="raw"),
    dataclasses.replace(PLAIN[1], bandit="thompson", bandit_prior=9.0, rewards={"c2": (9.0, 8.0)}, seed=6),
]


@pytest.mark.serving
@pytest.mark.parametrize("requests", [PLAIN, TURNED], ids=["plain", "turned"])
def test_both_transports_agree(server, requests):
    rest, grpc = urls(server)
    answers = []
    for url in (rest, grpc):
        with connect(url) as client:
            answers.append(client.retrieve(requests))
            one_by_one = [client.retrieve([request])[0] for request in requests]
        for together, alone in zip(answers[-1], one_by_one, strict=True):
            assert [c.item_id for c in together.candidates] == [c.item_id for c in alone.candidates]
    for answer in answers[1:]:
        for one, other in zip(answers[0], answer, strict=True):
            assert [c.item_id for c in one.candidates] == [c.item_id for c in other.candidates]
            np.testing.assert_allclose([c.score for c in one.candidates], [c.score for c in other.candidates], 1e-5)
            assert [dataclasses.replace(i, score=0) for i in one.interests] == [
                dataclasses.replace(i, score=0) for i in other.interests
            ]


@pytest.mark.serving
def test_what_a_batching_server_repeats_changes_no_answer(server):
    """TensorFlow Serving pads a shorter request of a batch by its own first element, which must then be nothing."""
    for url in urls(server):
        with connect(url, batched=True) as padded, connect(url) as plain:
            for requests in (PLAIN, TURNED):
                signature, columns = padded.encode(requests)
                longer = {name: _pad_by_the_first(column) for name, column in columns.items()}
                answers = read_responses(padded.predict(signature, longer))
                for answer, expected in zip(answers, plain.retrieve(requests), strict=True):
                    assert [c.item_id for c in answer.candidates] == [c.item_id for c in expected.candidates]


def _pad_by_the_first(column: np.ndarray) -> np.ndarray:
    if column.ndim == 1 or not column.size:
        return column
    return np.concatenate([column, np.full([len(column), 3], column.flat[0], column.dtype)], axis=1)


@pytest.mark.serving
def test_request_options_do_what_they_say(server):
    with connect(urls(server)[0]) as client:
        turned = client.retrieve(TURNED)
        assert client.encode(PLAIN)[0] == "top_k" and client.encode(TURNED)[0] == "serving_default"
        assert [len(answer.candidates) for answer in client.retrieve(PLAIN)][::2] == [5, 3]
        assert [i.category for i in client.interests(TURNED)[2]] == ["c2"]
    assert len(turned[0].interests) == 2 and turned[0].num_valid == 5
    assert not {100, 107} & {c.item_id for c in turned[0].candidates}
    assert {i.category: i.origin for i in turned[1].interests}["c1"] == "forced"
    assert "c5" not in {i.category for i in turned[1].interests}
    assert {c.category for c in turned[2].candidates} == {"c2"} and turned[2].interests[0].origin == "popular"


@pytest.mark.serving
def test_the_servers_errors_reach_the_caller(server):
    for url in urls(server):
        with connect(url) as client, pytest.raises(CallError, match="must be one of calibrated") as caught:
            client.retrieve([dataclasses.replace(PLAIN[0], merge="best")])
        assert caught.value.code == "INVALID_ARGUMENT"
        with (
            connect(url, Model("toy", version=9)) as client,
            pytest.raises(CallError, match="no available version 9") as caught,
        ):
            client.retrieve(PLAIN)
        assert caught.value.code == "NOT_FOUND"


@pytest.mark.serving
def test_vectors_and_fingerprints(server):
    for url in urls(server):
        with connect(url, Model("toy", version=1)) as client:
            vectors, bias = client.item_embeddings([100, 9_999])
            assert vectors.shape == (2, 16) and np.abs(vectors[0]).max() > 0 and not vectors[1].any() and bias[1] == 0
            towers = client.fingerprint()
            assert client.fingerprint(towers) == towers
            with pytest.raises(CallError, match="expected was"):
                client.fingerprint("of other towers")


@pytest.mark.serving
def test_a_long_history_is_a_small_body(server):
    history = Request(list(range(20_000)), list(range(NOW - 20_000, NOW)), NOW, {"taste": "b0"})
    with connect(urls(server)[0]) as client:
        call = client.prepare([history])
        assert len(call) < 17.5 * 20_000  # ten digits of time, up to five of id, two commas
        assert len(client.retrieve([history])[0].candidates) > 50
