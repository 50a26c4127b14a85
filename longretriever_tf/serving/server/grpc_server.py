"""The gRPC interface: Predict, GetModelMetadata and GetModelStatus of tensorflow-serving-api, on a port."""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
from google.protobuf.message import DecodeError
from tensorflow_serving.apis import get_model_metadata_pb2, get_model_status_pb2, predict_pb2

from longretriever_tf.serving.server import status_protos, tensors
from longretriever_tf.serving.server.limits import RequestLimits
from longretriever_tf.serving.server.manager import ModelManager
from longretriever_tf.serving.server.metrics import Metrics
from longretriever_tf.serving.server.options import ServerOptions
from longretriever_tf.serving.server.predict import predict
from longretriever_tf.serving.server.status import ServingError, from_exception, invalid, printable

_MAX_DETAILS = 3000


class GrpcApi:
    """Answers requests; thread-safe."""

    def __init__(self, manager: ModelManager, metrics: Metrics, limits: RequestLimits) -> None:
        self._manager, self._metrics, self._limits = manager, metrics, limits

    def predict(self, request: predict_pb2.PredictRequest) -> predict_pb2.PredictResponse:
        """Predict, counted and timed."""
        with self._metrics.request(self._manager.model_names(), request.model_spec.name, "GRPC"):
            with self._manager.servable(*_choice(request.model_spec)) as model:
                signature = model.signature(request.model_spec.signature_name)
                inputs = tensors.arrays_of(request.inputs, self._limits)
                outputs = predict(model, signature, inputs, request.output_filter, self._limits)
            response = predict_pb2.PredictResponse()
            response.model_spec.name = model.name
            response.model_spec.version.value = model.version
            response.model_spec.signature_name = signature.name
            for name, array in outputs.items():
                tensors.fill(response.outputs[name], array)
            return response

    def metadata(
        self, request: get_model_metadata_pb2.GetModelMetadataRequest
    ) -> get_model_metadata_pb2.GetModelMetadataResponse:
        """GetModelMetadata."""
        if list(request.metadata_field) != [status_protos.SIGNATURE_DEF]:
            raise invalid(f"metadata_field must be ['signature_def']; received {list(request.metadata_field)}")
        with self._manager.servable(*_choice(request.model_spec)) as model:
            protos = {name: signature.proto for name, signature in model.signatures.items()}
            return status_protos.metadata_proto(model.name, model.version, protos)

    def status(
        self, request: get_model_status_pb2.GetModelStatusRequest
    ) -> get_model_status_pb2.GetModelStatusResponse:
        """GetModelStatus: a label is not looked at, all versions are listed."""
        name, version, _ = _choice(request.model_spec)
        return status_protos.status_proto(self._manager.status(name, version))


class GrpcServer:
    """Serves until `stop`; `port` is the port that it listens on."""

    def __init__(self, api: GrpcApi, options: ServerOptions) -> None:
        """Starts to listen.

        Raises:
          RuntimeError: the port is taken, or the host is not this machine's.
        """
        # Before grpc's core starts, which would write a line for every connection that it could not accept.
        os.environ.setdefault("GRPC_VERBOSITY", "NONE")
        self._grace_s = options.shutdown_grace_seconds
        quick = ThreadPoolExecutor(2, thread_name_prefix="grpc-quick")
        model = ThreadPoolExecutor(options.num_threads, thread_name_prefix="grpc")
        self._pools = (quick, model)
        self._server = grpc.server(
            quick, options=_channel_options(options), maximum_concurrent_rpcs=options.connection_limit or None
        )
        _add_services(self._server, api, model)
        self.port = self._server.add_insecure_port(f"{options.host}:{max(options.port, 0)}")
        self._server.start()

    def stop(self) -> None:
        """Takes no new call, lets those in flight finish within the grace, then cancels them."""
        self._server.stop(self._grace_s).wait(self._grace_s + 1.0)
        for pool in self._pools:
            pool.shutdown(wait=False, cancel_futures=True)


def _channel_options(options: ServerOptions) -> list[tuple[str, int]]:
    chosen = [
        ("grpc.so_reuseport", 0),  # else a second server would share the port, and half the requests, unnoticed
        ("grpc.max_receive_message_length", options.max_body),
        ("grpc.max_send_message_length", -1),
    ]
    if limit := options.connection_limit:
        chosen += [("grpc.max_allowed_incoming_connections", limit), ("grpc.max_concurrent_streams", limit)]
    if options.rest_api_read_timeout_seconds:
        timeout_ms = max(int(options.rest_api_read_timeout_seconds * 1000), 1)
        chosen += [
            ("grpc.server_handshake_timeout_ms", timeout_ms),
            # A peer that does not answer a ping is gone; one that asks nothing for long is told to connect again.
            ("grpc.keepalive_time_ms", timeout_ms),
            ("grpc.keepalive_timeout_ms", timeout_ms),
            ("grpc.max_connection_idle_ms", 10 * timeout_ms),
        ]
    return chosen


def _choice(spec: Any) -> tuple[str, int | None, str]:
    return spec.name, spec.version.value if spec.HasField("version") else None, spec.version_label


def _add_services(server: grpc.Server, api: GrpcApi, model_pool: ThreadPoolExecutor) -> None:
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
    answer: Callable[[Any], Any], request_type: Any, pool: ThreadPoolExecutor | None = None
) -> grpc.RpcMethodHandler:
    def call(raw: bytes, context: grpc.ServicerContext) -> Any:
        try:
            return answer(request_type.FromString(raw))
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
