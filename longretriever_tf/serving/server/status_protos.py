"""The replies that both transports share: model status and metadata, as protos and as TensorFlow Serving's JSON."""

from typing import Any

from google.protobuf import json_format
from tensorflow_serving.apis import get_model_metadata_pb2, get_model_status_pb2

from longretriever_tf.serving.server.loaded import LoadedModel
from longretriever_tf.serving.server.manager import VersionStatus
from longretriever_tf.serving.server.status import CODES

SIGNATURE_DEF = "signature_def"
"""The one metadata field there is."""


def status_proto(statuses: list[VersionStatus]) -> get_model_status_pb2.GetModelStatusResponse:
    """GetModelStatusResponse."""
    response = get_model_status_pb2.GetModelStatusResponse()
    for status in statuses:
        line = response.model_version_status.add(
            version=status.version, state=get_model_status_pb2.ModelVersionStatus.State.Value(status.state)
        )
        line.status.error_code = CODES[status.code]
        line.status.error_message = status.message
    return response


def metadata_proto(model: LoadedModel) -> get_model_metadata_pb2.GetModelMetadataResponse:
    """GetModelMetadataResponse: the model's name, version, and every SignatureDef."""
    response = get_model_metadata_pb2.GetModelMetadataResponse()
    response.model_spec.name = model.name
    response.model_spec.version.value = model.version
    response.metadata[SIGNATURE_DEF].Pack(_signature_map(model))
    return response


def status_json(statuses: list[VersionStatus]) -> bytes:
    """The status reply's body."""
    return (_json(status_proto(statuses)) + "\n").encode()


def metadata_json(model: LoadedModel) -> bytes:
    """The metadata reply's body: the packed map is written out, which protobuf's own JSON of the reply would not do."""
    spec = _json(metadata_proto(model).model_spec)
    signatures = _json(_signature_map(model))
    return f'{{\n"model_spec":{spec}\n,\n"metadata": {{"signature_def": {signatures}\n}}\n}}\n'.encode()


def _signature_map(model: LoadedModel) -> get_model_metadata_pb2.SignatureDefMap:
    signatures = get_model_metadata_pb2.SignatureDefMap()
    for name, signature in model.signatures.items():
        signatures.signature_def[name].CopyFrom(signature.proto)
    return signatures


def _json(message: Any) -> str:
    return json_format.MessageToJson(
        message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True, indent=1
    )
