"""The text protos that tensorflow_model_server reads: models.config, batching parameters, monitoring.

Two of the three message types are not in the tensorflow-serving-api package; they are declared here field by field,
with the numbers and names of session_bundle_config.proto and monitoring_config.proto.
"""

import dataclasses
import os
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format, wrappers_pb2
from tensorflow_serving.config import model_server_config_pb2

from longretriever_tf.common.errors import UserError

PROMETHEUS_PATH = "/monitoring/prometheus/metrics"
"""Where TensorFlow Serving serves its metrics unless the monitoring config names another path."""

_FIELD = descriptor_pb2.FieldDescriptorProto
_PACKAGE = "longretriever_tf.serving"
_MESSAGES = {
    "BatchingParameters": [
        ("max_batch_size", 1, "google.protobuf.Int64Value"),
        ("batch_timeout_micros", 2, "google.protobuf.Int64Value"),
        ("max_enqueued_batches", 3, "google.protobuf.Int64Value"),
        ("num_batch_threads", 4, "google.protobuf.Int64Value"),
        ("thread_pool_name", 5, "google.protobuf.StringValue"),
        ("allowed_batch_sizes", 6, "repeated int64"),
        ("pad_variable_length_inputs", 7, "bool"),
        ("enable_large_batch_splitting", 8, "google.protobuf.BoolValue"),
        ("max_execution_batch_size", 9, "google.protobuf.Int64Value"),
    ],
    "PrometheusConfig": [("enable", 1, "bool"), ("path", 2, "string")],
    "MonitoringConfig": [("prometheus_config", 1, f"{_PACKAGE}.PrometheusConfig")],
}


@dataclasses.dataclass(frozen=True)
class BatchingOptions:
    """How requests are gathered; names and defaults are those of TensorFlow Serving's BatchingParameters.

    Attributes:
      max_batch_size: rows per batch; a larger request is split.
      batch_timeout_micros: how long a batch that is not full waits for more rows.
      max_enqueued_batches: per signature; beyond it a request fails with UNAVAILABLE.
      num_batch_threads: batches that run at once.
      allowed_batch_sizes: a batch is filled up to the next of these by repeating a row; empty: never.
      pad_variable_length_inputs: requests of unequal length share a batch, each padded by its own first element.
    """

    max_batch_size: int = 1000
    batch_timeout_micros: int = 0
    max_enqueued_batches: int = 10
    num_batch_threads: int = os.cpu_count() or 1
    allowed_batch_sizes: tuple[int, ...] = ()
    pad_variable_length_inputs: bool = False


def read_models(path: str) -> model_server_config_pb2.ModelServerConfig:
    """A models.config file; its models are checked by `check_models`.

    Raises:
      UserError: no such file, or not a ModelServerConfig in text form.
    """
    config = _read(path, model_server_config_pb2.ModelServerConfig(), "--model_config_file")
    check_models(config)
    return config


def one_model(name: str, base_path: str) -> model_server_config_pb2.ModelServerConfig:
    """What --model_name and --model_base_path mean: the latest version of one model."""
    config = model_server_config_pb2.ModelServerConfig()
    config.model_config_list.config.add(name=name, base_path=os.path.abspath(base_path), model_platform="tensorflow")
    check_models(config)
    return config


def check_models(config: model_server_config_pb2.ModelServerConfig) -> None:
    """Refuses what TensorFlow Serving refuses: no name, a name twice, no or a relative base path, another platform.

    Raises:
      UserError: names the model and the field.
    """
    seen: set[str] = set()
    for model in config.model_config_list.config:
        if not model.name:
            raise UserError('a model in the config has no name; write config { name: "..." base_path: "/..." }')
        if model.name in seen:
            raise UserError(f"Illegal to list model {model.name} multiple times in config list")
        seen.add(model.name)
        if not os.path.isabs(model.base_path):
            raise UserError(
                f"Expected model {model.name} to have an absolute path or URI; got base_path()={model.base_path!r}"
            )
        if model.model_platform not in ("tensorflow", ""):
            raise UserError(
                f"model {model.name}: model_platform is {model.model_platform!r}; this server has 'tensorflow' alone"
            )


def read_batching(path: str) -> BatchingOptions:
    """A batching parameters file; an empty path gives the defaults.

    Raises:
      UserError: unreadable, or sizes that contradict one another.
    """
    if not path:
        return BatchingOptions()
    proto = _read(path, _message("BatchingParameters"), "--batching_parameters_file")
    given: dict[str, Any] = {
        name: getattr(proto, name).value
        for name in ("max_batch_size", "batch_timeout_micros", "max_enqueued_batches", "num_batch_threads")
        if proto.HasField(name)
    }
    options = BatchingOptions(
        **given,
        allowed_batch_sizes=tuple(proto.allowed_batch_sizes),
        pad_variable_length_inputs=proto.pad_variable_length_inputs,
    )
    for name in ("max_batch_size", "max_enqueued_batches", "num_batch_threads"):
        if getattr(options, name) < 1:
            raise UserError(f"{path}: {name} is {getattr(options, name)}; it must be 1 or more")
    sizes = options.allowed_batch_sizes
    if sizes and (list(sizes) != sorted(set(sizes)) or sizes[0] < 1 or sizes[-1] != options.max_batch_size):
        raise UserError(
            f"{path}: allowed_batch_sizes is {list(sizes)}; entries must rise, and the last must equal "
            f"max_batch_size, here {options.max_batch_size}"
        )
    return options


def read_monitoring(path: str) -> str | None:
    """The path on which metrics are served, or None: no file given, or not enabled in it."""
    if not path:
        return None
    prometheus = _read(path, _message("MonitoringConfig"), "--monitoring_config_file").prometheus_config
    return (prometheus.path or PROMETHEUS_PATH) if prometheus.enable else None


def _read(path: str, message: Any, flag: str) -> Any:
    try:
        with open(path, encoding="utf-8") as file:
            return text_format.Parse(file.read(), message)
    except OSError as error:
        raise UserError(f"{flag}={path}: {error.strerror}; name a readable file") from error
    except (text_format.ParseError, UnicodeDecodeError) as error:
        raise UserError(
            f"{flag}: Invalid protobuf file: '{path}': {error} (line:column: what); "
            f"it must hold one {message.DESCRIPTOR.name} in text form"
        ) from error


def _message(name: str) -> Any:
    pool = descriptor_pool.Default()
    full_name = f"{_PACKAGE}.{name}"
    try:
        descriptor = pool.FindMessageTypeByName(full_name)
    except KeyError:
        pool.Add(_declare())
        descriptor = pool.FindMessageTypeByName(full_name)
    return message_factory.GetMessageClass(descriptor)()


def _declare() -> descriptor_pb2.FileDescriptorProto:
    file = descriptor_pb2.FileDescriptorProto(
        name="longretriever_tf/serving/config_files.proto",
        package=_PACKAGE,
        syntax="proto3",
        dependency=[wrappers_pb2.DESCRIPTOR.name],
    )
    scalars = {"int64": _FIELD.TYPE_INT64, "bool": _FIELD.TYPE_BOOL, "string": _FIELD.TYPE_STRING}
    for message, fields in _MESSAGES.items():
        declared = file.message_type.add(name=message)
        for name, number, kind in fields:
            repeated = kind.startswith("repeated ")
            kind = kind.removeprefix("repeated ")
            field = declared.field.add(
                name=name, number=number, label=_FIELD.LABEL_REPEATED if repeated else _FIELD.LABEL_OPTIONAL
            )
            field.type = scalars.get(kind, _FIELD.TYPE_MESSAGE)
            if kind not in scalars:
                field.type_name = f".{kind}"
    return file
