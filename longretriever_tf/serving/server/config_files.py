"""The text protos that tensorflow_model_server reads: models.config and monitoring.config."""

import os
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format
from tensorflow_serving.config import model_server_config_pb2

from longretriever_tf.common.errors import UserError

PROMETHEUS_PATH = "/monitoring/prometheus/metrics"
"""Where TensorFlow Serving serves its metrics unless the monitoring config names another path."""

# Of monitoring_config.proto, which the tensorflow-serving-api package lacks.
_MONITORING = """
name: "monitoring_config.proto" syntax: "proto3"
message_type {
  name: "PrometheusConfig"
  field { name: "enable" number: 1 type: TYPE_BOOL label: LABEL_OPTIONAL }
  field { name: "path" number: 2 type: TYPE_STRING label: LABEL_OPTIONAL }
}
message_type {
  name: "MonitoringConfig"
  field { name: "prometheus_config" number: 1 type: TYPE_MESSAGE label: LABEL_OPTIONAL type_name: ".PrometheusConfig" }
}
"""


def read_models(path: str) -> model_server_config_pb2.ModelServerConfig:
    """A models.config file, checked.

    Raises:
      UserError: no such file, not a ModelServerConfig in text form, or a model that cannot be served.
    """
    config = _read(path, model_server_config_pb2.ModelServerConfig(), "--model_config_file")
    seen: set[str] = set()
    for model in config.model_config_list.config:
        if not model.name:
            raise UserError(f'{path}: a model has no name; write config {{ name: "..." base_path: "/..." }}')
        if model.name in seen:
            raise UserError(f"{path}: model {model.name} is listed twice; give each model a name of its own")
        seen.add(model.name)
        if not os.path.isabs(model.base_path):
            raise UserError(f"{path}: model {model.name}: base_path must be absolute; received {model.base_path!r}")
    if not seen:
        raise UserError(f"{path}: it lists no model; write model_config_list {{ config {{ ... }} }}")
    return config


def one_model(name: str, base_path: str) -> model_server_config_pb2.ModelServerConfig:
    """What --model_name and --model_base_path mean: the latest version of one model."""
    config = model_server_config_pb2.ModelServerConfig()
    config.model_config_list.config.add(name=name, base_path=os.path.abspath(base_path))
    return config


def read_monitoring(path: str) -> str | None:
    """The path on which metrics are served, or None: no file given, or not enabled in it.

    Raises:
      UserError: no such file, or not a MonitoringConfig in text form.
    """
    if not path:
        return None
    pool = descriptor_pool.DescriptorPool()
    pool.Add(text_format.Parse(_MONITORING, descriptor_pb2.FileDescriptorProto()))
    message = message_factory.GetMessageClass(pool.FindMessageTypeByName("MonitoringConfig"))()
    prometheus = _read(path, message, "--monitoring_config_file").prometheus_config
    return (prometheus.path or PROMETHEUS_PATH) if prometheus.enable else None


def _read(path: str, message: Any, flag: str) -> Any:
    try:
        with open(path, encoding="utf-8") as file:
            return text_format.Parse(file.read(), message)
    except OSError as error:
        raise UserError(f"{flag}={path}: {error.strerror}; name a readable file") from error
    except (text_format.ParseError, UnicodeDecodeError) as error:
        raise UserError(
            f"{flag}={path} is no {message.DESCRIPTOR.name} in text form, at line:column {error}"
        ) from error
