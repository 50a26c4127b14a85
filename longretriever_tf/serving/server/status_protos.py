"""Model status and metadata, as the protos and the JSON of TensorFlow Serving."""

from collections.abc import Iterable, Mapping
from typing import Any

import grpc
import orjson
from google.protobuf import json_format
from tensorflow_serving.apis import get_model_metadata_pb2, get_model_status_pb2

from longretriever_tf.serving.server.status import VersionStatus

SIGNATURE_DEF = "signature_def"
"""The only metadata field there is."""


def status_proto(statuses: Iterable[VersionStatus]) -> get_model_status_pb2.GetModelStatusResponse:
    """The answer to GetModelStatus."""
    response = get_model_status_pb2.GetModelStatusResponse()
    for status in statuses:
        state = get_model_status_pb2.ModelVersionStatus.State.Value(status.state)
        line = response.model_version_status.add(version=status.version, state=state)
        line.status.error_code = 0 if status.error is None else grpc.StatusCode[status.error.code].value[0]
        line.status.error_message = "" if status.error is None else status.error.message
    return response


def metadata_proto(
    name: str, version: int, signatures: Mapping[str, Any]
) -> get_model_metadata_pb2.GetModelMetadataResponse:
    """The answer to GetModelMetadata: the model's name, its version and every SignatureDef."""
    response = get_model_metadata_pb2.GetModelMetadataResponse()
    response.model_spec.name = name
    response.model_spec.version.value = version
    response.metadata[SIGNATURE_DEF].Pack(_signature_map(signatures))
    return response


def status_json(statuses: Iterable[VersionStatus]) -> bytes:
    """The body of a status reply."""
    return orjson.dumps(_plain(status_proto(statuses)))


def metadata_json(name: str, version: int, signatures: Mapping[str, Any]) -> bytes:
    """The body of a metadata reply: the packed map of signatures is written out."""
    spec = _plain(metadata_proto(name, version, signatures).model_spec)
    return orjson.dumps({"model_spec": spec, "metadata": {SIGNATURE_DEF: _plain(_signature_map(signatures))}})


def _signature_map(signatures: Mapping[str, Any]) -> get_model_metadata_pb2.SignatureDefMap:
    packed = get_model_metadata_pb2.SignatureDefMap()
    for name, proto in signatures.items():
        packed.signature_def[name].CopyFrom(proto)
    return packed


def _plain(message: Any) -> dict[str, Any]:
    return json_format.MessageToDict(
        message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )
