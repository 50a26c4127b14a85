"""gRPC: PredictionService and ModelService against TensorFlow Serving's protos."""

import json

import grpc
import numpy as np
import pytest
import tensorflow as tf
from serving_clients import call, predict, serving, states, stubs
from serving_conformance import (
    BASIC_MANAGER,
    CORE,
    DEFAULTS,
    HANDLER,
    METADATA,
    MODEL_SERVICE,
    OBSERVED,
    OURS,
    PREDICT,
    STATUS,
    conforms,
)
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_management_pb2,
    predict_pb2,
    regression_pb2,
)
from toy_models import save_answer

from longretriever_tf.serving.server import config_files

pytestmark = pytest.mark.serving

COLUMNS = {"ids": [[1, 2], [3, 2**60]], "weight": [0.3, 2], "name": ["ab", "ü"], "flag": [True, False], "k": [3, 4]}
TYPES = {"ids": tf.int64, "weight": tf.float32, "name": tf.string, "flag": tf.bool, "k": tf.int32}


def _request(signature: str = "", **inputs) -> predict_pb2.PredictRequest:
    request = predict_pb2.PredictRequest()
    request.model_spec.name = "toy"
    request.model_spec.signature_name = signature
    for name, value in inputs.items():
        if not isinstance(value, tf.Tensor | np.ndarray):
            value = tf.constant(value, TYPES.get(name, tf.float32)).numpy()
        request.inputs[name].CopyFrom(tf.make_tensor_proto(value))
    return request


def _fails(rpc, request) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.RpcError) as caught:
        rpc(request, timeout=300)
    return caught.value.code(), caught.value.details()


@conforms("Predict", "the same numbers as REST; model_spec names model, version and signature", PREDICT)
def test_predict_agrees_with_rest(toy_server):
    with stubs(toy_server) as (prediction, _):
        response = prediction.Predict(_request(**COLUMNS), timeout=300)
    by_rest = predict(toy_server, {"inputs": COLUMNS})["outputs"]
    assert set(response.outputs) == set(by_rest)
    for name, proto in response.outputs.items():
        array = tf.make_ndarray(proto)
        if name == "name_bytes":
            continue
        expected = [text.encode() for text in by_rest[name]] if array.dtype == object else by_rest[name]
        np.testing.assert_array_equal(array, np.array(expected, array.dtype))
    spec = response.model_spec
    assert (spec.name, spec.version.value, spec.signature_name) == ("toy", 2, "serving_default")


@conforms(
    "encoding of replies", "typed fields (float_val, int64_val ...), one value per element", f"{PREDICT}; {OBSERVED}"
)
def test_replies_use_typed_fields(toy_server):
    with stubs(toy_server) as (prediction, _):
        outputs = prediction.Predict(_request(**COLUMNS), timeout=300).outputs
    assert list(outputs["total"].int64_val) == [3, 3 + 2**60] and not outputs["total"].tensor_content
    assert len(outputs["scaled"].float_val) == 6 and list(outputs["flag"].bool_val) == [False, True]
    assert list(outputs["shout"].string_val) == [b"AB", "ü".encode()] and list(outputs["k"].int_val) == [3, 4]


@conforms("defaults over gRPC", "left-out inputs are filled from the signature's defaults", f"{PREDICT}; {DEFAULTS}")
def test_defaults_are_filled(toy_server):
    inputs = {name: value for name, value in COLUMNS.items() if name != "k"}
    with stubs(toy_server) as (prediction, _):
        outputs = prediction.Predict(_request(**inputs), timeout=300).outputs
        assert list(outputs["k"].int_val) == [7, 7]
        del inputs["flag"]
        code, message = _fails(prediction.Predict, _request(**inputs))
    assert code == grpc.StatusCode.INVALID_ARGUMENT
    assert message.startswith("Signature input alias: flag(feed name: ")
    assert "not found in request and no default value provided" in message


@conforms("misnamed inputs", "INVALID_ARGUMENT with what was sent in excess and what is missing", PREDICT)
def test_misnamed_inputs(toy_server):
    with stubs(toy_server) as (prediction, _):
        code, message = _fails(prediction.Predict, _request("half_plus_two", a=[1.0], b=[1.0]))
        assert code == grpc.StatusCode.INVALID_ARGUMENT
        assert "Sent extra: {a,b}. Missing but required: {x}." in message
        _, message = _fails(prediction.Predict, _request(**{n: v for n, v in COLUMNS.items() if n != "k"}, kk=[1]))
        assert message.startswith("Inputs contains invalid name. Used request inputs: flag,ids,name,weight")


@conforms("wrong dtype", "INVALID_ARGUMENT Expects arg[i] to be ... but ... is provided; nothing is cast", PREDICT)
def test_wrong_dtype(toy_server):
    with stubs(toy_server) as (prediction, _):
        code, message = _fails(prediction.Predict, _request("half_plus_two", x=np.array([1, 2])))
        assert code == grpc.StatusCode.INVALID_ARGUMENT
        assert message == "Expects arg[0] to be float but int64 is provided (input `x`)"
        _, message = _fails(prediction.Predict, _request("half_plus_two", x=np.array([b"a"], object)))
        assert "to be float but string is provided" in message


@conforms("a tensor whose content does not fit its shape", "INVALID_ARGUMENT tensor parsing error: NAME", PREDICT)
def test_broken_tensor(toy_server):
    request = _request("half_plus_two", x=np.ones(3, np.float32))
    request.inputs["x"].tensor_content = b"1234567"
    with stubs(toy_server) as (prediction, _):
        assert _fails(prediction.Predict, request) == (grpc.StatusCode.INVALID_ARGUMENT, "tensor parsing error: x")


@conforms("output_filter", "only the outputs named; an unknown or repeated one is INVALID_ARGUMENT", PREDICT)
def test_output_filter(toy_server):
    request = _request(**COLUMNS)
    request.output_filter.extend(["k", "total"])
    with stubs(toy_server) as (prediction, _):
        assert set(prediction.Predict(request, timeout=300).outputs) == {"k", "total"}
        request.output_filter.append("k")
        assert _fails(prediction.Predict, request)[1] == "duplicate output tensor alias: k"
        request.output_filter[:] = ["nope"]
        assert _fails(prediction.Predict, request)[1].startswith("output tensor alias not found in signature: nope ")


@conforms(
    "which model answers",
    "no model_spec, name, version, label, signature: the code and words of each",
    f"{CORE}; {BASIC_MANAGER}",
)
def test_choice_of_model(toy_server):
    invalid, missing = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND
    with stubs(toy_server) as (prediction, _):
        assert _fails(prediction.Predict, predict_pb2.PredictRequest()) == (invalid, "Missing ModelSpec")
        request = _request("half_plus_two", x=[1.0])
        request.model_spec.version.value = 1
        assert prediction.Predict(request, timeout=300).model_spec.version.value == 1
        request.model_spec.version_label = "canary"
        assert prediction.Predict(request, timeout=300).model_spec.version.value == 2
        request.model_spec.version_label = "x"
        assert _fails(prediction.Predict, request) == (invalid, "Unrecognized servable version label: x")
        request.model_spec.version.value = 7
        assert _fails(prediction.Predict, request) == (missing, "Servable not found for request: Specific(toy, 7)")
        request.model_spec.name = ""
        assert _fails(prediction.Predict, request) == (invalid, "ModelSpec has no name specified.")
        code, message = _fails(prediction.Predict, _request("nope", x=[1.0]))
        assert (code, message) == (grpc.StatusCode.FAILED_PRECONDITION, 'Serving signature key "nope" not found.')


@conforms(
    "unknown signature, REST against gRPC",
    "REST 400 in its own words, gRPC FAILED_PRECONDITION",
    f"{HANDLER}; {PREDICT}",
)
def test_unknown_signature_differs_between_transports(toy_server):
    status, reply = call(toy_server, "POST", "/v1/models/toy:predict", {"signature_name": "nope", "inputs": [1]})
    assert status == 400 and "not found in signature def" in json.loads(reply)["error"]


@conforms("history beyond --max_history, over gRPC", "INVALID_ARGUMENT naming the flag", OURS)
def test_long_history(toy_server):
    with stubs(toy_server) as (prediction, _):
        code, message = _fails(prediction.Predict, _request("history", history_item_id=np.ones([2, 51], np.int64)))
    assert code == grpc.StatusCode.INVALID_ARGUMENT and "--max_history" in message


@conforms("GetModelMetadata", "signature_def alone; another field, or none, is INVALID_ARGUMENT", METADATA)
def test_metadata(toy_server):
    request = get_model_metadata_pb2.GetModelMetadataRequest()
    request.model_spec.name = "toy"
    with stubs(toy_server) as (prediction, _):
        code, message = _fails(prediction.GetModelMetadata, request)
        assert "must specify at least one metadata_field" in message
        request.metadata_field.append("nope")
        assert _fails(prediction.GetModelMetadata, request)[1] == "Metadata field nope is not supported"
        request.metadata_field[:] = ["signature_def"]
        response = prediction.GetModelMetadata(request, timeout=300)
    signatures = get_model_metadata_pb2.SignatureDefMap()
    assert response.metadata["signature_def"].Unpack(signatures)
    assert response.model_spec.version.value == 2
    assert signatures.signature_def["half_plus_two"].inputs["x"].dtype == 1


@conforms("Regress on a predict signature", "INVALID_ARGUMENT", "servables/tensorflow/classifier.cc, for its words")
def test_regress(toy_server):
    with stubs(toy_server) as (prediction, _):
        code, message = _fails(prediction.Regress, regression_pb2.RegressionRequest())
    assert code == grpc.StatusCode.INVALID_ARGUMENT and "tensorflow/serving/regress" in message


@conforms("GetModelStatus", "all versions, or one; NOT_FOUND for an unknown one", f"{STATUS}; {MODEL_SERVICE}")
def test_status(toy_server):
    request = get_model_status_pb2.GetModelStatusRequest()
    with stubs(toy_server) as (_, models):
        assert _fails(models.GetModelStatus, request) == (grpc.StatusCode.INVALID_ARGUMENT, "Missing ModelSpec")
        request.model_spec.name = "toy"
        lines = models.GetModelStatus(request, timeout=300).model_version_status
        assert [(line.version, line.state) for line in lines] == [(2, 30), (1, 30)]
        request.model_spec.version.value = 7
        code, message = _fails(models.GetModelStatus, request)
    assert (code, message) == (grpc.StatusCode.NOT_FOUND, "Could not find version 7 of model toy")


@conforms("a request over the size limit, over gRPC", "RESOURCE_EXHAUSTED", OBSERVED)
def test_message_limit(tmp_path):
    save_answer(tmp_path, 1)
    with serving(str(tmp_path), max_body=10_000, rest_port=None) as server, stubs(server) as (prediction, _):
        code, message = _fails(prediction.Predict, _request(x=np.ones(5000, np.float32)))
        assert code == grpc.StatusCode.RESOURCE_EXHAUSTED and "larger than max" in message
        assert prediction.Predict(_request(x=[1.0]), timeout=300).outputs["version"].int64_val == [1]


@conforms(
    "HandleReloadConfigRequest",
    "replaces the whole config: new models load, models no longer listed unload",
    f"{MODEL_SERVICE}; {CORE}",
)
def test_reload_config(tmp_path):
    for name, version in (("a", 1), ("b", 5)):
        (tmp_path / name).mkdir()
        save_answer(tmp_path / name, version)
    with serving(config_files.one_model("a", str(tmp_path / "a"))) as server, stubs(server) as (_, models):
        request = model_management_pb2.ReloadConfigRequest()
        code, message = _fails(models.HandleReloadConfigRequest, request)
        assert code == grpc.StatusCode.INVALID_ARGUMENT and "Only ModelConfigList is currently supported" in message
        request.config.CopyFrom(config_files.one_model("b", str(tmp_path / "b")))
        models.HandleReloadConfigRequest(request, timeout=300)
        assert states(server, "b") == {5: "AVAILABLE"} and states(server, "a") == {1: "END"}
        assert predict(server, {"instances": [1]}, "/v1/models/b:predict") == {"predictions": [5]}
        assert call(server, "POST", "/v1/models/a:predict", {"instances": [1]})[0] == 404


@conforms(
    "HandleReloadConfigRequest that is wrong",
    "its code and words, and the old config stays in effect",
    f"{CORE}; {OBSERVED}",
)
def test_wrong_reload_changes_nothing(tmp_path):
    save_answer(tmp_path, 1)
    with serving(str(tmp_path)) as server, stubs(server) as (_, models):
        request = model_management_pb2.ReloadConfigRequest()
        request.config.CopyFrom(config_files.one_model("toy", str(tmp_path)))
        request.config.model_config_list.config[0].version_labels["canary"] = 9
        code, message = _fails(models.HandleReloadConfigRequest, request)
        assert code == grpc.StatusCode.FAILED_PRECONDITION
        assert message == (
            "Request to assign label to version 9 of model toy, which is not currently available for inference"
        )
        request.config.model_config_list.config[0].base_path = "relative"
        code, message = _fails(models.HandleReloadConfigRequest, request)
        assert code == grpc.StatusCode.INVALID_ARGUMENT and "absolute path" in message
        request.config.CopyFrom(config_files.one_model("toy", str(tmp_path)))
        request.config.model_config_list.config[0].version_labels["stable"] = 1
        models.HandleReloadConfigRequest(request, timeout=300)
        path = "/v1/models/toy/labels/stable:predict"
        assert predict(server, {"instances": [1.0]}, path) == {"predictions": [1]}
        request.config.CopyFrom(config_files.one_model("other", str(tmp_path / "none")))
        code, message = _fails(models.HandleReloadConfigRequest, request)
        assert code == grpc.StatusCode.UNKNOWN and "did not become available" in message
