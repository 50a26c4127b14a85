"""The gRPC interface: Predict, GetModelMetadata and GetModelStatus of tensorflow-serving-api."""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
from google.protobuf.message import DecodeError
from tensorflow_serving.apis import get_model_metadata_pb2, get_model_status_pb2, predict_pb2

from longretriever_tf.serving.server import status_protos, tensors
from longretriever_tf.serving.server.limits import DEFAULT_LIMITS, RequestLimits
from longretriever_tf.serving.server.manager import ModelManager
from longretriever_tf.serving.server.metrics import Metrics
from longretriever_tf.serving.server.predict import IsWanted, check_wanted, predict
from longretriever_tf.serving.server.status import ServingError, from_exception, invalid, printable

_MAX_DETAILS = 3000


class GrpcApi:
    """Answers requests; thread-safe. Methods take a request and whether the caller still waits."""

    def __init__(self, manager: ModelManager, metrics: Metrics, limits: RequestLimits = DEFAULT_LIMITS) -> None:
        self._manager, self._metrics, self._limits = manager, metrics, limits

    def predict(self, request: predict_pb2.PredictRequest, is_wanted: IsWanted) -> predict_pb2.PredictResponse:
        """Predict, counted and timed."""
        start, code = time.monotonic(), "OK"
        try:
            return self._predict(request, is_wanted)
        except Exception as error:
            code = from_exception(error).code
            raise
        finally:
            name, seconds = request.model_spec.name, time.monotonic() - start
            self._metrics.record_request(self._manager.model_names(), name, code, seconds, "GRPC")

    def metadata(
        self, request: get_model_metadata_pb2.GetModelMetadataRequest, is_wanted: IsWanted
    ) -> get_model_metadata_pb2.GetModelMetadataResponse:
        """GetModelMetadata."""
        del is_wanted
        if list(request.metadata_field) != [status_protos.SIGNATURE_DEF]:
            raise invalid(f"metadata_field must be ['signature_def']; received {list(request.metadata_field)}")
        with self._manager.servable(*_choice(request.model_spec)) as model:
            protos = {name: signature.proto for name, signature in model.signatures.items()}
            return status_protos.metadata_proto(model.name, model.version, protos)

    def status(
        self, request: get_model_status_pb2.GetModelStatusRequest, is_wanted: IsWanted
    ) -> get_model_status_pb2.GetModelStatusResponse:
        """GetModelStatus: a label is not looked at, all versions are listed."""
        del is_wanted
        name, version, _ = _choice(request.model_spec)
        return status_protos.status_proto(self._manager.status(name, version))

    def _predict(self, request: predict_pb2.PredictRequest, is_wanted: IsWanted) -> predict_pb2.PredictResponse:
        check_wanted(is_wanted)
        response = predict_pb2.PredictResponse()
        with self._manager.servable(*_choice(request.model_spec)) as model:
            signature = model.signature(request.model_spec.signature_name)
            inputs = tensors.arrays_of(request.inputs, self._limits)
            with self._metrics.timed("runtime_latency", model.name, "Predict", "TF1"):
                outputs = predict(model, signature, inputs, request.output_filter, self._limits, is_wanted)
            response.model_spec.name = model.name
            response.model_spec.version.value = model.version
            response.model_spec.signature_name = signature.name
        for name, array in outputs.items():
            tensors.fill(response.outputs[name], array)
        return response


def _choice(spec: Any) -> tuple[str, int | None, str]:
    return spec.name, spec.version.value if spec.HasField("version") else None, spec.version_label


def add_services(server: grpc.Server, api: GrpcApi, model_pool: ThreadPoolExecutor) -> None:
    """Registers the methods; Predict has a pool of its own, so that status and metadata never wait for the model.

    Not by the generated functions: their methods share one pool, and a request that cannot be parsed is INTERNAL and a
    traceback in the log.
    """
    methods = {
        "PredictionService": {
            "Predict": _method(api.predict, predict_pb2.PredictRequest, model_pool),
            "GetModelMetadata": _method(api.metadata, get_model_metadata_pb2.GetModelMetadataRequest),
        },
        "ModelService": {"GetModelStatus": _method(api.status, get_model_status_pb2.GetModelStatusRequest)},
    }
    for service, handlers in methods.items():
        handler = grpc.method_handlers_generic_handler(f"tensorflow.serving.{service}", handlers)
        server.add_generic_rpc_handlers((handler,))


def _method(
    answer: Callable[[Any, IsWanted], Any], request_type: Any, pool: ThreadPoolExecutor | None = None
) -> grpc.RpcMethodHandler:
    def call(raw: bytes, context: grpc.ServicerContext) -> Any:
        try:
            return answer(request_type.FromString(raw), context.is_active)
        except DecodeError:
            _abort(context, invalid(f"the request cannot be parsed as {request_type.DESCRIPTOR.full_name}"))
        except Exception as error:
            _abort(context, from_exception(error))

    if pool is not None:
        setattr(call, "experimental_thread_pool", pool)  # noqa: B010 - where grpcio looks for it
    return grpc.unary_unary_rpc_method_handler(call, None, lambda message: message.SerializeToString())


def _abort(context: grpc.ServicerContext, error: ServingError) -> None:
    # Details travel in a header of few kilobytes.
    message = printable(error.message)
    details = message if len(message) <= _MAX_DETAILS else message[:_MAX_DETAILS] + "..."
    context.abort(grpc.StatusCode[error.code], details)
