"""TensorFlow Serving's gRPC API from the client's side. Its protocol buffers bring TensorFlow along."""

from collections.abc import Callable, Mapping
from typing import Any

import grpc
import numpy as np
import tensorflow as tf
from tensorflow_serving.apis import get_model_metadata_pb2, predict_pb2, prediction_service_pb2_grpc

from longretriever_tf.common.text import is_text
from longretriever_tf.serving.client.input_spec import InputSpec
from longretriever_tf.serving.client.request import Columns
from longretriever_tf.serving.client.transport import CallError, ClientOptions, Model, Signatures

_SIGNATURE_DEF = "signature_def"


class GrpcTransport:
    """Calls over one channel, which threads share."""

    may_omit = True

    def __init__(self, target: str, model: Model, options: ClientOptions) -> None:
        self._target, self._model, self._options = target, model, options
        limits = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
        # Tries are the client's to count: the channel's own would hide how often it asked.
        self._channel = grpc.insecure_channel(target, options=[*limits, ("grpc.enable_retries", 0)])
        self._stub = prediction_service_pb2_grpc.PredictionServiceStub(self._channel)

    def signatures(self) -> Signatures:
        request = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=[_SIGNATURE_DEF])
        self._address(request.model_spec)
        reply = self._call(self._stub.GetModelMetadata, request)
        signatures = get_model_metadata_pb2.SignatureDefMap()
        reply.metadata[_SIGNATURE_DEF].Unpack(signatures)
        return {name: _inputs(signature) for name, signature in signatures.signature_def.items()}

    def prepare(self, signature: str, columns: Columns) -> predict_pb2.PredictRequest:
        request = predict_pb2.PredictRequest()
        self._address(request.model_spec)
        request.model_spec.signature_name = signature
        for name, column in columns.items():
            array, dtype = (column.astype(object), tf.string) if is_text(column) else (column, column.dtype)
            request.inputs[name].CopyFrom(tf.make_tensor_proto(array, dtype, column.shape))
        return request

    def send(self, call: predict_pb2.PredictRequest) -> predict_pb2.PredictResponse:
        return self._call(self._stub.Predict, call)

    def parse(self, reply: predict_pb2.PredictResponse) -> Mapping[str, np.ndarray]:
        return {name: tf.make_ndarray(proto) for name, proto in reply.outputs.items()}

    def close(self) -> None:
        self._channel.close()

    def _address(self, spec: Any) -> None:
        spec.name = self._model.name
        if self._model.version is not None:
            spec.version.value = self._model.version
        elif self._model.label:
            spec.version_label = self._model.label

    def _call(self, method: Callable[..., Any], request: Any) -> Any:
        try:
            return method(request, timeout=self._options.timeout_s)
        except grpc.RpcError as error:
            code = error.code()
            message = f"{error.details() or 'no message'} (gRPC {self._target})"
            raise CallError(code.name, message, is_retryable=code is grpc.StatusCode.UNAVAILABLE) from error


def _inputs(signature: Any) -> dict[str, InputSpec]:
    defaults = {name: tf.make_ndarray(proto) for name, proto in getattr(signature, "defaults", {}).items()}
    return {
        name: InputSpec(f"DT_{tf.as_dtype(info.dtype).name.upper().replace('FLOAT32', 'FLOAT')}", defaults.get(name))
        for name, info in signature.inputs.items()
    }
