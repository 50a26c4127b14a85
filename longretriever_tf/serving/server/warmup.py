"""Replays the requests that an export brings along, so that no user's request is a model's first."""

import os
import time

import tensorflow as tf
from tensorflow_serving.apis import prediction_log_pb2

from longretriever_tf.serving.server.loaded import LoadedModel
from longretriever_tf.serving.server.metrics import Metrics
from longretriever_tf.serving.server.predict import DirectRunner, find_signature, predict
from longretriever_tf.serving.server.status import ServingError, invalid
from longretriever_tf.serving.server.tensor_protos import arrays_of

WARMUP_FILE = os.path.join("assets.extra", "tf_serving_warmup_requests")
"""Where TensorFlow Serving looks within a version directory: a TFRecord file of PredictionLog."""

MAX_RECORDS = 1000
"""More are refused, as TensorFlow Serving refuses them."""


def warm_up(model: LoadedModel, metrics: Metrics) -> int:
    """Replays the warm-up requests, if there are any; returns how many.

    Raises:
      ServingError: a record that cannot be read, or a request that fails: the version must then not be served.
    """
    path = os.path.join(model.path, WARMUP_FILE)
    if not os.path.exists(path):
        return 0
    start = time.monotonic()
    code = "OK"
    try:
        return _replay(model, path)
    except ServingError as error:
        code = error.code
        raise
    finally:
        metrics.observe("warmup_latency", (time.monotonic() - start) * 1e6, model.path, code)


def _replay(model: LoadedModel, path: str) -> int:
    count = 0
    try:
        for record in tf.data.TFRecordDataset(path).as_numpy_iterator():
            count += 1
            if count > MAX_RECORDS:
                raise invalid(f"Number of warmup records exceeds the maximum ({MAX_RECORDS}) at {path}")
            _replay_one(model, prediction_log_pb2.PredictionLog.FromString(record))
    except tf.errors.DataLossError as error:
        message = f"{error.message}. Please verify your warmup data is in TFRecord format."
        raise ServingError("DATA_LOSS", message) from error
    return count


def _replay_one(model: LoadedModel, log: prediction_log_pb2.PredictionLog) -> None:
    kind = log.WhichOneof("log_type")
    if kind != "predict_log":
        raise ServingError("UNIMPLEMENTED", f"Unsupported log_type for warmup: {kind}; this server replays predict_log")
    request = log.predict_log.request
    signature = find_signature(model, request.model_spec.signature_name)
    predict(DirectRunner(), model, signature, arrays_of(request.inputs), request.output_filter)
