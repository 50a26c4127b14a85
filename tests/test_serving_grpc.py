"""gRPC: PredictionService and ModelService against TensorFlow Serving's protos."""

import grpc
import numpy as np
import pytest
import tensorflow as tf
from serving_clients import predict, serving, stubs
from serving_conformance import conforms
from tensorflow_serving.apis import get_model_metadata_pb2, get_model_status_pb2, predict_pb2, regression_pb2
from toy_models import save_answer

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


@conforms("Predict", "the same numbers as REST; model_spec names model, version and signature")
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


@conforms("encoding of replies", "typed fields (float_val, int64_val ...), one value per element")
def test_replies_use_typed_fields(toy_server):
    with stubs(toy_server) as (prediction, _):
        outputs = prediction.Predict(_request(**COLUMNS), timeout=300).outputs
    assert list(outputs["total"].int64_val) == [3, 3 + 2**60] and not outputs["total"].tensor_content
    assert len(outputs["scaled"].float_val) == 6 and list(outputs["flag"].bool_val) == [False, True]
    assert list(outputs["shout"].string_val) == [b"AB", "ü".encode()] and list(outputs["k"].int_val) == [3, 4]


@conforms("defaults over gRPC", "left-out inputs are filled from the signature's defaults")
def test_defaults_are_filled(toy_server):
    inputs = {name: value for name, value in COLUMNS.items() if name != "k"}
    with stubs(toy_server) as (prediction, _):
        outputs = prediction.Predict(_request(**inputs), timeout=300).outputs
        assert list(outputs["k"].int_val) == [7, 7]
        del inputs["flag"]
        code, message = _fails(prediction.Predict, _request(**inputs))
    assert code == grpc.StatusCode.INVALID_ARGUMENT
    assert "missing flag; unknown none" in message and "k may be left out" in message


@conforms("misnamed inputs", "INVALID_ARGUMENT with what was sent in excess and what is missing")
def test_misnamed_inputs(toy_server):
    with stubs(toy_server) as (prediction, _):
        code, message = _fails(prediction.Predict, _request("half_plus_two", a=[1.0], b=[1.0]))
        assert code == grpc.StatusCode.INVALID_ARGUMENT
        assert "missing x; unknown a, b" in message
        _, message = _fails(prediction.Predict, _request(**{n: v for n, v in COLUMNS.items() if n != "k"}, kk=[1]))
        assert "missing none; unknown kk" in message


@conforms("wrong dtype", "INVALID_ARGUMENT naming the input and both dtypes; nothing is cast")
def test_wrong_dtype(toy_server):
    with stubs(toy_server) as (prediction, _):
        code, message = _fails(prediction.Predict, _request("half_plus_two", x=np.array([1, 2])))
        assert code == grpc.StatusCode.INVALID_ARGUMENT
        assert message == "input `x` must be float32; received int64"
        _, message = _fails(prediction.Predict, _request("half_plus_two", x=np.array([b"a"], object)))
        assert "must be float32; received string" in message


@conforms("a tensor whose content does not fit its shape", "INVALID_ARGUMENT tensor parsing error: NAME")
def test_broken_tensor(toy_server):
    request = _request("half_plus_two", x=np.ones(3, np.float32))
    request.inputs["x"].tensor_content = b"1234567"
    with stubs(toy_server) as (prediction, _):
        code, message = _fails(prediction.Predict, request)
        assert code == grpc.StatusCode.INVALID_ARGUMENT and "tensor parsing error: x" in message


@conforms("output_filter", "only the outputs named; an unknown one is INVALID_ARGUMENT")
def test_output_filter(toy_server):
    request = _request(**COLUMNS)
    request.output_filter.extend(["k", "total"])
    with stubs(toy_server) as (prediction, _):
        assert set(prediction.Predict(request, timeout=300).outputs) == {"k", "total"}
        request.output_filter[:] = ["nope"]
        assert "output_filter names nope; the outputs are flag, k," in _fails(prediction.Predict, request)[1]


@conforms(
    "which model answers",
    "no name, unknown label: INVALID_ARGUMENT; unknown name, version: NOT_FOUND; signature: FAILED_PRECONDITION",
)
def test_choice_of_model(toy_server):
    invalid, missing = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND
    with stubs(toy_server) as (prediction, _):
        assert _fails(prediction.Predict, predict_pb2.PredictRequest()) == (invalid, "the request names no model")
        request = _request("half_plus_two", x=[1.0])
        request.model_spec.version.value = 1
        assert prediction.Predict(request, timeout=300).model_spec.version.value == 1
        request.model_spec.version_label = "canary"
        assert prediction.Predict(request, timeout=300).model_spec.version.value == 2
        request.model_spec.version_label = "x"
        assert _fails(prediction.Predict, request) == (invalid, "model toy has no version label 'x'")
        request.model_spec.version.value = 7
        code, message = _fails(prediction.Predict, request)
        assert code == missing and message.startswith("model toy has no available version 7")
        request.model_spec.name = "nope"
        assert _fails(prediction.Predict, request)[0] == missing
        code, message = _fails(prediction.Predict, _request("nope", x=[1.0]))
        assert code == grpc.StatusCode.FAILED_PRECONDITION and 'the model has no signature "nope"; ' in message


@conforms("history beyond --max_history, over gRPC", "INVALID_ARGUMENT naming the flag")
def test_long_history(toy_server):
    with stubs(toy_server) as (prediction, _):
        code, message = _fails(prediction.Predict, _request("history", history_item_id=np.ones([2, 51], np.int64)))
    assert code == grpc.StatusCode.INVALID_ARGUMENT and "--max_history" in message


@conforms("GetModelMetadata", "signature_def alone; another field, or none, is INVALID_ARGUMENT")
def test_metadata(toy_server):
    request = get_model_metadata_pb2.GetModelMetadataRequest()
    request.model_spec.name = "toy"
    with stubs(toy_server) as (prediction, _):
        for fields in ([], ["nope"]):
            request.metadata_field[:] = fields
            code, message = _fails(prediction.GetModelMetadata, request)
            assert code == grpc.StatusCode.INVALID_ARGUMENT and "must be ['signature_def']" in message
        request.metadata_field[:] = ["signature_def"]
        response = prediction.GetModelMetadata(request, timeout=300)
    signatures = get_model_metadata_pb2.SignatureDefMap()
    assert response.metadata["signature_def"].Unpack(signatures)
    assert response.model_spec.version.value == 2
    assert signatures.signature_def["half_plus_two"].inputs["x"].dtype == 1


@conforms("Classify, Regress, MultiInference, HandleReloadConfigRequest", "UNIMPLEMENTED")
def test_methods_that_do_not_exist(toy_server):
    with stubs(toy_server) as (prediction, _):
        code, _ = _fails(prediction.Regress, regression_pb2.RegressionRequest())
    assert code == grpc.StatusCode.UNIMPLEMENTED


@conforms("GetModelStatus", "all versions, or one; NOT_FOUND for an unknown one")
def test_status(toy_server):
    request = get_model_status_pb2.GetModelStatusRequest()
    with stubs(toy_server) as (_, models):
        assert _fails(models.GetModelStatus, request)[0] == grpc.StatusCode.NOT_FOUND
        request.model_spec.name = "toy"
        lines = models.GetModelStatus(request, timeout=300).model_version_status
        assert [(line.version, line.state) for line in lines] == [(2, 30), (1, 30)]
        request.model_spec.version.value = 7
        code, message = _fails(models.GetModelStatus, request)
    assert (code, message) == (grpc.StatusCode.NOT_FOUND, "Could not find version 7 of model toy")


@conforms("a request over the size limit, over gRPC", "RESOURCE_EXHAUSTED")
def test_message_limit(tmp_path):
    save_answer(tmp_path, 1)
    with serving(str(tmp_path), max_body_mb=0.01, rest_api_port=0) as server, stubs(server) as (prediction, _):
        code, message = _fails(prediction.Predict, _request(x=np.ones(5000, np.float32)))
        assert code == grpc.StatusCode.RESOURCE_EXHAUSTED and "larger than max" in message
        assert prediction.Predict(_request(x=[1.0]), timeout=300).outputs["version"].int64_val == [1]
