"""REST: routes, bodies, replies, errors and status codes."""

import gzip
import http.client
import json
import struct
from typing import Any

import numpy as np
import pytest
from serving_clients import call, error_of, predict, serving
from serving_conformance import conforms
from toy_models import save_answer

from longretriever_tf.serving.server import json_replies, json_requests
from longretriever_tf.serving.server.status import ServingError

pytestmark = pytest.mark.serving

TOY = "/v1/models/toy"
PREDICT = f"{TOY}:predict"
ROW = {"ids": [1, 2], "weight": 0.5, "name": "ab", "flag": True, "k": 3}
COLUMNS = {"ids": [[1, 2], [3, 4]], "weight": [0.5, 2], "name": ["ab", "ü"], "flag": [True, False], "k": [3, 4]}
VERSION_OF = {"signature_name": "slow", "instances": [0]}


def _status_of(version: int) -> dict[str, Any]:
    status = {"error_code": "OK", "error_message": ""}
    return {"version": str(version), "state": "AVAILABLE", "status": status}


def _half(**body: Any) -> dict[str, Any]:
    return {"signature_name": "half_plus_two"} | body


@pytest.mark.parametrize(
    ("path", "versions"),
    [
        (TOY, [2, 1]),
        (f"{TOY}/versions/1", [1]),
        (f"{TOY}/labels/stable", [2, 1]),
        ("/v1/models/t%6Fy/versions/2", [2]),
        (f"{TOY}/versions/2?x=1", [2]),
    ],
)
@conforms(
    "status of a model, of a version",
    "200: versions, highest first, numbers as strings; a label is not looked at; names are percent-decoded, a query is "
    "ignored",
)
def test_status(toy_server, path, versions):
    status, reply = call(toy_server, "GET", path)
    assert status == 200
    assert json.loads(reply) == {"model_version_status": [_status_of(version) for version in versions]}


@pytest.mark.parametrize(
    ("path", "words"),
    [
        (f"{TOY}/versions/7", "Could not find version 7 of model toy"),
        ("/v1/models/nope", "Could not find any versions of model nope"),
        ("/v2/health", "no such path: /v2/health"),
    ],
)
@conforms("status of an unknown model or version; a path outside /v1/", "404")
def test_unknown_status(toy_server, path, words):
    status, message = error_of(toy_server, None, path, "GET")
    assert status == 404 and words in message


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1/models"),
        ("GET", PREDICT),
        ("POST", TOY),
        ("POST", f"{TOY}:predicts"),
        ("POST", f"{TOY}:classify"),
        ("PUT", PREDICT),
        ("GET", f"{TOY}/versions/99999999999999999999"),
    ],
)
@conforms("a method, path or verb that does not exist", "400 naming those that do")
def test_no_such_request(toy_server, method, path):
    status, message = error_of(toy_server, {}, path, method)
    assert status == 400 and f"no such request: {method} {path}; there are GET /v1/models/NAME" in message


@pytest.mark.parametrize(
    ("path", "version"), [(PREDICT, 2), (f"{TOY}/versions/1:predict", 1), (f"{TOY}/labels/stable:predict", 1)]
)
@conforms("predict by version or label; without either", "200: that version; the highest")
def test_which_version_answers(toy_server, path, version):
    assert predict(toy_server, VERSION_OF, path)["predictions"][0]["version"] == version


@pytest.mark.parametrize(
    ("path", "status", "words"),
    [
        (f"{TOY}/versions/7:predict", 404, "model toy has no available version 7"),
        ("/v1/models/nope:predict", 404, "model nope has no available version"),
        (f"{TOY}/labels/nope:predict", 400, "model toy has no version label 'nope'"),
        (f"{TOY}/labels/next:predict", 404, "model toy has no available version 9"),
        (f"{TOY}/versions/7/metadata", 404, "model toy has no available version 7"),
        (f"{TOY}/labels/x/metadata", 400, "model toy has no version label 'x'"),
    ],
)
@conforms("predict and metadata of an unknown model, version or label", "404; unknown label: 400")
def test_no_such_version(toy_server, path, status, words):
    method = "GET" if path.endswith("metadata") else "POST"
    answered, message = error_of(toy_server, {"instances": [1.0]}, path, method)
    assert answered == status and words in message


@conforms(
    "`instances`: a row is an object of inputs",
    "200 {predictions: [...]}, an object of outputs a row; outputs named *_bytes are {b64: ...}",
)
def test_rows(toy_server):
    assert predict(toy_server, {"instances": [ROW]}) == {
        "predictions": [
            {"total": 3, "scaled": [0.05, 0.5, 1.5], "shout": "AB", "name_bytes": {"b64": "YWI="}}
            | {"flag": False, "k": 3, "version": 2}
        ]
    }


@conforms("`inputs`: columns by name", "200 {outputs: {...}}; the same numbers as by row")
def test_columns(toy_server):
    by_column = predict(toy_server, {"inputs": COLUMNS, "signature_name": ""})["outputs"]
    assert by_column["scaled"] == [[0.05, 0.5, 1.5], [0.2, 2.0, 6.0]]
    assert by_column["name_bytes"] == [{"b64": "YWI="}, {"b64": "w7w="}] and by_column["shout"] == ["AB", "ü"]
    rows = [{name: column[i] for name, column in COLUMNS.items()} for i in range(2)]
    by_row = predict(toy_server, {"instances": rows})["predictions"]
    assert [{name: column[i] for name, column in by_column.items()} for i in range(2)] == by_row


@pytest.mark.parametrize(
    ("body", "reply"),
    [
        (_half(instances=[1.0, 2.0, 5.0]), {"predictions": [2.5, 3.0, 4.5]}),
        (_half(instances=[[[1, 2]], [[3, 4]]]), {"predictions": [[[2.5, 3.0]], [[3.5, 4.0]]]}),
        (_half(instances=[{"x": 1.0}]), {"predictions": [2.5]}),
        (_half(inputs=[1.0, 2.0]), {"outputs": [2.5, 3.0]}),
        (_half(inputs=3), {"outputs": 3.5}),
        ({"signature_name": "uneven", "inputs": [1.0, 2.0]}, {"outputs": {"all": [1.0, 2.0], "first": [1.0]}}),
        ({"signature_name": "scalar", "inputs": [1.0, 2.0]}, {"outputs": 3.0}),
        ({"signature_name": "nothing", "inputs": {}}, {"outputs": [2]}),
        ({"signature_name": "echo", "instances": [{"b64": "aGVsbG8="}, "there"]}, {"predictions": ["hello", "there"]}),
        ({"signature_name": "echo", "inputs": [{"b64": "aGk="}]}, {"outputs": ["hi"]}),
    ],
)
@conforms("one input, one output", "200: plain values of any shape; text and {b64: ...} mix")
def test_plain_values(toy_server, body, reply):
    assert predict(toy_server, body) == reply


@conforms("int64 of more than 53 bits", "200: kept exactly, in and out")
def test_big_integers(toy_server):
    row = ROW | {"ids": [2**62, 2**61 + 1]}
    assert predict(toy_server, {"instances": [row]})["predictions"][0]["total"] == 2**62 + 2**61 + 1


@conforms("decimals", "200: read back as the same float32 or float64; NaN and infinities are null")
def test_decimals_read_back_the_same():
    rng = np.random.default_rng(5)
    values = rng.integers(0, 2**32, 3000, dtype=np.uint32).view(np.float32)
    values = values[np.isfinite(values)]
    read = json.loads(json_replies.write_columns({"x": values}))["outputs"]
    assert [struct.pack("f", value) for value in read] == [struct.pack("f", value) for value in values.tolist()]
    odd = np.array([np.nan, np.inf, 0.1])
    assert json_replies.write_columns({"x": odd}) == b'{"outputs":[null,null,0.1]}'


@conforms("inputs that the signature has a default for", "200: may be left out")
def test_defaults(toy_server):
    columns = {name: column for name, column in COLUMNS.items() if name != "k"}
    row = {name: value for name, value in ROW.items() if name != "k"}
    assert predict(toy_server, {"inputs": columns})["outputs"]["k"] == [7, 7]
    assert [line["k"] for line in predict(toy_server, {"instances": [row, row]})["predictions"]] == [7, 7]


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "is not JSON in UTF-8"),
        (b'{"instances": [1, 2}', "is not JSON in UTF-8: unexpected character"),
        (b"{} {}", "is not JSON in UTF-8"),
        (b'{"inputs": [NaN]}', "is not JSON in UTF-8"),
        (b'{"inputs": ["\xff"]}', "is not JSON in UTF-8"),
        (b'{"inputs": ["\\ud800"]}', "is not JSON in UTF-8"),
        (b'{"instances": ' + b"[" * 200_000, "is not JSON in UTF-8"),
        (b'{"inputs": ' + b"9" * 5000 + b"}", "is not JSON in UTF-8"),
        (b"[1]", "must be a JSON object; received [1]"),
        ({"signature_name": 100}, "'signature_name' must be text; received 100"),
        ({"signature_name": "nope", "instances": [1]}, 'the model has no signature "nope"; '),
        ({"instance": [1]}, "must hold either 'instances'"),
        ({"instances": [1], "inputs": [1]}, "must hold either 'instances'"),
        ({"instances": {"ids": 1}}, "'instances' must be a list of one row or more"),
        ({"instances": []}, "'instances' must be a list of one row or more"),
        ({"instances": [1, 2]}, "row 0 of 'instances' must be an object of named inputs; received 1"),
        ({"inputs": [1, 2]}, "'inputs' must be an object with the inputs"),
        ({"instances": [ROW, [1]]}, "row 1 of 'instances' must be an object"),
        (_half(instances=[1.0, {"x": 1.0}]), "row 0 of 'instances' must be an object"),
        ({"instances": [ROW, {"ids": [1]}]}, "row 1 of 'instances' names"),
        ({"instances": [ROW | {"idz": 1}]}, 'the signature has no input ["idz"]; it takes'),
        ({"inputs": COLUMNS | {"unknown": [1]}}, 'the signature has no input ["unknown"]; it takes'),
        ({"inputs": {"flag": [True]}}, "missing ids, name, weight; unknown none"),
        (_half(instances=["x"]), 'input `x` (float32) must hold numbers; received "x"'),
        ({"inputs": COLUMNS | {"ids": [[1.5, 2], [3, 4]]}}, "`ids` (int64) must hold whole numbers; received 1.5"),
        ({"inputs": COLUMNS | {"ids": [[1.0, 2], [3, 4]]}}, "`ids` (int64) must hold whole numbers; received 1.0"),
        ({"inputs": COLUMNS | {"ids": [[True, 2], [3, 4]]}}, "`ids` (int64) must hold whole numbers; received true"),
        ({"inputs": COLUMNS | {"name": [None, "a"]}}, "`name` (string) must hold text"),
        ({"inputs": COLUMNS | {"flag": [1, 0]}}, "`flag` (bool) must hold true or false; received 1"),
        ({"inputs": COLUMNS | {"ids": [[2**63, 0], [0, 0]]}}, "`ids` holds 9223372036854775808; int64 takes"),
        ({"inputs": COLUMNS | {"k": [2**31, 0]}}, "`k` holds 2147483648; int32 takes -2147483648 to 2147483647"),
        ({"signature_name": "echo", "inputs": [{"b64": "!!"}]}, "which is not base64"),
        ({"signature_name": "echo", "inputs": [{"b64": "aGk=", "x": 1}]}, "must hold text, or"),
        ({"inputs": COLUMNS | {"ids": [[1, 2], [3]]}}, "`ids` is ragged"),
        ({"inputs": COLUMNS | {"name": [["a"], ["b", "c"]]}}, "`name` is ragged"),
        ({"instances": [ROW, ROW | {"ids": [1]}]}, "`ids` is ragged"),
        (_half(inputs=[[1.0], 2.0]), "`x` is ragged"),
        ({"inputs": COLUMNS | {"ids": [1, 2]}}, "input `ids` must have shape [?, ?]; received [2]"),
    ],
)
@conforms("a body that is malformed, or does not fit the signature", "400 naming the input, the value and what fits")
def test_wrong_bodies(toy_server, body, words):
    status, message = error_of(toy_server, body)
    assert status == 400 and words in message
    assert len(message) < 500


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"signature_name": "picky", "instances": [1.0, 100.0]}, "x must stay below 100"),
        ({"signature_name": "uneven", "instances": [1.0, 2.0]}, "`all` has 2, `first` has 1 rows"),
        ({"signature_name": "scalar", "instances": [1.0]}, "`sum` has no rows"),
        ({"signature_name": "history", "inputs": [[1] * 51]}, "takes at most 50 (--max_history)"),
    ],
)
@conforms(
    "an error of the graph; outputs of unequal rows, by row; a history beyond --max_history",
    "400 with the graph's own message; naming the outputs; naming the flag",
)
def test_what_the_model_makes_of_it(toy_server, body, words):
    status, message = error_of(toy_server, body)
    assert status == 400 and words in message


def test_a_dtype_without_a_json_form():
    with pytest.raises(ServingError) as caught:
        json_requests.to_array("x", [1.0], 18)  # complex128
    assert caught.value.code == "UNIMPLEMENTED" and caught.value.http_status == 501


@conforms("metadata", "200: model_spec, and every SignatureDef: dtype names, dims as strings, method_name, defaults")
def test_metadata(toy_server):
    status, reply = call(toy_server, "GET", f"{TOY}/versions/1/metadata")
    parsed = json.loads(reply)
    assert status == 200
    assert parsed["model_spec"] == {"name": "toy", "signature_name": "", "version": "1"}
    signatures = parsed["metadata"]["signature_def"]["signature_def"]
    ids = signatures["serving_default"]["inputs"]["ids"]
    dims = [{"size": "-1", "name": ""}, {"size": "-1", "name": ""}]
    assert ids["dtype"] == "DT_INT64" and ids["tensor_shape"] == {"dim": dims, "unknown_rank": False}
    assert signatures["half_plus_two"]["inputs"]["x"]["tensor_shape"] == {"dim": [], "unknown_rank": True}
    assert signatures["serving_default"]["method_name"] == "tensorflow/serving/predict"
    assert list(signatures["serving_default"]["defaults"]) == ["k"]


@conforms("content type", "application/json for every reply, errors included; text/plain for metrics")
def test_content_type(toy_server):
    for path, expected in (
        (TOY, "application/json"),
        ("/v1/models/x", "application/json"),
        ("/monitoring/prometheus/metrics", "text/plain"),
    ):
        connection = http.client.HTTPConnection("127.0.0.1", toy_server.rest_port)
        connection.request("GET", path)
        assert connection.getresponse().getheader("Content-Type").startswith(expected)
        connection.close()


@conforms("a gzipped body; one that is not what Content-Encoding says", "read; 400, and the server goes on")
def test_gzip(toy_server):
    body = gzip.compress(json.dumps(_half(instances=[1.0])).encode())
    for _ in range(2):
        status, reply = call(toy_server, "POST", PREDICT, body, {"Content-Encoding": "gzip"})
        assert (status, json.loads(reply)) == (200, {"predictions": [2.5]})
        assert call(toy_server, "POST", PREDICT, b"not gzip", {"Content-Encoding": "gzip"})[0] == 400


@conforms("a body larger than --max_body_mb, decompressed", "413 naming the limit and the flag")
def test_body_limit(tmp_path):
    save_answer(tmp_path, 1)
    with serving(str(tmp_path), max_body_mb=1000 / 2**20, port=0) as server:
        status, message = error_of(server, b" " * 1001)
        assert status == 413
        assert "larger than 1,000 bytes" in message and "--max_body_mb" in message
        bomb = gzip.compress(b" " * 10_000_000)
        assert call(server, "POST", PREDICT, bomb, {"Content-Encoding": "gzip"})[0] == 413
        assert predict(server, {"instances": [1.0]}) == {"predictions": [1]}
