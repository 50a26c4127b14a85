"""The gRPC interface: PredictionService and ModelService of tensorflow-serving-api.

Source: tensorflow/serving main.cc, model_service_impl.cc, get_model_metadata_impl.cc, get_model_status_impl.cc.
"""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import grpc
from google.protobuf.message import DecodeError
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    inference_pb2,
    model_management_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
    regression_pb2,
)
from tensorflow_serving.config import model_server_config_pb2

from longretriever_tf.serving.server import status_protos, tensor_protos
from longretriever_tf.serving.server.limits import DEFAULT_LIMITS, RequestLimits
from longretriever_tf.serving.server.manager import ModelManager
from longretriever_tf.serving.server.metrics import Metrics
from longretriever_tf.serving.server.predict import IsWanted, Runner, find_signature, nobody_waits, predict
from longretriever_tf.serving.server.rest import wrong_method
from longretriever_tf.serving.server.status import ServingError, from_exception, invalid

_CODES = {code.value[0]: code for code in grpc.StatusCode}
_MAX_DETAILS = 3000
Reload = Callable[[model_server_config_pb2.ModelServerConfig], None]


class PredictionService(prediction_service_pb2_grpc.PredictionServiceServicer):
    """Predict and GetModelMetadata; the calls on tf.Example answer as for any SavedModel of TensorFlow 2."""

    def __init__(
        self, manager: ModelManager, runner: Runner, metrics: Metrics, limits: RequestLimits = DEFAULT_LIMITS
    ) -> None:
        self._manager, self._runner, self._metrics, self._limits = manager, runner, metrics, limits

    def Predict(  # noqa: N802 - the name in the protocol
        self, request: predict_pb2.PredictRequest, context: grpc.ServicerContext
    ) -> predict_pb2.PredictResponse:
        start = time.monotonic()
        code = "OK"
        try:
            return self._predict(request, context.is_active)
        except Exception as error:
            failure = from_exception(error)
            code = failure.code
            _abort(context, failure)
        finally:
            self._record(request.model_spec.name, code, time.monotonic() - start)

    def GetModelMetadata(  # noqa: N802
        self, request: get_model_metadata_pb2.GetModelMetadataRequest, context: grpc.ServicerContext
    ) -> get_model_metadata_pb2.GetModelMetadataResponse:
        try:
            return self._metadata(request)
        except Exception as error:
            _abort(context, from_exception(error))

    def Classify(self, request: Any, context: grpc.ServicerContext) -> None:  # noqa: N802
        _abort(context, wrong_method("classify"))

    def Regress(self, request: Any, context: grpc.ServicerContext) -> None:  # noqa: N802
        _abort(context, wrong_method("regress"))

    def MultiInference(self, request: Any, context: grpc.ServicerContext) -> None:  # noqa: N802
        _abort(context, wrong_method("classify"))

    def _predict(self, request: predict_pb2.PredictRequest, is_wanted: IsWanted) -> predict_pb2.PredictResponse:
        if not is_wanted():
            raise nobody_waits()
        if not request.HasField("model_spec"):
            raise invalid("Missing ModelSpec")
        response = predict_pb2.PredictResponse()
        with self._manager.servable(*_choice(request.model_spec)) as model:
            signature = find_signature(model, request.model_spec.signature_name)
            inputs = tensor_protos.arrays_of(request.inputs, self._limits)
            start = time.monotonic()
            filters = request.output_filter
            outputs = predict(self._runner, model, signature, inputs, filters, self._limits, is_wanted)
            self._metrics.observe("runtime_latency", (time.monotonic() - start) * 1e6, model.name, "Predict", "TF1")
            response.model_spec.name = model.name
            response.model_spec.version.value = model.version
            response.model_spec.signature_name = signature.name
        for name, array in outputs.items():
            tensor_protos.fill(response.outputs[name], array)
        return response

    def _metadata(
        self, request: get_model_metadata_pb2.GetModelMetadataRequest
    ) -> get_model_metadata_pb2.GetModelMetadataResponse:
        if not request.HasField("model_spec"):
            raise invalid("Missing ModelSpec")
        if not request.metadata_field:
            raise invalid("GetModelMetadataRequest must specify at least one metadata_field")
        for field in request.metadata_field:
            if field != status_protos.SIGNATURE_DEF:
                raise invalid(f"Metadata field {field} is not supported")
        with self._manager.servable(*_choice(request.model_spec)) as model:
            return status_protos.metadata_proto(model)

    def _record(self, name: str, code: str, seconds: float) -> None:
        name = name if name in self._manager.model_names() else "(unknown)"
        self._metrics.count("request_count", name, code)
        if code == "OK":
            self._metrics.observe("request_latency", seconds * 1e6, name, "predict", "GRPC")


class ModelService(model_service_pb2_grpc.ModelServiceServicer):
    """GetModelStatus and HandleReloadConfigRequest."""

    def __init__(self, manager: ModelManager, reload: Reload) -> None:
        self._manager, self._reload = manager, reload

    def GetModelStatus(  # noqa: N802
        self, request: get_model_status_pb2.GetModelStatusRequest, context: grpc.ServicerContext
    ) -> get_model_status_pb2.GetModelStatusResponse:
        try:
            if not request.HasField("model_spec"):
                raise invalid("Missing ModelSpec")
            name, version, _ = _choice(request.model_spec)  # a label is not looked at: all versions are listed
            return status_protos.status_proto(self._manager.status(name, version))
        except Exception as error:
            _abort(context, from_exception(error))

    def HandleReloadConfigRequest(  # noqa: N802
        self, request: model_management_pb2.ReloadConfigRequest, context: grpc.ServicerContext
    ) -> model_management_pb2.ReloadConfigResponse:
        try:
            if request.config.WhichOneof("config") != "model_config_list":
                raise invalid(
                    "ServerModelConfig type not supported by HandleReloadConfigRequest. Only ModelConfigList is "
                    "currently supported"
                )
            self._reload(request.config)
        except Exception as error:
            _abort(context, from_exception(error))
        return model_management_pb2.ReloadConfigResponse()


def _choice(spec: Any) -> tuple[str, int | None, str]:
    return spec.name, spec.version.value if spec.HasField("version") else None, spec.version_label


def _abort(context: grpc.ServicerContext, error: ServingError) -> Any:
    # Details travel in a header of few kilobytes; what a request holds may be no UTF-8.
    plain = error.message.encode("utf-8", "replace").decode()
    context.abort(_CODES[error.number], plain if len(plain) <= _MAX_DETAILS else plain[:_MAX_DETAILS] + "...")


class Pools(NamedTuple):
    """Threads for the model's work; for what never waits for it; and for loading a config."""

    model: ThreadPoolExecutor
    quick: ThreadPoolExecutor
    reload: ThreadPoolExecutor


def add_services(server: grpc.Server, prediction: PredictionService, models: ModelService, pools: Pools) -> None:
    """Registers every method with its own pool.

    Not by the generated functions: their methods share one pool, and a request that cannot be parsed is INTERNAL and a
    traceback in the log.
    """
    methods = {
        "tensorflow.serving.PredictionService": {
            "Predict": _method(prediction.Predict, predict_pb2.PredictRequest, pools.model),
            "GetModelMetadata": _method(
                prediction.GetModelMetadata, get_model_metadata_pb2.GetModelMetadataRequest, pools.quick
            ),
            "Classify": _method(prediction.Classify, classification_pb2.ClassificationRequest, pools.quick),
            "Regress": _method(prediction.Regress, regression_pb2.RegressionRequest, pools.quick),
            "MultiInference": _method(prediction.MultiInference, inference_pb2.MultiInferenceRequest, pools.quick),
        },
        "tensorflow.serving.ModelService": {
            "GetModelStatus": _method(models.GetModelStatus, get_model_status_pb2.GetModelStatusRequest, pools.quick),
            "HandleReloadConfigRequest": _method(
                models.HandleReloadConfigRequest, model_management_pb2.ReloadConfigRequest, pools.reload
            ),
        },
    }
    for service, handlers in methods.items():
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, handlers),))


def _method(behavior: Callable[[Any, Any], Any], request_type: Any, pool: ThreadPoolExecutor) -> grpc.RpcMethodHandler:
    def call(raw: bytes, context: grpc.ServicerContext) -> Any:
        try:
            request = request_type.FromString(raw)
        except DecodeError:
            return _abort(
                context, invalid(f"the request is no {request_type.DESCRIPTOR.full_name}: it cannot be parsed")
            )
        return behavior(request, context)

    setattr(call, "experimental_thread_pool", pool)  # noqa: B010 - where grpcio looks for it
    return grpc.unary_unary_rpc_method_handler(call, None, lambda message: message.SerializeToString())
